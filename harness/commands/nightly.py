"""``harness nightly``: every cell of a file, unattended."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from harness.nightly.plan import Plan
    from harness.nightly.spec import Nightly


def nightly(
    config: Annotated[Path, typer.Argument(help="YAML, kind: nightly; see docs/nightly.md.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the last night if it was cut off; otherwise begin a new one.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run and what retention would remove; change nothing.")
    ] = False,
    results: Annotated[
        str | None, typer.Option(help="s3://BUCKET/PREFIX or file:///FOLDER, instead of the file's.")
    ] = None,
) -> None:
    """Run scenarios x stacks x variants; one page, one exit code. Meant for cron and CI."""
    from harness.nightly.plan import plan_night
    from harness.nightly.runner import run_night
    from harness.nightly.spec import load_nightly
    from harness.results_store import ResultsStore
    from reports.nightly_page import SUMMARY

    spec = load_nightly(config)
    if results is not None:
        spec = spec.model_copy(update={"results": results})
    if spec.results:
        ResultsStore(spec.results)
    plan = plan_night(spec, config.resolve().parent)
    if dry_run:
        _show_plan(spec, plan)
        return
    webhook = os.environ.get(spec.notify.url_env, "") if spec.notify is not None else ""
    night, folder = run_night(spec, plan, resume=resume, say=lambda text: typer.echo(text, err=True), webhook=webhook)
    typer.echo(night.sentence)
    typer.echo(f"summary: {folder / SUMMARY}")
    raise typer.Exit(night.exit_code or 0)


def _show_plan(spec: Nightly, plan: Plan) -> None:
    from datetime import UTC, datetime

    from harness.nightly.disk import free_gib
    from harness.nightly.plan import in_order
    from harness.nightly.retention import planned_removals
    from harness.nightly.store import nights, read_night

    root = Path(spec.runs).resolve()
    names = nights(root)
    last = read_night(root / names[-1]) if names else None
    used = 0.0
    for cell in in_order(plan.cells, spec.order, last):
        fits = spec.budget_s is None or used + cell.expected_s <= spec.budget_s
        used += cell.expected_s if fits else 0.0
        typer.echo(f"{'run' if fits else 'NOT RUN':<8} {cell.key}  about {cell.expected_s:,.0f} s")
    budget = "" if spec.budget_s is None else f" of {spec.budget_s:,.0f} s"
    typer.echo(f"{len(plan.cells)} cells, about {used:,.0f} s{budget}")
    there = next(path for path in (root, *root.parents) if path.exists())
    typer.echo(f"{free_gib(there):,.3g} GiB are free at {root}; min_free_gib asks for {spec.min_free_gib:g}")
    removals = planned_removals(root, spec, datetime.now(UTC))
    for removal in removals:
        typer.echo(f"retention would {removal.text}")
    if not removals:
        typer.echo("retention would remove nothing")
