"""Runs one cell from the first user to the seal, in the process that leads the run.

The end of a run is ours, not Locust's, whose ``quitting`` fires before its users are stopped and whose
web Stop, SIGTERM and run time each end differently. Whatever ends a run here interrupts :meth:`Run._conduct`,
and everything after goes one way: stop issuing, drain, collect the workers' ends, stop, seal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
import pyarrow as pa
import pyarrow.compute as pc
from gevent.event import AsyncResult, Event

from harness.cell import Cell
from harness.certificate import Certificate
from harness.errors import HarnessError, RunDirectoryError
from harness.loadgen import messages
from harness.loadgen.certifier import SeenRate
from harness.loadgen.condition import Condition
from harness.loadgen.looks import Moment, moments
from harness.loadgen.open_loop import schedule_of
from harness.loadgen.progress import Progress
from harness.loadgen.recorder import from_bytes
from harness.loadgen.roll import Roll
from harness.records import Decision, LoadFacts, Look, ServerFacts, WorkerFacts
from harness.runlog import RunWriter
from harness.seal import about_this_host
from harness.spend import CAP_REACHED, Ledger, preflight_usd
from harness.watch.channel import LookAsked
from harness.watch.process import Watching

if TYPE_CHECKING:
    from locust.env import Environment

_END_GRACE_S = 5.0
"""How long workers get, beyond the drain, to report their end."""
_SPAWN_GRACE_S = 60.0
_CLOCKS_WITHIN_S = 5.0
"""How long the run clock's zero waits for workers whose clock is still being compared with this one."""
_POLL_S = 0.1
_TELL_EVERY_S = 0.9
_SURVEY_S = 2.0
_ANSWER_S = 20.0
"""How long the answer to a look is waited for, while the load goes on."""
_ENDED_BY: dict[Decision, str] = {"fail": "fail decided", "pass": "decided", "at limit": "decided"}
LOST = "load worker lost"
_LEAD_S = 0.5
"""An open loop's zero lies this far ahead of the message that names it, so that no worker hears of it too late."""


class Run:
    """One run of one cell. ``server_facts`` and ``server_died`` ask the launcher, when there is one."""

    def __init__(
        self,
        environment: Environment,
        cell: Cell,
        progress: Progress,
        watching: Watching,
        *,
        server_facts: Callable[[], ServerFacts],
        server_died: Callable[[], bool],
    ) -> None:
        self.cell = cell
        self.manifest = about_this_host(cell.manifest())
        self.problems: list[str] = []
        self.done = Event()
        self._environment = environment
        self._progress = progress
        self._watching = watching
        self._condition = Condition()
        self._tell_next_s = 0.0
        self._server_facts = server_facts
        self._server_died = server_died
        self._writer = RunWriter(cell.run_dir)
        self._interrupted: AsyncResult[str] = AsyncResult()
        self._spawned = Event()
        self._workers: dict[int, WorkerFacts] = {}
        self._workers_asked = 0
        self._ended: set[int] = set()
        self._roll = Roll(environment)
        self._failed = 0
        self._pending: list[bytes] = []
        self._aborted: tuple[float, str] | None = None
        self.seen_rate = SeenRate(cell.connection.stream)
        self.certificate = Certificate()
        self._surveyed = Event()
        self._survey = 0
        self._survey_replies = 0
        self._users_reached: int | None = None
        self._looks = [Look(at_s=at) for at in cell.looks]
        self._ledger: Ledger | None = None
        if cell.tariff is not None and cell.max_cost_usd is not None:
            self._ledger = Ledger(cell.max_cost_usd, preflight_usd(cell.tariff, server_facts()))
            self.manifest = self.manifest.model_copy(update={"spend": self._ledger.facts()})
        self._open = cell.scenario.arrivals is not None
        self._load = self.manifest.load
        if self._open:
            scheduled = len(schedule_of(cell))
            self._load = self._load.model_copy(update={"arrivals_scheduled": scheduled})
            self.manifest = self.manifest.model_copy(update={"load": self._load})

    def begin(self) -> None:
        """Open the run directory, hand the cell to the workers and start conducting."""
        self._writer.open_samples()
        self._writer.write_manifest(self.manifest.model_copy(update={"server": self._server_facts()}))
        self._workers_asked = self._workers_there()
        allowance = None if self._ledger is None else self._ledger.share(self._workers_asked)
        self._send(messages.CELL, {"cell": self.cell.model_dump_json(), "allowance_usd": allowance})
        gevent.spawn(self._conduct).link_exception(self._crashed)

    def interrupt(self, reason: str) -> None:
        """End the run; the first reason counts. Returns at once: wait for ``done``.

        Locust stops a run by itself when its last worker is gone, which is no wish of anybody's.
        """
        if not self._interrupted.ready():
            self._interrupted.set(LOST if self._lost() else reason)

    @property
    def interrupted(self) -> bool:
        return self._interrupted.ready()

    def spawning_complete(self) -> None:
        self._spawned.set()

    # Messages from workers -------------------------------------------------------------------

    def on_hello(self, data: dict[str, Any]) -> None:
        facts = WorkerFacts.model_validate_json(data["facts"])
        self._workers[facts.worker] = facts

    def on_samples(self, data: dict[str, Any]) -> None:
        batch: pa.RecordBatch = from_bytes(data["batch"])
        self._roll.heard(data["worker"])
        self._paid(data["worker"], data["paid"])
        try:
            self._writer.append(batch)
            self._writer.append_outputs(data["outputs"])
        except RunDirectoryError as error:
            self._problem(str(error))
            self.interrupt("the run directory cannot be written")
            return
        self._failed += pc.sum(pc.not_equal(batch["outcome"], "ok")).as_py() or 0
        self.seen_rate.add(batch)

    def on_survey_reply(self, data: dict[str, Any]) -> None:
        if data["survey"] == self._survey:
            self._pending.append(data["batch"])
            self._survey_replies += 1
            if self._survey_replies >= len(self._workers):
                self._surveyed.set()

    def on_end(self, data: dict[str, Any]) -> None:
        facts = WorkerFacts.model_validate_json(data["facts"])
        self._workers[facts.worker] = facts
        self._ended.add(facts.worker)
        self._paid(facts.worker, data["paid"])

    def on_health(self, data: dict[str, Any]) -> None:
        self._condition.heard(data)

    def on_cap(self, data: dict[str, Any]) -> None:
        if self._ledger is not None:
            self._ledger.reached(data["at_s"])
        self.interrupt(CAP_REACHED)

    def _paid(self, worker: int, count: dict[str, int] | None) -> None:
        if self._ledger is not None and count is not None:
            self._ledger.heard(worker, count)

    # The run ---------------------------------------------------------------------------------

    def _conduct(self) -> None:
        reason = self._load_until_end()
        complete = reason in ("run time", *_ENDED_BY.values())
        stopped_s = time.time()
        self._progress.tell("drain", of_s=self.cell.drain_s)
        self._send(messages.STOP, {"drain_s": self.cell.drain_s})
        self._await_ends()
        lost = self._lost()
        if lost:
            self._problem(self._roll.sentence([self._workers[worker] for worker in lost]))
        missing = set(self._workers) - self._ended - set(lost)
        if missing:
            self._problem(f"{len(missing)} of {len(self._workers)} load workers never reported their end")
        if not self._workers:
            self._problem("no load worker reported")
        self._finish(reason, complete, stopped_s)

    def _lost(self) -> list[int]:
        """Workers that are gone without having reported their end."""
        return self._roll.lost(set(self._workers) - self._ended)

    def _await_ends(self) -> None:
        """Wait for every worker's end, in bounded time; one that is gone is not waited for."""
        deadline = time.monotonic() + self.cell.drain_s + _END_GRACE_S
        while time.monotonic() < deadline and set(self._workers) - self._ended - set(self._lost()):
            gevent.sleep(_POLL_S)

    def _await_clocks(self) -> None:
        """Give workers, whose clocks are compared as users are spawned, a moment to be done with it."""
        deadline = time.monotonic() + _CLOCKS_WITHIN_S
        while time.monotonic() < deadline and not self.interrupted:
            if all(facts.clock_round_trip_s is not None for facts in self._workers.values()):
                return
            gevent.sleep(_POLL_S)

    def _load_until_end(self) -> str:
        """Conduct spawning, warm-up, load with its looks, and the tail; return what ended it."""
        spawn_s = self.cell.timing.spawn_s
        self._progress.tell("spawn", of_s=spawn_s, users=self.cell.scenario.users)
        deadline = time.monotonic() + spawn_s + _SPAWN_GRACE_S
        while not (self._spawned.is_set() and self._all_said_hello() and self._all_users_up()):
            reason = self._wait(min(time.monotonic() + 0.05, deadline))
            if reason:
                return reason
            if time.monotonic() >= deadline:
                if self._spawned.is_set() and not self._all_said_hello():
                    self._problem(f"only {len(self._workers)} of {self._workers_asked} load workers reported")
                    return "spawning too slow"
                self._problem(
                    f"not all of {self.cell.scenario.users} users were up after {spawn_s + _SPAWN_GRACE_S:.0f} s"
                )
                return "spawning too slow"
        self._await_clocks()
        start = self._start_clock()
        timing = self.cell.timing
        zero_s = self._load.started_s or 0.0
        zeros = [(worker, facts.monotonic_s(zero_s)) for worker, facts in sorted(self._workers.items())]
        self._send(messages.START, {"warm_up_s": timing.warm_up_s, "zeros": zeros})
        for moment in moments(self.cell):
            reason = self._wait(start + moment.at_s, start) or self._ask(moment, start)
            if reason:
                return reason
        tail_s = self.cell.scenario.longest_limit_s
        return (
            self._wait(start + timing.run_time_s, start)
            or self._wait(start + timing.run_time_s + tail_s, start)
            or "run time"
        )

    def _all_said_hello(self) -> bool:
        """Whether every worker is known: Locust calls spawning complete after a second, whoever has not answered."""
        return len(self._workers) >= min(self._workers_asked, self._workers_there())

    def _all_users_up(self) -> bool:
        """Whether the workers have reported all users: of a busy one Locust hears later than of its spawning's end."""
        runner: Any = self._environment.runner
        return runner is None or int(runner.user_count) >= int(runner.target_user_count or 0)

    def _workers_there(self) -> int:
        runner: Any = self._environment.runner
        return int(runner.worker_count) if runner else 0

    def _start_clock(self) -> float:
        """Set the run clock's zero and write it down at once: a run killed from here on can still be judged."""
        lead_s = _LEAD_S if self._open else 0.0
        start, started_s = time.monotonic() + lead_s, time.time() + lead_s
        users = int(self._environment.runner.user_count) if self._environment.runner else 0
        self._load = self._load.model_copy(
            update={"started_s": started_s, "users_reached": users, "looks": tuple(self._looks)}
        )
        workers = tuple(facts for _, facts in sorted(self._workers.items()))
        self.manifest = self.manifest.model_copy(
            update={"load": self._load, "workers": workers, "server": self._server_facts()}
        )
        self._writer.write_manifest(self.manifest)
        return start

    def _wait(self, until: float, start: float | None = None) -> str | None:
        """Wait until a monotonic time while telling progress; return a reason when the run is to end before."""
        while True:
            self._tell_watching()
            if start is not None:
                self._tell_load(start)
            left = until - time.monotonic()
            if left <= 0:
                return None
            try:
                return self._interrupted.get(timeout=min(left, 1.0))
            except gevent.Timeout:
                if self._server_died():
                    return "server died"
                if self._lost():
                    return LOST

    def _tell_load(self, start: float) -> None:
        timing, elapsed = self.cell.timing, time.monotonic() - start
        users = self._users()
        if self._users_reached is None or users < self._users_reached:
            self._users_reached = users
        phase = "warm-up" if elapsed < timing.warm_up_s else "load" if elapsed < timing.run_time_s else "tail"
        spent: dict[str, Any] = {} if self._ledger is None else {"spent_usd": round(self._ledger.spent_usd, 4)}
        self._progress.tell(
            phase,
            elapsed_s=round(elapsed, 1),
            of_s=timing.run_time_s + self.cell.scenario.longest_limit_s,
            users=users,
            completed=self._writer.samples_written,
            failed=self._failed,
            **spent,
        )

    def _users(self) -> int:
        """0 in an open loop, whose users of Locust's are processes."""
        return int(self._environment.runner.user_count) if self._environment.runner and not self._open else 0

    def _tell_watching(self) -> None:
        """Once a second, or a little less often."""
        if time.monotonic() < self._tell_next_s:
            return
        self._tell_next_s = time.monotonic() + _TELL_EVERY_S
        self._watching.tell(self._condition.news(self._users()))

    def _ask(self, moment: Moment, start: float) -> str | None:
        """Survey the workers and ask the watching process whether the run may end; return what ended it, if anything.

        Nobody may be there to answer: then the run goes on to its end.
        """
        if not self._watching.alive or not self._survey_workers():
            return None
        number, until_s = self._survey, moment.judged_until_s(self.cell.scenario.longest_limit_s)
        asked = LookAsked(
            number=number,
            at_s=moment.at_s,
            judged_until_s=(self._load.started_s or 0.0) + until_s,
            samples=self._writer.samples_written,
            workers=tuple(self._workers.values()),
            hopeless=moment.look is None,
        )
        self._watching.ask(asked, self._pending)
        deadline = time.monotonic() + _ANSWER_S
        while (answer := self._watching.answer(number)) is None:
            if time.monotonic() >= deadline or not self._watching.alive:
                return None
            reason = self._wait(min(time.monotonic() + _POLL_S, deadline), start)
            if reason:
                return reason
        if moment.look is None:
            self._aborted = (moment.at_s, answer.aborted_on) if answer.aborted_on else None
            return "aborted" if answer.aborted_on else None
        self._looks[moment.look] = self._looks[moment.look].with_answer(answer.decided)
        return _ENDED_BY.get(answer.decided)

    def _survey_workers(self) -> bool:
        """Have everything shipped, and what is in flight told."""
        self._survey += 1
        self._survey_replies = 0
        self._surveyed.clear()
        self._pending = []
        self._send(messages.SURVEY, {"survey": self._survey})
        return bool(self._surveyed.wait(_SURVEY_S))

    def _judged_until_s(self, complete: bool, stopped_s: float) -> float | None:
        """Wall-clock end of the judged window."""
        started = self._load.started_s
        if started is None:
            return None
        ended = [Moment(look.at_s, place) for place, look in enumerate(self._looks) if look.ended]
        if self._aborted is not None:
            ended = [Moment(self._aborted[0], None)]
        if ended:
            return started + ended[0].judged_until_s(self.cell.scenario.longest_limit_s)
        until = started + self.cell.timing.run_time_s
        if complete:
            return until
        cap = [] if self._ledger is None or self._ledger.reached_s is None else [self._ledger.reached_s]
        return min(until, stopped_s, *cap, *self._roll.last_heard_s(self._lost()))

    def _finish(self, reason: str, complete: bool, stopped_s: float) -> None:
        drained_s = time.time()
        load: LoadFacts = self._load.model_copy(
            update={
                "users_reached": self._users_reached or 0,
                "judged_until_s": self._judged_until_s(complete, stopped_s),
                "stopped_issuing_s": stopped_s,
                "drained_s": drained_s,
                "ended_by": reason,
                "complete": complete,
                "looks": tuple(self._looks),
                "aborted_on": self._aborted[1] if self._aborted is not None else "",
                "samples_written": self._writer.samples_written,
                **self._arrivals(),
            }
        )
        workers = tuple(facts for _, facts in sorted(self._workers.items()))
        spend = None if self._ledger is None else self._ledger.facts(self._lost())
        self.manifest = self.manifest.model_copy(update={"load": load, "workers": workers, "spend": spend})
        self._close()
        self.done.set()

    def _arrivals(self) -> dict[str, int]:
        names = ("arrivals_due", "arrivals_late", "arrivals_not_started")
        return {name: sum(getattr(facts, name) for facts in self._workers.values()) for name in names}

    def _close(self) -> None:
        self._writer.close()
        self.manifest = self.manifest.model_copy(
            update={"server": self._server_facts(), "problems": tuple(self.problems)}
        )
        try:
            self._writer.write_manifest(self.manifest)
        except HarnessError as error:
            self._problem(str(error))

    def _crashed(self, greenlet: gevent.Greenlet[..., None]) -> None:
        self._problem(f"the load generator crashed: {greenlet.exception!r}")
        self._close()
        self.done.set()

    def _problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)

    def _send(self, message: str, data: dict[str, Any]) -> None:
        runner = self._environment.runner
        if runner is not None:
            runner.send_message(message, data)
