"""What one load-generating process does: drives its users or arrivals, ships their samples, stops when told.

The process may be the only one (LocalRunner) or one of many (WorkerRunner); messages to and from the
coordinator look the same.
"""

from __future__ import annotations

import gc
import math
import os
import random
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from harness.cell import Cell
from harness.clients import CLIENTS, Client, Reply, RetryPolicy, prepare
from harness.clock_offset import ClockOffset
from harness.dataset import read_workload
from harness.loadgen import messages
from harness.loadgen.clock import ClockAsker
from harness.loadgen.health import Health
from harness.loadgen.open_loop import Arrival, OpenLoop, schedule_of
from harness.loadgen.recorder import Recorder, to_bytes
from harness.loadgen.target import target_of
from harness.records import LATE_S, OUT_OF_RESOURCES, Outcome, Prompt, WorkerFacts, request_id
from harness.schedule import first_delay_s, think_time_sampler
from harness.spend import Bound, Purse
from harness.workload import PromptSource, prompt_sources

if TYPE_CHECKING:
    from locust.env import Environment

_SHIP_EVERY_S = 0.25
"""A batch of 1,400 samples stops the event loop for 4 ms, four of a quarter each for 1.5 ms."""
_REPORT_EVERY_S = 2.0
_JUST_S = 1e-5
OVER_THE_CAP = "not sent: its worst case did not fit under the spend cap"


class _InFlight:
    """One request under way, so that a survey or the end of the run can see it."""

    __slots__ = ("bound", "client", "prompt", "scheduled_s", "sequence", "user")

    def __init__(
        self, user: int, sequence: int, prompt: Prompt, scheduled_s: float, client: Client, bound: Bound | None
    ) -> None:
        self.user = user
        self.sequence = sequence
        self.prompt = prompt
        self.scheduled_s = scheduled_s
        self.client = client
        self.bound = bound
        """What is set aside for it; None: it costs nothing."""


class Session:
    """One run on this process. Created when the coordinator sends the cell, ended by :meth:`end`.

    ``allowance_usd`` is its share of the spend cap, and None where nothing is paid by the token: in a rehearsal.
    """

    def __init__(self, environment: Environment, cell: Cell, worker: int, allowance_usd: float | None = None) -> None:
        self.cell = cell
        self.worker = worker
        self.issuing = True
        self._environment = environment
        prepare(cell.connection.protocol)  # here, because it must come after any fork
        self._target = target_of(cell.connection)
        self._client_class = CLIENTS[cell.connection.protocol]
        self._retry = RetryPolicy(max_retries=cell.connection.max_retries)
        self._new_source = prompt_sources(cell.scenario.workload, read_workload(cell.scenario.workload))
        self._purse: Purse | None = None
        if allowance_usd is not None and cell.tariff is not None:
            self._purse = Purse(cell.tariff, allowance_usd)
            # An answer that was lost before its first byte may have been paid for: asking again would pay twice.
            self._retry = replace(self._retry, after_reset=False)
        self._users = 0
        self._in_flight: dict[int, _InFlight] = {}
        self._recorder = self._new_recorder(cell.scenario.workload.output_share)
        # What is inside an unfinished answer costs parsing it; only checks of tokens need that at a look.
        self._looks_inside = any(check.metric in ("ttft", "tpot", "itl") for check in cell.scenario.sla)
        self._health = Health()
        self._anchor = (time.time(), time.monotonic())
        self._clock: ClockOffset | None = None
        self._drained = Event()
        self._parked = Event()
        self._health_start: gevent.Greenlet[..., None] | None = None
        self._shipper = gevent.spawn(self._ship_forever)
        self._reporter = gevent.spawn(self._report_forever)
        self._arrivals_late = self._arrivals_not_started = 0
        self._open_loop: OpenLoop | None = None
        if cell.scenario.arrivals is not None:
            self._open_source = self._new_source(self._rng("data", "arrivals"))
            self._open_source.next(None)  # the one that joins a conversation: each arrival begins its own
            self._open_rng = self._rng("think", "arrivals")
            self._open_loop = OpenLoop(schedule_of(cell), self._new_client, self._arrive)

    def _rng(self, seed: str, user: int | str = "") -> random.Random:
        """A generator of its own for each purpose, worker and user: no two send the same sequence."""
        return random.Random(f"{seed}/{self.cell.seeds()[seed]}/{self.worker}/{user}")

    def _new_recorder(self, output_share: float) -> Recorder:
        cell = self.cell
        seed = f"outputs/{cell.seeds()['outputs']}/{self.worker}"
        return Recorder(cell.run, self.worker, cell.region, cell.scenario.name, output_share, seed)

    def drive(self) -> None:
        """Be one user until the run ends; called in the user's greenlet."""
        user = self._users
        self._users += 1
        if self._open_loop is not None:  # Locust's user stands for this process, which began at the run clock's zero
            self._parked.wait()
            return
        rng = self._rng("think", user)
        source = self._new_source(self._rng("data", user))
        client = self._client_class(self._target, self._retry, rng)
        due = time.monotonic() + first_delay_s(self.cell.scenario.think_time, rng)
        try:
            client.open()
            self._loop(user, client, source, rng, due)
        except gevent.GreenletExit:
            cut_off = self._in_flight.pop(user, None)
            if cut_off is not None and client.interrupted is not None:
                self._record(cut_off, client.interrupted)
            raise
        finally:
            client.close()
        # Returning would make Locust start the task again; the runner's stop ends the wait.
        self._parked.wait()

    def _loop(self, user: int, client: Client, source: PromptSource, rng: random.Random, due: float) -> None:
        think_s = think_time_sampler(self.cell.scenario.think_time, rng)
        answer: str | None = None
        sequence = 0
        while True:
            wait_s = due - time.monotonic()
            if wait_s > 0:
                gevent.sleep(wait_s)
            if not self.issuing:
                return
            request = self._begin(user, sequence, source.next(answer), due, client)
            reply = self._ask(request) if request is not None else None
            if reply is None:
                return
            answer = reply.text if reply.outcome is Outcome.OK else None
            due = reply.end_s + think_s()
            sequence += 1

    def _begin(self, user: int, sequence: int, prompt: Prompt, due: float, client: Client) -> _InFlight | None:
        """Register a request; None when the spend cap forbids it, which ends the run."""
        bound = None
        if self._purse is not None:
            first = not self._purse.closed
            bound = self._purse.reserve(prompt)
            if bound is None:
                if first:
                    # Just before an arrival's own time: what is issued up to then is judged.
                    end_s = due - _JUST_S if self._open_loop is not None else time.monotonic()
                    self._send(messages.CAP, {"worker": self.worker, "at_s": self.facts().wall_s(end_s)})
                return None
        request = self._in_flight[user] = _InFlight(user, sequence, prompt, due, client, bound)
        return request

    def _record(self, request: _InFlight, reply: Reply) -> None:
        if self._purse is not None and request.bound is not None:
            self._purse.settle(request.bound, reply)
        self._recorder.add(request.user, request.sequence, request.prompt, request.scheduled_s, reply)

    def _ask(self, request: _InFlight) -> Reply | None:
        """Send, wait and record; None when the end of the run has recorded the request as a survivor."""
        user, sequence, prompt = request.user, request.sequence, request.prompt
        reply = request.client.send(prompt, request_id(self.cell.run, self.worker, user, sequence))
        if self._in_flight.pop(user, None) is None:
            return None
        self._record(request, reply)
        self._environment.events.request.fire(
            request_type=self.cell.connection.protocol,
            name=self.cell.scenario.name,
            response_time=(reply.end_s - reply.sent_s) * 1000,
            response_length=reply.bytes,
            exception=None if reply.outcome is Outcome.OK else _RequestError(reply),
            context={},
        )
        if not self._in_flight and not self.issuing:
            self._drained.set()
        return reply

    # The open loop ---------------------------------------------------------------------------

    def _new_client(self) -> Client:
        return self._client_class(self._target, self._retry, self._open_rng)

    def _arrive(self, arrival: Arrival, client: Client) -> Callable[[], None]:
        """Begin an arrival at its time. Each asks the first turn of a conversation: it has no earlier answer."""
        prompt = self._open_source.next(None)
        request = self._begin(arrival.place, 0, prompt, arrival.due_s, client)

        def ask() -> None:
            if request is None:  # its sample says so; the judged window ends before the first of these
                unsent = Reply(math.nan, end_s=time.monotonic(), outcome=Outcome.CANCELLED, error=OVER_THE_CAP)
                self._recorder.add(arrival.place, 0, prompt, arrival.due_s, unsent)
                return
            reply = self._ask(request)
            if reply is not None:
                self._count(arrival.due_s, reply)

        return ask

    def _count(self, due_s: float, reply: Reply) -> None:
        if reply.error.startswith(OUT_OF_RESOURCES):
            self._arrivals_not_started += 1
        elif reply.sent_s - due_s > LATE_S:
            self._arrivals_late += 1

    def _not_started(self, place: int, due_s: float, prompt: Prompt) -> None:
        """Record an arrival whose time came and went without a request."""
        text = f"{OUT_OF_RESOURCES}: it had no time to start this request before the run ended"
        reply = Reply(sent_s=math.nan, end_s=time.monotonic(), outcome=Outcome.REFUSED, error=text)
        self._recorder.add(place, 0, prompt, due_s, reply)
        self._arrivals_not_started += 1

    def start_arrivals(self, zeros: list[tuple[int, float]]) -> None:
        """Begin this worker's share; ``zeros`` holds the run clock's zero on the clock of each worker with a share."""
        for rank, (worker, zero_s) in enumerate(zeros):
            if self._open_loop is not None and worker == self.worker:
                self._open_loop.start(zero_s, rank, len(zeros))

    # What the coordinator asks for ------------------------------------------------------------

    def started(self, warm_up_s: float) -> None:
        """All users are up: settle the process, and measure its health from the end of the warm-up."""
        gc.collect()
        gc.freeze()  # what 1,000 users are made of need not be looked at again by every full collection
        self._health_start = gevent.spawn_later(warm_up_s, self._health.start)

    def survey(self, survey: int) -> None:
        """Ship everything and tell the coordinator what is in flight, as samples of that outcome."""
        self._ship()
        pending = self._new_recorder(output_share=0.0)
        for request in self._in_flight.values():
            sent_s = request.client.in_flight_since
            if sent_s is not None:
                so_far = request.client.partial() if self._looks_inside else None
                reply = so_far or Reply(sent_s=sent_s)
                reply.end_s = time.monotonic()
                pending.add(request.user, request.sequence, request.prompt, request.scheduled_s, reply)
        flushed = pending.flush()
        batch = to_bytes(flushed[0]) if flushed else b""
        self._send(messages.SURVEY_REPLY, {"survey": survey, "worker": self.worker, "batch": batch})

    def end(self, drain_s: float) -> None:
        """Stop issuing, wait for what is in flight, record survivors, ship all and report the end."""
        left = self._open_loop.finish() if self._open_loop is not None else []
        self.issuing = False
        for arrival in left:
            self._not_started(arrival.place, arrival.due_s, self._open_source.next(None))
        self._reporter.kill()
        self._health.stop()
        if self._health_start is not None:
            self._health_start.kill()
        if self._in_flight:
            self._drained.wait(drain_s)
        for request in list(self._in_flight.values()):
            partial = request.client.partial()
            if partial is None:
                if self._open_loop is not None:
                    del self._in_flight[request.user]
                    self._not_started(request.user, request.scheduled_s, request.prompt)
                continue
            if self._open_loop is not None:
                self._count(request.scheduled_s, partial)
            partial.end_s = time.monotonic()
            partial.error = partial.error or "still in flight when the run ended"
            del self._in_flight[request.user]
            self._record(request, partial)
        if self._open_loop is not None:
            self._open_loop.close()
        self._shipper.kill()
        self._ship()
        self._send(messages.END, {"facts": self.facts().model_dump_json(), "paid": self._paid()})

    def facts(self) -> WorkerFacts:
        return WorkerFacts(
            worker=self.worker,
            host=socket.gethostname(),
            pid=os.getpid(),
            region=self.cell.region,
            anchor_wall_s=self._anchor[0],
            anchor_monotonic_s=self._anchor[1],
            clock_offset_s=self._clock.offset_s if self._clock is not None else 0.0,
            clock_round_trip_s=self._clock.round_trip_s if self._clock is not None else None,
            samples_sent=self._recorder.sent,
            hub_lag_p50_s=self._health.lag_s(50),
            hub_lag_p99_s=self._health.lag_s(99),
            hub_lag_max_s=self._health.lag_s(100),
            cpu_share=self._health.cpu_share(),
            users_peak=self._users,
            arrivals_due=self._open_loop.due if self._open_loop is not None else 0,
            arrivals_late=self._arrivals_late,
            arrivals_not_started=self._arrivals_not_started,
        )

    def hello(self) -> None:
        """Tell the coordinator this worker's clock anchor, so that samples can be read before the end."""
        self._send(messages.HELLO, {"facts": self.facts().model_copy(update={"samples_sent": None}).model_dump_json()})

    def compare_clocks(self, asker: ClockAsker) -> None:
        """Measure this host's clock against the master's, and tell the coordinator."""
        self._clock = asker.measure(self._own_wall)
        if self._clock is not None:
            self.hello()

    def _own_wall(self, monotonic_s: float) -> float:
        return self._anchor[0] + (monotonic_s - self._anchor[1])

    def _ship_forever(self) -> None:
        while True:
            gevent.sleep(_SHIP_EVERY_S)
            self._ship()

    def _ship(self) -> None:
        flushed = self._recorder.flush()
        if flushed is not None:
            batch, outputs = flushed
            data = {"worker": self.worker, "batch": to_bytes(batch), "outputs": outputs, "paid": self._paid()}
            self._send(messages.SAMPLES, data)

    def _report_forever(self) -> None:
        """Say how this process is doing, for whoever watches the run."""
        while True:
            gevent.sleep(_REPORT_EVERY_S)
            lag_s, cpu_share = self._health.recent()
            facts = {"worker": self.worker, "in_flight": len(self._in_flight)}
            self._send(messages.HEALTH, {**facts, "hub_lag_p99_s": lag_s, "cpu_share": cpu_share})

    def _paid(self) -> dict[str, int] | None:
        return None if self._purse is None else self._purse.count()

    def _send(self, message: str, data: dict[str, Any]) -> None:
        runner = self._environment.runner
        if runner is not None:
            runner.send_message(message, data)


class _RequestError(Exception):
    """What Locust's own statistics show of a failed request."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"{reply.outcome}: {reply.error}" if reply.error else str(reply.outcome))
