"""``harness install``, ``models`` and ``doctor``: what this machine has and can get."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.commands.options import JsonOption
from harness.errors import UsageError


def install(
    engine: Annotated[str | None, typer.Argument(help="An engine; the table of them when none is named.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; say what is missing (exit code 3).")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the environment; models stay.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make the environment that an engine runs in; repeat it after an interrupt."""
    from harness.install_console import install_engine, print_engines

    if engine is None and (check or remove):
        raise UsageError("name the engine: harness install ENGINE; without one, all of them are listed")
    if check and remove:
        raise UsageError("--check changes nothing and --remove deletes: give one of them")
    raise typer.Exit(print_engines(as_json=as_json) if engine is None else install_engine(engine, check, remove))


def models(
    name: Annotated[
        str | None, typer.Argument(help="One to fetch or make, also hf:ORGANISATION/NAME or random:SHAPE.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; read the weights and check digests.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List models, or fetch or make one; repeat it after an interrupt."""
    from harness.install_console import check_models, fetch_model, print_models

    if check:
        raise typer.Exit(check_models(name))
    raise typer.Exit(print_models(as_json=as_json) if name is None else fetch_model(name))


def doctor(as_json: JsonOption = False) -> None:
    """What this machine can run, what is missing and how to get it."""
    from harness.console import print_doctor

    raise typer.Exit(print_doctor(as_json=as_json))
