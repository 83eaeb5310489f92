"""``harness audit``: what was claimed, beside what physics allows and what was measured."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import CatalogOption, JsonOption, loaded_catalog, recorded_judgements


def audit(
    scenarios: Annotated[list[str] | None, typer.Argument(help="Scenarios; all of them when none is named.")] = None,
    stack: Annotated[list[str] | None, typer.Option(help="Stacks; each scenario's own when none.")] = None,
    runs: Annotated[
        list[Path] | None, typer.Option(help="A run directory, or a folder of them, to hold the claims against.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the audit as one HTML file as well.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 99 when a claim is impossible.")] = False,
    as_json: JsonOption = False,
    catalog: CatalogOption = None,
) -> None:
    """Hold claims of latency, memory, users and cost against physics, themselves and recorded runs."""
    from rich.console import Console

    from harness.audit import audit as audit_claims
    from harness.console import write_json
    from harness.errors import ExitCode
    from reports.audit import print_audit, write

    loaded = loaded_catalog(catalog)
    judgements = recorded_judgements(runs or ())
    found = audit_claims(loaded, datetime.now(UTC).date(), scenarios or None, stack or None, judgements)
    path = write(output, found) if output is not None else None
    if as_json:
        write_json({"summary": found.summary, **found.model_dump(mode="json")})
    else:
        out = Console()
        print_audit(out, found)
        if path is not None:
            out.print(f"page: {path}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(ExitCode.FAIL if strict and found.impossible else ExitCode.PASS)
