"""Cells while they run, on a terminal: each one's phase, and its checks with the interval closing in on the limit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from harness.cell import Cell
from harness.live_checks import ASCII, UNICODE, WIDE, Signs, check_line, check_table
from harness.live_plain import PlainDisplay, name_of
from harness.phases import PHASES, passed_s
from harness.run import CellProgress
from harness.snapshot import LIVE, Snapshot, read_snapshot
from reports import figures
from reports.live_view import leading, so_far, stale
from reports.parts import SYMBOLS
from reports.terminal import STYLES

_IN_FULL = 2
"""So many running cells show all of their checks; of more, each shows the one that decides it."""
_KEPT_FREE = 3
"""Lines of the terminal that stay for what was there before."""


class Display(Protocol):
    def update(self, progress: CellProgress) -> None: ...


@contextmanager
def progress_display(console: Console, cells: Sequence[Cell], *, quiet: bool = False) -> Iterator[Display]:
    """Show cells while they run: live on a terminal, in lines elsewhere, not at all when ``quiet``."""
    if quiet:
        yield _NoDisplay()
    elif not console.is_terminal or console.is_dumb_terminal:
        yield PlainDisplay(console)
    else:
        display = LiveDisplay(cells)
        with Live(display, console=console, refresh_per_second=4, transient=True):
            yield display


class _NoDisplay:
    def update(self, progress: CellProgress) -> None:
        pass


class LiveDisplay:
    """What a terminal shows; it never needs more lines than there are."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._rows: dict[str, CellProgress] = {cell.run: CellProgress(cell) for cell in cells}
        self._snapshots = _Snapshots()
        self._began: dict[str, tuple[str, float]] = {}
        self._started = time.monotonic()

    def update(self, progress: CellProgress) -> None:
        run, phase = progress.cell.run, _phase(progress)
        if self._began.get(run, ("", 0.0))[0] != phase:
            self._began[run] = phase, time.monotonic()
        self._rows[run] = progress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = list(self._rows.values())
        running = [each for each in rows if each.state == "running"]
        over = [each for each in rows if each.exit_code is not None]
        waiting = len(rows) - len(running) - len(over)
        signs = UNICODE if options.encoding.startswith("utf") else ASCII
        width = options.max_width
        lines: list[RenderableType] = []
        for each in running:
            snapshot = self._snapshots.of(each.cell.run_dir)
            lines.append(self._head(each, snapshot, width))
            if len(running) <= _IN_FULL:
                lines += _in_full(each, snapshot, width, signs)
            else:
                lines.append(_in_brief(each, snapshot, width, signs))
        room = max(1, console.height - _KEPT_FREE - _height(running))
        hidden, shown = max(0, len(over) - room), over[-room:]
        elapsed = figures.clock(round(time.monotonic() - self._started))
        title = f"{len(over)} of {len(rows)} cells done, {elapsed}"
        title += f", {waiting} waiting" if waiting else ""
        title += f"; {hidden} done before these" if hidden else ""
        yield Text(title, style="bold")
        yield Group(*(_over(each) for each in shown), *lines)

    def _head(self, each: CellProgress, snapshot: Snapshot | None, width: int) -> Table:
        """Phase, how far it is, and the requests so far."""
        event, phase = each.event, _phase(each)
        began = self._began.get(each.cell.run, ("", time.monotonic()))[1]
        clock = figures.clock(round(time.monotonic() - began))
        passed = _passed(each, phase)
        if passed is not None:
            clock = f"{passed[0]:.0f}/{passed[1]:.0f}{figures.NBSP}s"
        elif phase == "spawn" and snapshot is not None and snapshot.users_asked:
            clock = f"{snapshot.users}/{snapshot.users_asked}"
        wide = width >= WIDE
        bar = 24 if wide else 6
        grid = Table.grid(
            Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            Column(width=11, no_wrap=True),
            Column(width=bar),
            Column(width=9, no_wrap=True, justify="right"),
            Column(width=9, no_wrap=True, justify="right"),
            *([Column(width=11, no_wrap=True, justify="right")] if wide else []),
            expand=True,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        verdict = snapshot.verdict if snapshot is not None and snapshot.judged else None
        sign = Text("▸ " if verdict is None else f"{SYMBOLS[verdict]} ", style=STYLES[verdict] if verdict else "dim")
        grid.add_row(
            sign.append(name_of(each.cell), style="bold"),
            Text(PHASES.get(phase, phase), style="cyan"),
            ProgressBar(total=passed[1] or 1.0, completed=passed[0], width=bar) if passed is not None else "",
            Text(clock),
            Text(f"{event['completed']:,} req" if "completed" in event else ""),
            *([Text(f"{event['failed']:,} failed" if event.get("failed") else "", style="red")] if wide else []),
        )
        return grid


def _in_full(each: CellProgress, snapshot: Snapshot | None, width: int, signs: Signs) -> Iterator[RenderableType]:
    """Everything that is known of a running cell."""
    phase, (done, now) = _phase(each), ("✓", "▸") if signs == UNICODE else ("+", ">")
    names = list(PHASES)
    place = names.index(phase) if phase in names else -1
    strip = Text("  ", no_wrap=True, overflow="ellipsis")
    for number, title in enumerate(PHASES.values()):
        sign = f"{done} " if number < place else f"{now} " if number == place else ""
        strip.append(f"{sign}{title} ", "cyan bold" if number == place else "dim")
    yield strip
    if phase == "server" and each.event.get("note"):
        yield _one_line(f"  {each.event['note']}", "dim")
    if snapshot is None:
        return
    sentence = f": {snapshot.sentence}" if snapshot.sentence else ""
    yield _one_line(f"  {so_far(snapshot)}{sentence}", STYLES[snapshot.verdict] if snapshot.judged else "dim")
    yield _one_line(f"  {facts_line(snapshot)}", "dim")
    if snapshot.checks:
        yield _indented(check_table(snapshot.checks, width - 2, signs))
    for warning in snapshot.client.warnings:
        yield _one_line(f"  ! this would make it INVALID: {warning}", STYLES[snapshot.verdict.INVALID])
    if old := stale(snapshot, phase, time.time()):
        yield _one_line(f"  {old}", "yellow")


def facts_line(snapshot: Snapshot) -> str:
    """Load and client health in one line; what is not known is left out."""
    share = figures.share(snapshot.slo_attainment)
    facts = (
        f"{snapshot.users:,}/{snapshot.users_asked:,} users" if snapshot.users < snapshot.users_asked else "",
        f"{snapshot.in_flight:,} in flight" if snapshot.in_flight is not None else "",
        f"{snapshot.failed:,} failed" if snapshot.failed else "",
        figures.rate(snapshot.throughput_rps) if snapshot.throughput_rps is not None else "",
        f"{share} within SLA" if snapshot.slo_attainment is not None else "",
        f"client late {figures.seconds(snapshot.client.hub_lag_p99_s)}"
        if snapshot.client.hub_lag_p99_s is not None
        else "",
    )
    return ", ".join(filter(None, facts))


def _in_brief(each: CellProgress, snapshot: Snapshot | None, width: int, signs: Signs) -> RenderableType:
    check = leading(snapshot.checks) if snapshot is not None else None
    if check is not None:
        return _indented(check_line(check, width - 4, signs), 4)
    note = str(each.event.get("note", "")) if _phase(each) == "server" else ""
    return _one_line(f"    {note or 'no request is judged yet'}", "dim")


def _over(each: CellProgress) -> Table:
    grid = Table.grid(
        Column(width=14, no_wrap=True), Column(ratio=1, no_wrap=True, overflow="ellipsis"), expand=True, pad_edge=False
    )
    if each.judgement is not None:
        verdict = each.judgement.verdict
        sentence = each.judgement.sentence.partition(": ")[2]
        grid.add_row(
            Text(f"{SYMBOLS[verdict]} {verdict.value}", style=STYLES[verdict]),
            Text(f"{name_of(each.cell)}: {_clean(sentence)}", style=""),
        )
    else:
        grid.add_row(Text("! failed", style="red"), Text(f"{name_of(each.cell)}: {_clean(each.error)}"))
    return grid


def _height(running: Sequence[CellProgress]) -> int:
    """Lines that running cells need at most, with room for some checks and warnings."""
    return 12 * len(running) if len(running) <= _IN_FULL else 2 * len(running)


def _phase(each: CellProgress) -> str:
    return str(each.event.get("phase", "starting")) if each.state == "running" else each.state


def _passed(each: CellProgress, phase: str) -> tuple[float, float] | None:
    timing, event = each.cell.timing, each.event
    return passed_s(
        phase,
        event.get("elapsed_s"),
        warm_up_s=timing.warm_up_s,
        run_time_s=timing.run_time_s,
        tail_s=each.cell.scenario.longest_limit_s,
    )


def _one_line(text: str, style: str) -> Text:
    return Text(_clean(text, keep=len(text) - len(text.lstrip())), style=style, no_wrap=True, overflow="ellipsis")


def _clean(text: str, keep: int = 0) -> str:
    return " " * keep + " ".join(figures.clean(text, 400).split())


def _indented(what: RenderableType, by: int = 2) -> Table:
    grid = Table.grid(Column(width=by), Column(ratio=1), expand=True, pad_edge=False)
    grid.add_row("", what)
    return grid


class _Snapshots:
    """The newest snapshot of each run directory, read again only after it was replaced."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[int, Snapshot | None]] = {}

    def of(self, run_dir: Path) -> Snapshot | None:
        try:
            changed = (run_dir / LIVE).stat().st_mtime_ns
        except OSError:
            return None
        if self._known.get(run_dir, (0, None))[0] != changed:
            self._known[run_dir] = changed, read_snapshot(run_dir)
        return self._known[run_dir][1]
