"""What the server does with a request: routes, faults, the start and the end of each answer."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from typing import Any

from harness.roofline import NATURAL_LENGTH
from servers import ready
from servers.emulator import kserve, openai
from servers.emulator.answer import Answer
from servers.emulator.faults import Fault, FaultPlan
from servers.emulator.http import Connection, Request
from servers.emulator.metrics import Metrics
from servers.emulator.sources import Source
from servers.emulator.truth import TruthLog, TruthRecord
from servers.emulator.wire import Ask, Format, WireError, response

EXIT_FAULT = 70
"""Exit code of the ``exit_after`` fault."""
WARM_UP_ID = ready.REQUEST_ID
"""Readiness probes and warm-up requests: faults neither strike nor count them."""
REFUSALS = {"429": "rate limit of the emulated API", "500": "emulated failure", "503": "emulated overload"}
CHAT = "/v1/chat/completions"


class App:
    """One server. ``forced_tokens`` overrides every length (``--fixed tokens=N``)."""

    def __init__(
        self,
        model: str,
        source: Source,
        truth: TruthLog,
        faults: FaultPlan,
        seed: int,
        forced_tokens: int | None = None,
    ) -> None:
        self.model = model
        self.ready = False
        self.connections: set[Connection] = set()
        self._source = source
        self._truth = truth
        self._faults = faults
        self._seed = seed
        self._forced_tokens = forced_tokens
        self._started_s = time.time()
        self._number = 0
        self._live: dict[Answer, Connection] = {}
        self._generate = kserve.GenerateFormat(model)
        self.metrics = Metrics(model, source.loads)
        self._pages: dict[str, Callable[[], bytes]] = {
            "/health": self._health,
            "/v1/models": lambda: openai.models(model, self._started_s),
            "/metrics": lambda: response(200, self.metrics.text(), "text/plain; version=0.0.4; charset=utf-8"),
            "/v2/health/live": lambda: response(200, b""),
            "/v2/health/ready": self._health,
            f"/v2/models/{model}": lambda: kserve.model_metadata(model),
            f"/v2/models/{model}/ready": self._health,
        }

    @property
    def generated_tokens(self) -> int:
        return self.metrics.generated_tokens

    @generated_tokens.setter
    def generated_tokens(self, count: int) -> None:
        self.metrics.generated_tokens = count

    @property
    def requests(self) -> int:
        return self._number

    @property
    def start_delay_s(self) -> float:
        """Seconds of the ``slow_start`` fault."""
        return self._faults.start_delay_s

    def work(self) -> None:
        """Do some of what can wait."""
        self._truth.work()

    def connected(self, connection: Connection) -> None:
        self.connections.add(connection)

    def disconnected(self, connection: Connection) -> None:
        self.connections.discard(connection)

    def handle(self, request: Request, connection: Connection) -> None:
        """Route one request."""
        path = request.path
        generates = path == CHAT or (
            path.startswith("/v2/models/") and path.endswith(("/generate", "/generate_stream"))
        )
        allowed = "POST" if generates else "GET"
        if request.method == allowed and generates:
            self._generation(request, connection)
            return
        page = self._pages.get(path)
        if request.method == allowed and page is not None:
            data = page()
        elif generates or page is not None:
            data = _error_of(path)(WireError(405, f"{path} takes {allowed}, not {request.method}"))
        elif path.startswith("/v2/models/"):
            data = kserve.error(WireError(404, f"unknown model or path: '{path}'; this server has '{self.model}'"))
        else:
            data = openai.error(WireError(404, f"no such path: {path}"))
        connection.respond(data, keep_alive=request.keep_alive)

    def first_token(self, answer: Answer, sent_s: float) -> None:
        self.metrics.ttft_s.observe(sent_s - answer.record.received_s)

    def ended(self, answer: Answer) -> None:
        self._source.cancel(answer)
        record = answer.record
        record.output_tokens = answer.produced
        self._truth.write(record)
        if record.outcome == "ok" and record.end_s is not None:
            self.metrics.succeeded(answer.finish_reason)
            self.metrics.e2e_s.observe(record.end_s - record.received_s)
        self._live.pop(answer).done(keep_alive=answer.keep_alive)

    def stop(self) -> None:
        """Log what is still in flight and drop every connection."""
        for answer in tuple(self._live):
            answer.record.output_tokens = answer.produced
            answer.over = True
            self._truth.write(answer.record)
        self._live.clear()
        for connection in tuple(self.connections):
            connection.transport.abort()
        self._truth.close()

    def _health(self) -> bytes:
        return response(200, b"") if self.ready else response(503, b"")

    def _generation(self, request: Request, connection: Connection) -> None:
        request_id = request.headers.get("x-request-id", "")
        probe = request_id == WARM_UP_ID
        number = -1 if probe else self._number
        self._number += not probe
        if self._faults.exit_after is not None and number >= self._faults.exit_after:
            self._truth.close()
            os._exit(EXIT_FAULT)
        record = TruthRecord(request_id, number, request.path, request.received_s)
        fault = None if probe else self._faults.strike(number)
        try:
            if not self.ready:
                raise WireError(503, "the emulated server is still starting")
            ask, wire_format = self._parse(request, number)
            record.prompt_tokens = ask.prompt_tokens
            record.asked_tokens = ask.max_tokens
            if fault is not None and fault.name in REFUSALS:
                record.fault = fault.name
                raise WireError(int(fault.name), REFUSALS[fault.name], retry_after_s=fault.keys.get("retry_after"))
            self._source.check(ask)
        except WireError as wrong:
            record.status = wrong.status
            record.outcome = "refused"
            connection.respond(_error_of(request.path)(wrong), keep_alive=request.keep_alive)
            record.end_s = time.monotonic()
            self._truth.write(record)
            return
        self._begin(request, connection, ask, wire_format, record, fault)

    def _begin(
        self,
        request: Request,
        connection: Connection,
        ask: Ask,
        wire_format: Format,
        record: TruthRecord,
        fault: Fault | None,
    ) -> None:
        tokens = self._answer_tokens(ask, record)
        record.fault = "" if fault is None else fault.name
        record.output_tokens = tokens
        answer = Answer(self, connection.transport, wire_format, ask, tokens, record, fault, request.keep_alive)
        self._live[answer] = connection
        self.metrics.prompt_tokens += ask.prompt_tokens
        connection.stream(answer)
        answer.start()
        self._source.start(answer)

    def _parse(self, request: Request, number: int) -> tuple[Ask, Format]:
        try:
            body: Any = json.loads(request.body)
        except ValueError as wrong:
            raise WireError(400, f"the body is not JSON: {wrong}") from None
        if not isinstance(body, dict):
            raise WireError(400, "the body must be a JSON object")
        if request.path == CHAT:
            ask = self._source.recall(openai.parse(body, self.model))
            return ask, openai.ChatFormat(ask, self.model, number)
        name, _, verb = request.path.removeprefix("/v2/models/").rpartition("/")
        if name != self.model:
            raise WireError(404, f"unknown model: '{name}' is not found; this server has '{self.model}'")
        return kserve.parse(body, stream=verb == "generate_stream"), self._generate

    def _answer_tokens(self, ask: Ask, record: TruthRecord) -> int:
        """Draw the length: a natural end where the client leaves it to the model."""
        if self._forced_tokens is not None:
            return self._forced_tokens
        if ask.ignore_eos:
            return ask.max_tokens
        rng = random.Random(f"{self._seed}/length/{record.request_id or record.number}")
        natural = round(ask.max_tokens * rng.uniform(*NATURAL_LENGTH))
        return min(ask.max_tokens, max(1, ask.min_tokens, natural))


def _error_of(path: str) -> Callable[[WireError], bytes]:
    return kserve.error if path.startswith("/v2/") else openai.error
