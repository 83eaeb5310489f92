"""``harness capacity``: how many users, or how many requests a second, a stack carries, and what that costs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.commands.options import CatalogOption, JsonOption, OtherGpuOption, UntilDecidedOption, loaded_catalog
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.capacity_run import Search


def capacity(
    scenario: Annotated[str, typer.Argument(help="The scenario whose SLA has to hold.")],
    stack: Annotated[str | None, typer.Option(help="The stack to load.")] = None,
    rate: Annotated[
        bool, typer.Option("--rate", help="Search the largest rate of an open loop, instead of the most users.")
    ] = False,
    start: Annotated[float | None, typer.Option(help="The first level (default: a quarter of the scenario's).")] = None,
    users_max: Annotated[
        int | None, typer.Option(help="No level is above it (default: 8 times the scenario's).")
    ] = None,
    rate_max: Annotated[float | None, typer.Option(help="The same for --rate, requests/s.")] = None,
    levels_max: Annotated[int, typer.Option(help="The most levels; each is decided at 1 - 5% / this.")] = 12,
    precision: Annotated[float, typer.Option(help="How close the interval's ends shall come, relative.")] = 0.05,
    profile: Annotated[str, typer.Option(help="How long a level runs: quick or full.")] = "quick",
    run_time: Annotated[
        float | None, typer.Option(help="Seconds of load a level (default: the profile's, longer at light loads).")
    ] = None,
    until_decided: UntilDecidedOption = False,
    think_time: Annotated[float | None, typer.Option(help="Mean think time in seconds.")] = None,
    arrivals: Annotated[str | None, typer.Option(help="With --rate: poisson, constant or gamma:cv=2.")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Output length to ask for.")] = None,
    input_tokens: Annotated[int | None, typer.Option(help="Synthetic prompts of this length.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="JSONL of your own prompts.")] = None,
    attach: Annotated[str | None, typer.Option(help="URL of a server that is there already.")] = None,
    model: Annotated[str, typer.Option(help="Model name to ask an attached server for.")] = "",
    protocol: Annotated[str, typer.Option(help="Protocol of an attached server.")] = "openai-chat",
    header: Annotated[
        list[str] | None, typer.Option(help="'Name: value' for an attached server; ${VAR} is filled.")
    ] = None,
    api_key_env: Annotated[str, typer.Option(help="Environment variable that holds the key.")] = "OPENAI_API_KEY",
    calibration: Annotated[str | None, typer.Option(help="roofline or claims, for emulated stacks.")] = None,
    faults: Annotated[str, typer.Option(help="Faults that emulated stacks make, such as 500:0.1.")] = "",
    real: Annotated[bool, typer.Option("--real", help="Start the stack for real; otherwise it is emulated.")] = False,
    allow_other_gpu: OtherGpuOption = False,
    max_cost: Annotated[float | None, typer.Option(help="USD at which a search on a paid API stops.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Agree to that cost without being asked.")] = False,
    utilisation: Annotated[float, typer.Option(help="Share of its capacity that a replica is planned for.")] = 0.8,
    spare: Annotated[int, typer.Option(help="Spare replicas: 1 is N+1.")] = 1,
    daily_load: Annotated[
        str, typer.Option(help="flat, office-hours, consumer, or 24 weights with commas.")
    ] = "office-hours",
    against: Annotated[
        str | None, typer.Option(help="API stack of the break-even (default: the scenario's first).")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="An API account's limit, where it says none.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="The same in tokens.")] = None,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Then run the replicas that it takes, at the scenario's load.")
    ] = False,
    run_dir: Annotated[Path | None, typer.Option(help="Where to write (default: runs/TIME-capacity).")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the search in --run-dir; its sealed levels stay.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of prompts, think times and emulation.")] = 1,
    as_json: JsonOption = False,
    catalog: CatalogOption = None,
) -> None:
    """Search the largest load that meets the SLA; say replicas, cost and break-even. Ctrl-C keeps what was found."""
    import shlex
    from datetime import UTC, date, datetime

    from harness.capacity_console import show_capacity
    from harness.capacity_log import is_capacity, read_capacity
    from harness.capacity_run import Search, SizingOptions, default_settings, new_record, resumed
    from harness.capacity_sizing import api_stack
    from harness.connection import parse_headers
    from harness.daily_profile import daily_profile
    from harness.matrix import RUNS, Options
    from harness.sizing import check_sizing
    from harness.stopping import Stopping

    if (stack is None) == (attach is None):
        raise UsageError("give one --stack to load, or --attach for a server that is there")
    if rate and users_max is not None:
        raise UsageError("--users-max belongs to a search for users; with --rate give --rate-max")
    if not rate and (rate_max is not None or arrivals is not None):
        raise UsageError("--rate-max and --arrivals belong to an open loop: give --rate as well")
    if rate and think_time is not None:
        raise UsageError("--think-time belongs to a search for users; arrivals of --rate do not think")
    if resume and run_dir is None:
        raise UsageError("--resume needs --run-dir, the directory of the search to go on with")
    check_sizing(utilisation, spare)
    profile_name, daily = daily_profile(daily_load)
    loaded = loaded_catalog(catalog)
    settings = default_settings(
        loaded.scenario(scenario),
        "rate" if rate else "users",
        start=start,
        most=rate_max if rate else users_max,
        levels_max=levels_max,
        precision=precision,
    )
    directory = (run_dir or RUNS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-capacity").resolve()
    options = Options(
        scenarios=(scenario,),
        stacks=(stack,) if stack else (),
        profile=profile,
        think_time_s=think_time,
        arrivals=arrivals,
        output_tokens=output_tokens,
        input_tokens=input_tokens,
        dataset=dataset,
        run_time_s=run_time,
        attach=attach,
        model=model,
        protocol=protocol,
        headers=parse_headers(header or []),
        api_key_env=api_key_env,
        calibration=calibration,
        real=real,
        allow_other_gpu=allow_other_gpu,
        max_cost_usd=max_cost,
        faults=faults,
        stopping=Stopping(until_decided=until_decided),
        seed=seed,
    )
    sizing = SizingOptions(profile_name, daily, utilisation, spare, against, requests_per_minute, tokens_per_minute)
    command = shlex.join(["harness", *sys.argv[1:]])
    search = Search(loaded, options, settings, sizing, directory, date.today(), command)
    record = new_record(search)
    api_stack(search, loaded.scenario(scenario))
    if is_capacity(directory):
        if not resume:
            raise UsageError(
                f"{directory} holds a search already: give --resume to go on with it, or another --run-dir"
            )
        record = resumed(search, read_capacity(directory))
    elif resume:
        raise UsageError(f"--resume: {directory} holds no search to go on with")
    _agree_to_cost(search, max_cost, yes)
    raise typer.Exit(show_capacity(search, record, confirmed=confirm, as_json=as_json))


def _agree_to_cost(search: Search, max_cost: float | None, yes: bool) -> None:
    """A search's number of levels is not known beforehand, so its cap has to be named."""
    from harness.capacity_run import level_cell
    from harness.estimate import agree_to_cost, estimate_of

    first = level_cell(search, search.settings.start, search.directory)
    told = estimate_of(first)
    if told is None:
        agree_to_cost([first], max_cost_usd=max_cost, yes=yes, ask=None)
        return
    most = search.settings.levels_max
    if max_cost is None:
        raise UsageError(
            f"a search takes up to {most} levels, and this stack is paid by the token (the first level:"
            f" {told.sentence}): give --max-cost USD for all of them together"
        )
    said = f"up to {most} levels, the first of them: {told.sentence}; the cap of ${max_cost:g} holds for all together"
    if yes:
        typer.echo(said, err=True)
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty() and typer.confirm(f"{said}. Start?", err=True)):
        raise UsageError(f"{said}; nothing was started: give --yes to agree to it")
