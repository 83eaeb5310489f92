"""``harness export``: a recorded run in the formats of other tools."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.errors import UsageError


def export(
    run_dir: Annotated[Path, typer.Argument(help="A run directory.")],
    as_csv: Annotated[bool, typer.Option("--csv", help="Samples as CSV: facts and metrics, a row a request.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="The file (default: samples.csv in the run directory); - is standard output.")
    ] = None,
) -> None:
    """Write a run's samples for a spreadsheet; sealed, or cut off."""
    from harness.runlog import RunReader, replacing
    from harness.samples_csv import write_csv

    if not as_csv:
        raise UsageError(f"say as what: harness export {run_dir} --csv")
    reader = RunReader(run_dir)
    if output == Path("-"):
        write_csv(reader, sys.stdout.buffer)
        return
    path = output or run_dir / "samples.csv"
    with replacing(path) as file:
        rows = write_csv(reader, file)
    typer.echo(f"{rows:,} requests: {path}")
