"""``harness list``, ``plan`` and ``validate``: what the catalog holds and what physics says of it; what was run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import CatalogOption, JsonOption, RunsOption, loaded_catalog


class Listed(StrEnum):
    CATALOG = "catalog"
    RUNS = "runs"


def list_(
    what: Annotated[Listed, typer.Argument(help="The catalog, or the recorded runs.")] = Listed.CATALOG,
    runs: RunsOption = Path("runs"),
    as_json: JsonOption = False,
    catalog: CatalogOption = None,
) -> None:
    """List scenarios, stacks, GPUs, profiles and experiments; or, as `list runs`, what was run."""
    from harness.console import print_catalog
    from harness.runs_console import print_runs

    if what is Listed.RUNS:
        print_runs(runs, as_json=as_json)
        return
    print_catalog(loaded_catalog(catalog), as_json=as_json)


def plan(
    scenarios: Annotated[list[str] | None, typer.Argument(help="Scenarios; all of them when none is named.")] = None,
    stack: Annotated[list[str] | None, typer.Option(help="Stacks; the scenario's and its variants when none.")] = None,
    as_json: JsonOption = False,
    catalog: CatalogOption = None,
) -> None:
    """Claim beside physical floor and capacity, without any load."""
    from datetime import date

    from harness.console import print_plan
    from harness.plan import plan as make_plan
    from harness.price_age import price_tag

    loaded = loaded_catalog(catalog)
    rows = []
    for name in scenarios or [each.name for each in loaded.unasked_scenarios]:
        scenario = loaded.scenario(name)
        rows += make_plan(loaded, [name], stack or [*scenario.stacks, *scenario.variants])
    flags = {row.stack: price_tag(loaded.stack(row.stack), date.today()).flag for row in rows}
    rows = [row.model_copy(update={"price_flag": flags[row.stack]}) for row in rows]
    print_plan(rows, as_json=as_json)


def validate(
    files: Annotated[list[Path], typer.Argument(help="YAML files of scenarios, stacks, hardware, experiments.")],
) -> None:
    """Check specification files, every mistake at once."""
    from harness.compare_run import trial_of, turns
    from harness.dataset import read_workload
    from harness.experiments import Experiment
    from harness.spec import Scenario
    from harness.strict_yaml import load_specs

    specs = [spec for _, spec in load_specs(files)]
    for spec in specs:
        if isinstance(spec, Scenario):
            read_workload(spec.workload)
    loaded = loaded_catalog(files)  # names that refer to nothing
    for spec in specs:
        if isinstance(spec, Experiment):
            for real in (False, True) if spec.real else (False,):
                turns(loaded, trial_of(loaded, spec.name, real=real))
    typer.echo(f"{len(files)} file{'s are' if len(files) != 1 else ' is'} valid")
