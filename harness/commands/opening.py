"""``harness open``: the report of a recorded run, in a browser or over HTTP on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import CatalogOption, RunsOption, loaded_catalog
from harness.errors import UsageError


def open_(
    run: Annotated[
        Path | None,
        typer.Argument(help="A run directory, a folder of them, or a name in --runs (default: the newest)."),
    ] = None,
    runs: RunsOption = Path("runs"),
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the folder of runs on 127.0.0.1, until Ctrl-C.")
    ] = False,
    port: Annotated[int | None, typer.Option(help="Port of --serve (default: a free one).", min=0, max=65535)] = None,
    print_only: Annotated[bool, typer.Option("--print", help="Only print where the report lies.")] = False,
    catalog: CatalogOption = None,
) -> None:
    """Open a run's report, which is written if it is missing."""
    from harness.runs_console import open_page, page_of, serve_runs

    if serve and print_only:
        raise UsageError("--print only says where the report lies, --serve serves it: give one of them")
    if port is not None and not serve:
        raise UsageError("--port is the port of --serve: give that as well")
    if serve and run is None:
        if not runs.is_dir():
            raise UsageError(f"there is no folder {runs}; say where the runs are with --runs")
        raise typer.Exit(serve_runs(runs.resolve(), None, port or 0))
    page = page_of(run, runs, loaded_catalog(catalog))
    if print_only:
        typer.echo(page)
    elif serve:
        inside = page.resolve().is_relative_to(runs.resolve())
        root = runs if inside else page.parent
        raise typer.Exit(serve_runs(root.resolve(), page, port or 0))
    else:
        raise typer.Exit(open_page(page))
