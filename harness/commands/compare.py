"""``harness compare``: is B better than A, over launches that are there or launches made in turn."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.commands.options import CatalogOption, JsonOption, loaded_catalog
from harness.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from harness.comparison import Comparison
    from harness.differences import Rules


def compare(
    arms: Annotated[
        list[str] | None,
        typer.Argument(help="A and B: run directories, folders of them, or (--interleave) stacks as stack@users=10."),
    ] = None,
    more: Annotated[list[str] | None, typer.Option(help="Further arms, each against A.")] = None,
    interleave: Annotated[bool, typer.Option("--interleave", help="Launch the arms in turn, and compare.")] = False,
    experiment: Annotated[str | None, typer.Option(help="Launch an experiment of the catalog in turn.")] = None,
    scenario: Annotated[str | None, typer.Option(help="Scenario of --interleave.")] = None,
    launches: Annotated[
        int | None, typer.Option(help="Launches of each arm (default: 3, or the experiment's).")
    ] = None,
    profile: Annotated[str, typer.Option(help="How long each launch is: quick or full.")] = "quick",
    users: Annotated[int | None, typer.Option(help="Users of every arm that names none.")] = None,
    run_time: Annotated[float | None, typer.Option(help="Seconds of load of each launch, warm-up included.")] = None,
    real: Annotated[
        bool, typer.Option("--real", help="Stacks for real; of an experiment, its arms on a real engine.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the order, the prompts, think times and emulation.")] = 1,
    run_dir: Annotated[Path | None, typer.Option(help="Where launches go (default: runs/TIME-compare).")] = None,
    min_effect: Annotated[str, typer.Option(help="Smallest difference that matters, of ratios.")] = "5%",
    output: Annotated[
        Path | None, typer.Option(help="Folder of compare.html and compare.json (default: the launches', or B).")
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate", help="Exit with 99 when B is worse, 98 when nothing could be said.")
    ] = False,
    as_json: JsonOption = False,
    catalog: CatalogOption = None,
) -> None:
    """Compare arms launch by launch: better, worse, no difference shown, or too few samples."""
    from harness.differences import Rules

    rules = Rules(min_effect=_share(min_effect))
    named = [*(arms or ()), *(more or ())]
    in_turn = interleave or experiment is not None
    if experiment is not None and named:
        raise UsageError("--experiment brings its own arms: leave A and B out")
    if experiment is None and len(named) < 2:
        raise UsageError("name two arms, A and B, or an experiment: harness compare A B")
    options = {"--scenario": scenario, "--launches": launches, "--run-dir": run_dir, "--run-time": run_time}
    given = [name for name, value in {**options, "--users": users, "--real": real or None}.items() if value is not None]
    if given and not in_turn:
        raise UsageError(f"{', '.join(given)}: only with --interleave or --experiment, which make launches")
    if in_turn:
        from harness.compare_console import launch

        code, found, folder = launch(
            loaded_catalog(catalog),
            named,
            rules,
            experiment=experiment,
            scenario=scenario,
            launches=launches,
            profile=profile,
            users=users,
            run_time_s=run_time,
            real=real,
            seed=seed,
            run_dir=run_dir,
            command=shlex.join(["harness", *sys.argv[1:]]),
        )
    else:
        code, found, folder = ExitCode.PASS, _recorded(named, rules), Path(named[1])
    _show(found, output or folder, as_json=as_json)
    raise typer.Exit(code or (_gate(found) if gate else ExitCode.PASS))


def _recorded(named: list[str], rules: Rules) -> Comparison:
    from harness.compare import compare as compare_arms
    from harness.launches import read_arms, require_folders

    folders = [Path(name) for name in named]
    require_folders(folders)
    labels = named if len(set(named)) == len(named) else [f"{name} ({place})" for place, name in enumerate(named, 1)]
    arms, interleaved = read_arms(labels, folders)
    return compare_arms(arms, rules, interleaved=interleaved, command=shlex.join(["harness", *sys.argv[1:]]))


def _show(found: Comparison, folder: Path, *, as_json: bool) -> None:
    from rich.console import Console

    from harness.compare_log import write_comparison
    from harness.console import write_json
    from reports.compare import PAGE, print_comparison, write_page_of

    write_comparison(folder, found)
    page = write_page_of(folder / PAGE, found)
    if as_json:
        write_json(found.model_dump(mode="json"))
        return
    out = Console()
    print_comparison(out, found)
    out.print(f"comparison: {page}", markup=False, highlight=False, soft_wrap=True)


def _gate(found: Comparison) -> ExitCode:
    from harness.comparison import Finding

    if found.worse:
        return ExitCode.FAIL
    unsaid = (Finding.TOO_FEW, Finding.NOT_MEASURED)
    return ExitCode.INCONCLUSIVE if any(pair.finding in unsaid for pair in found.pairs) else ExitCode.PASS


def _share(text: str) -> float:
    try:
        value = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise UsageError(f"--min-effect must look like 5% or 0.05, not {text}")
    return value
