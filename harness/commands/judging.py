"""``harness judge`` and ``harness report``: recorded runs, judged and shown again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import CatalogOption, JsonOption, loaded_catalog, recorded_judgements, write_report
from harness.errors import UsageError


def judge(
    run_dir: Annotated[Path, typer.Argument(help="A run directory, or a folder of them.")],
    report: Annotated[bool, typer.Option("--report", help="Write report.html as well.")] = False,
    as_json: JsonOption = False,
    catalog: CatalogOption = None,
) -> None:
    """Judge a recorded run again; also one that was cut off. Needs no server."""
    from harness.console import print_judgements
    from harness.errors import ScoringError
    from harness.judge import judge as judge_one
    from harness.judge import write_judgement
    from harness.quality_run import ensure_scored
    from harness.runlog import run_directories

    judgements = []
    for directory in run_directories(run_dir):
        try:
            ensure_scored(directory)
        except ScoringError as error:  # what was timed stands, whatever became of the texts
            typer.echo(f"harness: answers were not scored: {error}", err=True)
        judgements.append(judge_one(directory))
        write_judgement(directory, judgements[-1])
    path = write_report(judgements, run_dir / "report.html", loaded_catalog(catalog)) if report else None
    raise typer.Exit(print_judgements(judgements, as_json=as_json, report=path))


def report(
    run_dirs: Annotated[list[Path], typer.Argument(help="Run directories, or folders of them.")],
    output: Annotated[Path | None, typer.Option(help="The HTML file (default: report.html in the first).")] = None,
    catalog: CatalogOption = None,
) -> None:
    """Write one HTML report over recorded runs, or the page of a capacity search."""
    from harness.capacity_log import is_capacity

    if any(is_capacity(path) for path in run_dirs):
        typer.echo(_capacity_page(run_dirs, output))
        return
    loaded = loaded_catalog(catalog)
    judgements = recorded_judgements(run_dirs)
    typer.echo(write_report(judgements, output or run_dirs[0] / "report.html", loaded))


def _capacity_page(directories: list[Path], output: Path | None) -> Path:
    from harness.capacity_log import read_capacity
    from reports import capacity

    if len(directories) > 1:
        raise UsageError("a capacity search has a page of its own: give its directory alone, or those of its levels")
    return capacity.write(output or directories[0] / "capacity.html", read_capacity(directories[0]))
