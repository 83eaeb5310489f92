"""Runs cells: each in a Locust process of its own, light ones side by side, heavy and real ones alone."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.cell import Cell
from harness.certify import LIGHT_EVENTS_PER_S
from harness.cost import format_usd
from harness.errors import ExitCode, HarnessError, RunDirectoryError
from harness.judge import floor_failure_judgement, read_judgement, write_judgement
from harness.judgement import Judgement, Verdict
from harness.runlog import MANIFEST, RunWriter, seal, write_atomically
from harness.seal import about_this_host
from harness.spend import Budget
from servers.process import ServerProcess, describe_exit

LOCUSTFILE = Path(__file__).parent / "loadgen" / "cell_locustfile.py"
MOST_SIDE_BY_SIDE = 8
_STOP_GRACE_S = 60.0
"""An interrupted cell drains, seals and is judged within this time, or is killed."""
_POLL_S = 0.2


@dataclass
class CellProgress:
    """Where a cell is, for whoever shows it; ``event`` is the newest line of its progress file."""

    cell: Cell
    state: str = "waiting"
    event: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    exit_code: int | None = None
    judgement: Judgement | None = None


OnChange = Callable[[CellProgress], None]


def run_cells(cells: Sequence[Cell], on_change: OnChange) -> list[CellProgress]:
    """Run all cells; one that fails never stops the others.

    Ctrl-C ends the running ones in order (each is sealed and judged on what it has) and starts no
    more; the rest stays ``waiting``.
    """
    progress = [CellProgress(cell) for cell in cells]
    runnable = [each for each in progress if not _refuse_by_memory(each, on_change)]
    budget = Budget(max((cell.max_cost_usd or 0.0 for cell in cells), default=0.0))
    for group in _groups(runnable):
        if _run_group([each for each in group if _affordable(each, budget, on_change)], on_change):
            break
        for each in group:
            budget.paid(_paid_usd(each))
    return progress


def _affordable(each: CellProgress, budget: Budget, on_change: OnChange) -> bool:
    """Give a cell that pays for tokens, which runs alone, what the ones before have left of the cap."""
    if each.cell.max_cost_usd is None:
        return True
    if budget.left_usd <= 0:
        each.state, each.exit_code = "failed", ExitCode.INCONCLUSIVE
        each.error = f"not started: the cells before it spent the cap of {format_usd(each.cell.max_cost_usd)}"
        on_change(each)
        return False
    each.cell = each.cell.model_copy(update={"max_cost_usd": budget.left_usd})
    return True


def _paid_usd(each: CellProgress) -> float:
    """What a cell paid for tokens: its whole cap, when it left no account and may have sent requests."""
    if each.cell.max_cost_usd is None or each.exit_code in (ExitCode.USAGE, ExitCode.SERVER):
        return 0.0
    cost = each.judgement.cost if each.judgement is not None else None
    return each.cell.max_cost_usd if cost is None or cost.spent_usd is None else cost.spent_usd


def exit_code(progress: Sequence[CellProgress]) -> ExitCode:
    """One code for many cells: what could not be run first, then FAIL, INVALID, INCONCLUSIVE."""
    codes = {ExitCode.INTERRUPTED if each.exit_code is None else each.exit_code for each in progress}
    if codes == {ExitCode.INTERRUPTED}:
        return ExitCode.INTERRUPTED
    if ExitCode.INTERRUPTED in codes:  # before all cells had run: never PASS
        codes.add(ExitCode.INCONCLUSIVE)
    for code in (
        ExitCode.LOAD,
        ExitCode.SERVER,
        ExitCode.USAGE,
        ExitCode.FAIL,
        ExitCode.INVALID,
        ExitCode.INCONCLUSIVE,
    ):
        if code in codes:
            return code
    return ExitCode.PASS


def expected_events_per_s(cell: Cell) -> float:
    """Upper bound of streamed tokens a second: every user at the SLA's edge, or the peak rate of an open loop."""
    arrivals = cell.scenario.arrivals
    if arrivals is not None:  # a trace has no rate before it is read: count it as heavy
        return (arrivals.peak_rps or math.inf) * cell.scenario.workload.output_tokens
    cycle_s = cell.scenario.think_time.mean_s + (cell.scenario.longest_limit_s or 1.0)
    return cell.scenario.users * cell.scenario.workload.output_tokens / max(cycle_s, 0.001)


def _groups(progress: Sequence[CellProgress]) -> Iterator[list[CellProgress]]:
    light = [each for each in progress if _is_light(each.cell)]
    # The longest first, so that the side-by-side part ends as early as it can.
    light.sort(key=lambda each: -each.cell.timing.run_time_s)
    for start in range(0, len(light), MOST_SIDE_BY_SIDE):
        yield light[start : start + MOST_SIDE_BY_SIDE]
    for each in progress:
        if not _is_light(each.cell):
            yield [each]


def _is_light(cell: Cell) -> bool:
    return cell.emulated and expected_events_per_s(cell) <= LIGHT_EVENTS_PER_S


def _run_group(group: Sequence[CellProgress], on_change: OnChange) -> bool:
    """Run cells side by side; return whether Ctrl-C ended them."""
    running: list[_CellProcess] = []
    try:
        for each in group:
            try:
                running.append(_CellProcess(each))
                each.state = "running"
            except HarnessError as error:
                each.state, each.error, each.exit_code = "failed", str(error), error.exit_code
            on_change(each)
        _follow_all(running, on_change)
    except KeyboardInterrupt:
        for process in running:
            process.interrupt()
        with contextlib.suppress(KeyboardInterrupt):  # the second: at once
            _follow_all(running, on_change)
        return True
    finally:
        for process in running:
            process.stop()
    return False


def _follow_all(running: Sequence[_CellProcess], on_change: OnChange) -> None:
    while sum(process.follow(on_change) for process in running):
        time.sleep(_POLL_S)


class _CellProcess:
    """The Locust child of one cell. Its guard ends it, and all it started, should this process die."""

    def __init__(self, progress: CellProgress) -> None:
        cell = progress.cell
        self._progress = progress
        self._directory = cell.run_dir
        if (cell.run_dir / "manifest.json").exists():
            raise RunDirectoryError(f"{cell.run_dir} holds a run already; choose another --run-dir")
        try:
            cell.run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(f"cannot make the run directory {cell.run_dir}: {error.strerror}") from error
        write_atomically(cell.run_dir / "cell.json", cell.model_dump_json(indent=1))
        self._events = cell.run_dir / "progress.jsonl"
        self._events.touch()
        self._read_to = 0
        self._log = cell.run_dir / "load.log"
        command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE)]
        command += ["--headless", "--only-summary", "--loglevel", "WARNING", "--cell", str(cell.run_dir / "cell.json")]
        command += ["--progress-file", str(self._events)]
        self._process = ServerProcess(command, log_file=self._log, grace_s=_STOP_GRACE_S)
        self._ended = False
        self._interrupted = False

    def follow(self, on_change: OnChange) -> bool:
        """Read new progress; return whether the process still runs."""
        if self._ended:
            return False
        code = self._process.poll()
        with self._events.open("rb") as file:
            file.seek(self._read_to)
            lines = file.read().split(b"\n")
        self._read_to += sum(len(line) + 1 for line in lines[:-1])
        for line in lines[:-1]:
            self._progress.event = json.loads(line)
        if code is not None:
            self._end(code)
        if len(lines) > 1 or code is not None:
            on_change(self._progress)
        return code is None

    def interrupt(self) -> None:
        """End it in order. Only Locust itself gets the signal: its server must outlive the drain."""
        self._interrupted = True
        self._process.interrupt()

    def stop(self) -> None:
        self._process.stop()

    def _end(self, code: int) -> None:
        self._ended = True
        progress = self._progress
        try:
            progress.judgement = read_judgement(self._directory)
            progress.exit_code = progress.judgement.verdict.exit_code
            progress.state = "judged"
        except HarnessError:
            progress.state = "failed"
            if self._interrupted:
                progress.exit_code = ExitCode.INTERRUPTED
                progress.error = "interrupted before there was anything to judge"
                return
            progress.exit_code = code if code in (ExitCode.USAGE, ExitCode.SERVER) else ExitCode.LOAD
            tail = [line for line in self._process.tail() if line.strip()]
            said = [line.removeprefix("harness: ") for line in tail if line.startswith("harness: ")]
            start = tail.index(f"harness: {said[0]}") if said else max(0, len(tail) - 15)
            text = "\n".join(tail[start:]).removeprefix("harness: ")
            kept = "; see what it recorded with: harness judge " + str(self._directory) if self._started() else ""
            progress.error = text or f"the load generator {describe_exit(code)}, without a word{kept}"

    def _started(self) -> bool:
        return (self._directory / MANIFEST).exists()


def _refuse_by_memory(progress: CellProgress, on_change: OnChange) -> bool:
    """A stack whose memory cannot admit one request is FAIL, without load."""
    cell = progress.cell
    if not cell.refusal:
        return False
    writer = RunWriter(cell.run_dir)
    manifest = seal(cell.run_dir, about_this_host(cell.manifest()))
    writer.close()
    judgement = floor_failure_judgement(manifest, cell.refusal)
    write_judgement(cell.run_dir, judgement)
    progress.judgement, progress.state = judgement, "judged"
    progress.exit_code = Verdict.FAIL.exit_code
    on_change(progress)
    return True
