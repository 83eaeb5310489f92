"""One cell of a night: ``harness run`` in a process of its own, tried again when it was no result."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import ExitCode
from harness.judgement import Judgement, Verdict
from harness.nightly.attempts import Place, State, judged, state_of
from harness.nightly.plan import PlannedCell
from harness.nightly.record import Attempt, CellRecord, Status
from harness.nightly.spec import Nightly
from harness.runlog import REPORT
from reports.checks import primary, value_against_limit
from servers.process import ServerProcess, describe_exit, tail

HARNESS = (sys.executable, "-m", "harness.cli")
LOG = "nightly.log"
ANSWER = "nightly.out"
STOP_GRACE_S = 75.0
"""``harness run`` gives its own child 60 s to drain, seal and be judged."""
_POLL_S = 0.2
_RETRIED = (ExitCode.SERVER, ExitCode.LOAD)

Say = Callable[[str], None]


class CellRunner:
    """Runs, judges and retries one cell after another; every step is told to ``say``.

    The child runs under a guard (:mod:`servers.guard`): it, and all it started, end with this process, however that
    ends. It never sees the webhook's URL.
    """

    def __init__(self, spec: Nightly, catalog: tuple[str, ...], say: Say, command: Sequence[str] = HARNESS) -> None:
        self._spec = spec
        self._command = tuple(command)
        self._catalog = catalog
        self._say = say
        self._hidden = {spec.notify.url_env: ""} if spec.notify is not None else {}

    def adopt(self, place: Place, record: CellRecord) -> CellRecord:
        """Take what a killed night left of a cell: a judged run counts, a sealed one is judged now, others do not."""
        if state_of(place.final) is State.JUDGED:
            return self._counts(place, place.final, record)
        known = {attempt.number for attempt in record.attempts}
        for number, directory in place.attempts():
            if number in known:
                continue
            state = state_of(directory)
            if state is State.SEALED and self._judge(directory):
                state = State.JUDGED
            found = judged(directory)
            if state is State.JUDGED and found is not None and not self._again(found, record):
                return self._counts(place, place.settle(directory), record)
            reason = "cut off" if state is State.CUT_OFF else found.sentence if found else "it could not be judged"
            code = int(found.verdict.exit_code) if found is not None and state is State.JUDGED else None
            record = _aside(record, place, number, directory, reason, code)
        return record

    def run(self, place: Place, cell: PlannedCell, record: CellRecord) -> CellRecord:
        """Run a cell until it counts or its retries are used up.

        KeyboardInterrupt ends the run in order, to be judged on what it has, and is raised again with the record of it
        in :class:`CellInterruptedError`.
        """
        while True:
            number, directory = place.next()
            began = time.monotonic()
            interrupted = False
            try:
                code, why = self._follow(cell, directory)
            except KeyboardInterrupt:
                code, why, interrupted = ExitCode.INTERRUPTED, "the night was interrupted", True
            record = record.model_copy(update={"seconds": record.seconds + time.monotonic() - began})
            state = state_of(directory)
            if state is State.SEALED and self._judge(directory):
                state = State.JUDGED
            found = judged(directory) if state is State.JUDGED else None
            if interrupted and found is None:
                raise CellInterruptedError(_aside(record, place, number, directory, why, None))
            if found is not None and (interrupted or not self._again(found, record)):
                done = self._counts(place, place.settle(directory), record)
                if interrupted:
                    raise CellInterruptedError(done)
                return done
            if found is not None:
                code, why = found.verdict.exit_code, found.sentence
            elif code not in (ExitCode.USAGE, *_RETRIED):  # a verdict's code without a judgement, or a signal
                code, why = ExitCode.LOAD, why or f"its process {describe_exit(code)} without a verdict"
            if (code in _RETRIED or found is not None) and self._tries_left(record):
                record = _aside(record, place, number, directory, why, int(code))
                self._say(f"{cell.key}: tried again: {why}")
                _pause(self._spec.retry_wait_s, record)
                continue
            record = _aside(record, place, number, directory, why, int(code))
            return record.model_copy(update={"status": Status.FAILED, "exit_code": int(code), "sentence": why})

    def _follow(self, cell: PlannedCell, directory: Path) -> tuple[int, str]:
        """Run ``harness run`` to its end; return its exit code, and what it said where there is no verdict."""
        limit_s = self._spec.cell_timeout_s or 3 * cell.expected_s + 600.0
        process = self._start([*cell.arguments, "--run-dir", str(directory)], directory)
        deadline = time.monotonic() + limit_s
        try:
            while (code := process.poll()) is None:
                if time.monotonic() >= deadline:
                    _end(process)
                    return ExitCode.LOAD, f"it had not ended after {limit_s:,.0f} s, and was ended"
                time.sleep(_POLL_S)
        except KeyboardInterrupt:
            _end(process)
            raise
        finally:
            process.stop()
        return code, _said(directory, code)

    def _judge(self, directory: Path) -> bool:
        """Judge a sealed run, as it would have been had nobody been killed."""
        process = self._start(["judge", str(directory), "--report", *self._catalog, "--json"], directory)
        try:
            while process.poll() is None:
                time.sleep(_POLL_S)
        finally:
            process.stop()
        return judged(directory) is not None

    def _start(self, arguments: list[str], directory: Path) -> ServerProcess:
        return ServerProcess(
            [*self._command, *arguments],
            log_file=directory / LOG,
            stdout_file=directory / ANSWER,
            variables=self._hidden,
            grace_s=STOP_GRACE_S,
        )

    def _again(self, found: Judgement, record: CellRecord) -> bool:
        """INVALID is the harness's own fault, never the server's: no result, as long as it may be tried again."""
        return found.verdict is Verdict.INVALID and self._tries_left(record)

    def _tries_left(self, record: CellRecord) -> bool:
        """A cut-off attempt was nobody's fault, and uses up no retry."""
        return sum(attempt.exit_code is not None for attempt in record.attempts) < self._spec.retries

    def _counts(self, place: Place, directory: Path, record: CellRecord) -> CellRecord:
        found = judged(directory)
        assert found is not None
        check = primary(found)
        return record.model_copy(
            update={
                "status": Status.JUDGED,
                "directory": place.relative(directory),
                "report": place.relative(directory / REPORT) if (directory / REPORT).exists() else "",
                "run": found.run,
                "verdict": found.verdict,
                "exit_code": int(found.verdict.exit_code),
                "sentence": found.sentence,
                "marks": tuple(str(mark) for mark in found.marks),
                "check": value_against_limit(check) if check is not None else "",
                "requests": found.load.judged,
            }
        )


class CellInterruptedError(Exception):
    """A night's cell was ended by Ctrl-C or SIGTERM; ``record`` says what became of it."""

    def __init__(self, record: CellRecord) -> None:
        super().__init__("interrupted")
        self.record = record


def _aside(record: CellRecord, place: Place, number: int, directory: Path, reason: str, code: int | None) -> CellRecord:
    attempt = Attempt(number=number, reason=reason, exit_code=code, directory=place.relative(directory))
    return record.model_copy(update={"attempts": (*record.attempts, attempt)})


def _pause(seconds: float, record: CellRecord) -> None:
    """What kept a server from standing up (a port, memory of its predecessor) is often gone a moment later."""
    try:
        time.sleep(seconds)
    except KeyboardInterrupt:
        raise CellInterruptedError(record) from None


def _end(process: ServerProcess) -> None:
    """End a run in order: it drains, seals and is judged. A second Ctrl-C ends it at once."""
    process.interrupt()
    deadline = time.monotonic() + STOP_GRACE_S
    with contextlib.suppress(KeyboardInterrupt):
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def _said(directory: Path, code: int) -> str:
    """Why there is no verdict: the sentence of ``harness run --json``, else the end of its log."""
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError, TypeError):
        answer = json.loads((directory / ANSWER).read_text(encoding="utf-8"))["cells"][0]
        return str(answer["sentence"])
    told = [line.removeprefix("harness: ") for line in tail(directory / LOG) if line.startswith("harness: ")]
    return told[-1] if told else f"its process {describe_exit(code)} without a word"
