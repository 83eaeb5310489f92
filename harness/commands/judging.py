"""``harness judge`` and ``harness report``: recorded runs, judged and shown again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import CatalogOption, JsonOption, loaded_catalog, write_report


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
    run_dirs: Annotated[
        list[Path], typer.Argument(help="Directories of runs, capacity searches and comparisons, or folders of them.")
    ],
    output: Annotated[Path | None, typer.Option(help="The HTML file (default: report.html in the first).")] = None,
    catalog: CatalogOption = None,
) -> None:
    """Write one HTML report over what was recorded. A single search or comparison gets its own page again."""
    from harness.capacity_console import PAGE as CAPACITY_PAGE
    from harness.matrix import report_of
    from harness.recorded import find, judgements_of
    from reports import capacity, compare

    found = find(run_dirs)
    studies = found.studies()
    match found.runs, studies.capacities, studies.comparisons:
        case (), (search,), ():
            path = capacity.write(output or found.capacities[0] / CAPACITY_PAGE, search)
        case (), (), (comparison,):
            path = compare.write_page_of(output or found.comparisons[0] / compare.PAGE, comparison)
        case _:
            path = output or run_dirs[0] / "report.html"
            path = report_of(judgements_of(found.runs), path, loaded_catalog(catalog), studies=studies)
    typer.echo(path)
