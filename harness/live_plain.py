"""Cells while they run, as lines for logs and pipes: each phase once, signs of life, and the verdict so far."""

from __future__ import annotations

import time

from rich.console import Console

from harness.cell import Cell
from harness.run import CellProgress
from harness.snapshot import Snapshot, read_snapshot
from reports import checks, figures
from reports.live_view import leading, so_far

EVERY_S = 10.0
"""A running cell says where it is this often."""
SO_FAR_EVERY_S = 30.0
"""And how its checks stand."""


class PlainDisplay:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[str, tuple[str, float]] = {}
        self._stood: dict[str, float] = {}

    def update(self, progress: CellProgress) -> None:
        name = name_of(progress.cell)
        phase = (
            str(progress.judgement.verdict) if progress.judgement else str(progress.event.get("phase", progress.state))
        )
        now = time.monotonic()
        if phase == "load":
            self._stand(name, progress, now)
        last, said_s = self._last.get(name, ("", 0.0))
        if phase == last and now - said_s < EVERY_S:
            return
        self._last[name] = (phase, now)
        event = progress.event
        numbers = ""
        if progress.judgement is not None:
            numbers = progress.judgement.sentence.partition(": ")[2]
        elif "elapsed_s" in event:
            clock = f"{event['elapsed_s']:.0f} of {event['of_s']:.0f} s"
            arrivals = progress.cell.scenario.arrivals
            load = f"{event['users']} users" if arrivals is None else arrivals.text
            numbers = f"{clock}, {load}, {event['completed']} requests"
            if "spent_usd" in event:
                numbers += f", ${event['spent_usd']:.2f} spent"
        elif phase == "server":
            numbers = str(event.get("note", ""))
        self._say(f"{name}: {phase} {numbers}")

    def _stand(self, name: str, progress: CellProgress, now: float) -> None:
        """Say how the checks stand; the first time when load has gone on for as long as between two times."""
        since = self._stood.setdefault(name, now)
        if now - since < SO_FAR_EVERY_S:
            return
        self._stood[name] = now
        snapshot = read_snapshot(progress.cell.run_dir)
        if snapshot is not None and snapshot.judged:
            self._say(f"{name}: {standing(snapshot)}")

    def _say(self, text: str) -> None:
        self._console.print(figures.clean(text).rstrip(), markup=False, highlight=False, soft_wrap=True)


def standing(snapshot: Snapshot) -> str:
    """The verdict so far, the check that decides it, and what that still needs."""
    check = leading(snapshot.checks)
    if check is None:
        return so_far(snapshot)
    value = figures.measured(check.value, check.metric, check.limit)
    bounds = checks.value_bounds(check)
    between = f" ({bounds})" if bounds else ""
    needs = "" if checks.needed(check) == "nothing" else f", {checks.needed(check)}"
    return f"{so_far(snapshot)}; {check.text}: {value}{between}, violations {checks.violations(check)}{needs}"


def name_of(cell: Cell) -> str:
    return f"{cell.scenario.name} on {cell.stack.name}"
