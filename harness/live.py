"""``harness run`` on the screen: progress while cells run, then verdicts and the report's path."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from harness.advice import advise
from harness.catalog import Catalog
from harness.cell import Cell
from harness.console import write_json
from harness.live_display import progress_display
from harness.live_plain import name_of
from harness.matrix import report_of
from harness.recommend import Recommendation
from harness.run import CellProgress, exit_code, run_cells
from reports.terminal import print_verdicts, verdict_line


def show_run(catalog: Catalog, cells: list[Cell], *, as_json: bool, quiet: bool = False) -> int:
    """Run cells with a progress display, write the report, print the verdicts; return the exit code.

    ``quiet`` leaves a line a cell, and the reasons of those that failed.
    """
    err = Console(stderr=True)
    base = cells[0].run_dir if len(cells) == 1 else cells[0].run_dir.parent
    with progress_display(err, cells, quiet=quiet) as display:
        progress = run_cells(cells, display.update)
    judgements = [each.judgement for each in progress if each.judgement is not None]
    code = exit_code(progress)
    report: Path | None = None
    advice: list[Recommendation] = []
    if judgements:
        if not quiet:
            err.print("writing the report", style="dim")
        advice = advise(judgements, catalog, datetime.now(UTC).date())
        report = report_of(judgements, base / "report.html", catalog, advice)
    for each in progress:
        if each.error:
            text = f"{name_of(each.cell)}: {each.error}"
            err.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        write_json(_run_json(progress, code, report, advice))
        return code
    out = Console()
    if quiet:
        for judgement in judgements:
            out.print(Text(verdict_line(judgement)), soft_wrap=True)
        return code
    if judgements:
        print_verdicts(out, judgements, advice)
    if report is not None:
        out.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)
    return code


def _run_json(
    progress: Sequence[CellProgress], code: int, report: Path | None, advice: Sequence[Recommendation]
) -> dict[str, Any]:
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
        "recommendations": [each.model_dump(mode="json") for each in advice],
    }
