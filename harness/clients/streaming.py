"""One user's client over HTTP: what all HTTP protocols share around a Wire."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random
from time import monotonic
from typing import Any

import gevent
import msgspec

from harness.clients.base import OUTPUT_TOKENS, Reply, RetryPolicy, Target
from harness.clients.dial import ConnectError
from harness.clients.exchange import Ending, Exchange, read_reply
from harness.clients.retry import delay_s, is_retryable
from harness.clients.tls import TlsWire
from harness.clients.wire import Wire
from harness.records import Outcome, Prompt
from harness.sse import Events


class StreamingClient:
    """Sends, retries, reads; a protocol adds its path, its body and its two readers."""

    def __init__(self, target: Target, retry: RetryPolicy | None = None, rng: Random | None = None) -> None:
        self.target = target
        self.retry = retry or RetryPolicy()
        self.rng = rng or Random(0)
        self.in_flight_since: float | None = None
        self.interrupted: Reply | None = None
        self._secrets = target.secrets
        self._head = _head_template(target, self.path())
        if target.tls:
            self._wire: Wire = TlsWire(target.host, target.port, target.timeouts, target.ca_file, target.verify)
        else:
            self._wire = Wire(target.host, target.port, target.timeouts)

    # what a protocol adds

    def path(self) -> str:
        raise NotImplementedError

    def body(self, prompt: Prompt) -> dict[str, Any]:
        raise NotImplementedError

    def read_events(self, reply: Reply, events: Events, times: Sequence[float], whole: bool) -> None:
        raise NotImplementedError

    def read_body(self, reply: Reply, data: bytes) -> None:
        raise NotImplementedError

    # what every user of it calls

    def open(self) -> None:
        if not self._wire.connected:
            try:
                self._wire.connect(monotonic() + self.target.timeouts.connect_s)
            except ConnectError:
                return

    def send(self, prompt: Prompt, request_id: str) -> Reply:
        request = self.encode(prompt, request_id)
        began_s = monotonic()
        self.in_flight_since = began_s
        self.interrupted = None
        retries, last = 0, None
        attempt_s = began_s
        try:
            while True:
                last = None
                last = self._attempt(request, began_s + self.target.timeouts.total_s)
                reply = self._finish(last, began_s, retries, attempt_s)
                if retries >= self.retry.max_retries or not is_retryable(reply):
                    return reply
                wait_s = delay_s(self.retry, retries, reply.retry_after_s, self.rng)
                if monotonic() + wait_s >= began_s + self.target.timeouts.total_s:
                    return reply
                gevent.sleep(wait_s)
                retries += 1
                attempt_s = monotonic()
        except BaseException:
            # a kill, or a Timeout of the caller: the facts so far must not vanish
            cut_off = last or self._wire.current or Exchange(began_s)
            self.interrupted = self._finish(cut_off, began_s, retries, attempt_s)
            self.interrupted.outcome = Outcome.CANCELLED
            if last is not None:
                self.interrupted.end_s = monotonic()  # cut off while waiting for the next try
            raise
        finally:
            self.in_flight_since = None

    def partial(self) -> Reply | None:
        began_s, exchange = self.in_flight_since, self._wire.current
        if began_s is None:
            return None
        reply = self.read(exchange) if exchange is not None else Reply(began_s)
        reply.sent_s, reply.outcome, reply.end_s = began_s, Outcome.IN_FLIGHT, math.nan
        return reply

    def close(self) -> None:
        self._wire.cancel()

    # pure steps, which tests drive without a socket

    def encode(self, prompt: Prompt, request_id: str) -> bytes:
        """Build the request: the same headers in the same order every time."""
        body = msgspec.json.encode(self.body(prompt))
        head = self._head % (_header_value(request_id).encode("latin-1"), len(body))
        return head + body

    def read(self, exchange: Exchange) -> Reply:
        return read_reply(exchange, self, stream=self.target.stream, secrets=self._secrets)

    def merge(self, body: dict[str, Any], prompt: Prompt, forced: Mapping[str, Any]) -> None:
        """Put the target's own fields over ``body``; ``forced`` is the protocol's way to force a length."""
        layers = [self.target.extra_body]
        if prompt.forced:
            own = self.target.forced_length_body
            layers.insert(0, forced if own is None else own)
        for layer in layers:
            for key, value in layer.items():
                if value is None:
                    body.pop(key, None)
                else:
                    body[key] = prompt.output_tokens if value == OUTPUT_TOKENS else value

    # steps of send

    def _attempt(self, request: bytes, deadline_s: float) -> Exchange:
        exchange = self._wire.exchange(request, deadline_s)
        closed = exchange.ending in (Ending.RESET, Ending.CLOSED)
        if exchange.reused and closed and not exchange.parts and monotonic() < deadline_s:
            # the server closed the idle connection while the request was on its way (RFC 9112, 9.3.1)
            return self._wire.exchange(request, deadline_s)
        return exchange

    def _finish(self, exchange: Exchange, began_s: float, retries: int, attempt_s: float) -> Reply:
        reply = self.read(exchange)
        reply.sent_s = began_s
        reply.retries = retries
        reply.retry_s = attempt_s - began_s
        return reply


def _header_value(text: str) -> str:
    return "".join(c if " " <= c <= "\xff" and c != "\x7f" else "?" for c in text)


def _head_template(target: Target, path: str) -> bytes:
    """Everything before the body, with two places: the request's id and the body's length."""
    default_port = 443 if target.tls else 80
    name = f"[{target.host}]" if ":" in target.host else target.host
    host = name if target.port == default_port else f"{name}:{target.port}"
    headers = {
        "Host": host,
        "User-Agent": "llm-sla-harness",
        "Accept": "text/event-stream" if target.stream else "application/json",
        "Content-Type": "application/json",
    }
    if target.api_key is not None and target.api_key.get_secret_value():
        headers["Authorization"] = f"Bearer {target.api_key.get_secret_value()}"
    own = {name.lower() for name in target.headers}
    lines = [f"{name}: {value}" for name, value in headers.items() if name.lower() not in own]
    lines += [f"{name}: {value}" for name, value in target.headers.items()]
    text = "\r\n".join([f"POST {path} HTTP/1.1", *lines]).encode("latin-1", "replace")
    text = text.replace(b"%", b"%%")
    return text + b"\r\nX-Request-Id: %b\r\nContent-Length: %d\r\n\r\n"
