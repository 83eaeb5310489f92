"""``harness run`` on the screen: progress while cells run, then verdicts and the report's path."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from harness.catalog import Catalog
from harness.cell import Cell
from harness.console import write_json
from harness.judgement import Verdict
from harness.matrix import report_of
from harness.recommend import Recommendation, recommendations
from harness.run import CellProgress, exit_code, run_cells
from reports.terminal import print_verdicts

_STYLES = {
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.INVALID: "bold magenta",
}
_PLAIN_EVERY_S = 10.0
"""Without a terminal, a running cell says where it is this often."""


def show_run(catalog: Catalog, cells: list[Cell], *, as_json: bool) -> int:
    """Run cells with a progress display, write the report, print the verdicts; return the exit code."""
    err = Console(stderr=True)
    base = cells[0].run_dir if len(cells) == 1 else cells[0].run_dir.parent
    with display_of(err, cells) as display:
        progress = run_cells(cells, display.update)
    judgements = [each.judgement for each in progress if each.judgement is not None]
    code = exit_code(progress)
    report: Path | None = None
    advice: list[Recommendation] = []
    if judgements:
        err.print("writing the report", style="dim")
        advice = recommendations(judgements, catalog)
        report = report_of(judgements, base / "report.html", catalog, advice)
    for each in progress:
        if each.error:
            text = f"{_name(each.cell)}: {each.error}"
            err.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        write_json(_run_json(progress, code, report))
        return code
    out = Console()
    if judgements:
        print_verdicts(out, judgements, advice)
    if report is not None:
        out.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)
    return code


def _run_json(progress: Sequence[CellProgress], code: int, report: Path | None) -> dict[str, Any]:
    return {
        "exit_code": int(code),
        "report": str(report) if report else None,
        "cells": [
            {
                "scenario": each.cell.scenario.name,
                "stack": each.cell.stack.name,
                "run_dir": str(each.cell.run_dir),
                "verdict": str(each.judgement.verdict) if each.judgement else None,
                "sentence": each.judgement.sentence if each.judgement else each.error,
                "exit_code": each.exit_code,
                "marks": [str(mark) for mark in each.judgement.marks] if each.judgement else [],
            }
            for each in progress
        ],
    }


class _Display(Protocol):
    def update(self, progress: CellProgress) -> None: ...


@contextmanager
def display_of(console: Console, cells: Sequence[Cell]) -> Iterator[_Display]:
    if not console.is_terminal:
        yield _PlainDisplay(console)
        return
    display = _LiveDisplay(cells)
    with Live(get_renderable=display.table, console=console, refresh_per_second=4, transient=True):
        yield display


class _LiveDisplay:
    """One row a cell, kept up to date."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._rows: dict[str, CellProgress] = {cell.run: CellProgress(cell) for cell in cells}
        self._started = time.monotonic()

    def update(self, progress: CellProgress) -> None:
        self._rows[progress.cell.run] = progress

    def table(self) -> Table:
        rows = self._rows.values()
        done = sum(each.exit_code is not None for each in rows)
        elapsed = time.monotonic() - self._started
        table = Table(title=f"{done} of {len(self._rows)} cells done, {elapsed:.0f} s", box=None, title_justify="left")
        for column in ("scenario", "stack", "users", "phase", "time", "requests", "failed"):
            table.add_column(column, justify="right" if column in ("users", "time", "requests", "failed") else "left")
        for each in rows:
            table.add_row(*_row(each), style="dim" if each.state == "waiting" else None)
        return table


def _row(each: CellProgress) -> list[str]:
    event = each.event
    phase = each.state if each.state != "running" else str(event.get("phase", "starting"))
    if each.judgement is not None:
        style = _STYLES.get(each.judgement.verdict, "")
        phase = f"[{style}]{each.judgement.verdict}[/]"
    elapsed, of = event.get("elapsed_s"), event.get("of_s")
    clock = f"{elapsed:.0f}/{of:.0f} s" if isinstance(elapsed, float | int) and isinstance(of, float | int) else ""
    arrivals = each.cell.scenario.arrivals
    users = f"{event.get('users', 0)}/{each.cell.scenario.users}" if "users" in event else str(each.cell.scenario.users)
    if arrivals is not None:
        users = f"{arrivals.peak_rps:g}/s" if arrivals.peak_rps else "trace"
    return [
        each.cell.scenario.name,
        each.cell.stack.name,
        users,
        phase,
        "" if each.judgement else clock,
        str(event.get("completed", "")),
        str(event.get("failed", "")),
    ]


class _PlainDisplay:
    """Lines for logs: each phase once, and a sign of life during long ones."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[str, tuple[str, float]] = {}

    def update(self, progress: CellProgress) -> None:
        name = _name(progress.cell)
        phase = (
            str(progress.judgement.verdict) if progress.judgement else str(progress.event.get("phase", progress.state))
        )
        last, said_s = self._last.get(name, ("", 0.0))
        now = time.monotonic()
        if phase == last and now - said_s < _PLAIN_EVERY_S:
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
        self._console.print(f"{name}: {phase} {numbers}".rstrip(), markup=False, highlight=False, soft_wrap=True)


def _name(cell: Cell) -> str:
    return f"{cell.scenario.name} on {cell.stack.name}"
