"""``harness serve``: a stack's server, until Ctrl-C."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.commands.options import CatalogOption, OtherGpuOption, loaded_catalog


def serve(
    stack: Annotated[str, typer.Argument(help="A stack of the catalog.")],
    scenario: Annotated[str, typer.Option(help="Whose workload the emulator expects.")] = "chatbot",
    port: Annotated[int | None, typer.Option(help="Port on 127.0.0.1 (default: a free one).")] = None,
    calibration: Annotated[str | None, typer.Option(help="roofline or claims, for an emulated stack.")] = None,
    real: Annotated[
        bool, typer.Option("--real", help="Start a stack on GPUs for real; otherwise it is emulated.")
    ] = False,
    allow_other_gpu: OtherGpuOption = False,
    faults: Annotated[str, typer.Option(help="Faults that an emulated stack makes.")] = "",
    catalog: CatalogOption = None,
) -> None:
    """Start a stack's server and keep it until Ctrl-C."""
    from harness.console import serve_until_interrupted

    raise typer.Exit(
        serve_until_interrupted(
            loaded_catalog(catalog), stack, scenario, port, calibration, faults, real, allow_other_gpu=allow_other_gpu
        )
    )
