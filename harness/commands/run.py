"""``harness run``: one verdict for each scenario and stack."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.commands.options import (
    AbortOnOption,
    CatalogOption,
    JsonOption,
    MinTimeOption,
    OtherGpuOption,
    UntilDecidedOption,
    loaded_catalog,
)

if TYPE_CHECKING:
    from harness.cell import Cell
    from harness.results_store import ResultsStore


def run(
    scenarios: Annotated[list[str] | None, typer.Argument(help="Scenarios; all of them when none is named.")] = None,
    stack: Annotated[list[str] | None, typer.Option(help="Stacks; the scenario's own when none is named.")] = None,
    profile: Annotated[str, typer.Option(help="How long: quick or full.")] = "quick",
    users: Annotated[int | None, typer.Option(help="Concurrent users, instead of the scenario's.")] = None,
    think_time: Annotated[float | None, typer.Option(help="Mean think time in seconds.")] = None,
    rate: Annotated[float | None, typer.Option(help="Requests/s of an open loop, instead of users.")] = None,
    arrivals: Annotated[
        str | None,
        typer.Option(
            help="How an open loop's requests arrive: poisson (the default), constant, gamma:cv=2, ramp:10-100, "
            "step:10,20,40, spike:10-100@30+5, trace:FILE.csv."
        ),
    ] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Output length to ask for.")] = None,
    run_time: Annotated[float | None, typer.Option(help="Seconds of load, warm-up included.")] = None,
    attach: Annotated[str | None, typer.Option(help="URL of a server that is there already.")] = None,
    model: Annotated[str, typer.Option(help="Model name to ask an attached server for.")] = "",
    protocol: Annotated[str, typer.Option(help="Protocol of an attached server.")] = "openai-chat",
    metrics_url: Annotated[str, typer.Option(help="Where an attached server counts (default: its /metrics).")] = "",
    header: Annotated[
        list[str] | None, typer.Option(help="'Name: value' for an attached server; ${VAR} is filled.")
    ] = None,
    extra_body: Annotated[str, typer.Option(help="JSON object merged into each request's body.")] = "{}",
    no_stream: Annotated[
        bool, typer.Option("--no-stream", help="Ask for whole answers: only their end is timed.")
    ] = False,
    ca_file: Annotated[str | None, typer.Option(help="PEM file of your own certificate authority.")] = None,
    api_key_env: Annotated[str, typer.Option(help="Environment variable that holds the key.")] = "OPENAI_API_KEY",
    dataset: Annotated[Path | None, typer.Option(help="JSONL of your own prompts.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Part of the prompts: train to tune on, held-out to confirm with, all.")
    ] = None,
    input_tokens: Annotated[int | None, typer.Option(help="Synthetic prompts of this length.")] = None,
    calibration: Annotated[str | None, typer.Option(help="roofline or claims, for emulated stacks.")] = None,
    faults: Annotated[str, typer.Option(help="Faults that emulated stacks make, such as 500:0.1.")] = "",
    until_decided: UntilDecidedOption = False,
    min_time: MinTimeOption = None,
    abort_on: AbortOnOption = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where to write (default: runs/TIME).")] = None,
    results: Annotated[
        str | None, typer.Option(help="Copy each sealed run there as well: s3://BUCKET/PREFIX or file:///FOLDER.")
    ] = None,
    real: Annotated[
        bool, typer.Option("--real", help="Start stacks on GPUs and APIs for real; otherwise they are emulated.")
    ] = False,
    allow_other_gpu: OtherGpuOption = False,
    max_cost: Annotated[
        float | None,
        typer.Option(help="USD at which stacks with a price per token stop, all of them together (default: 5)."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Agree to the estimated cost without being asked.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of prompts, think times and emulation.")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress: only a line a verdict, or --json's.")] = False,
    as_json: JsonOption = False,
    catalog: CatalogOption = None,
) -> None:
    """Stand stacks up, load them, judge the results and write one report."""
    from harness.connection import parse_body, parse_headers, parse_metrics_url
    from harness.live import show_run
    from harness.matrix import Options, build_cells
    from harness.stopping import stopping_from

    options = Options(
        scenarios=tuple(scenarios or ()),
        stacks=tuple(name for names in stack or () for name in names.split(",")),
        profile=profile,
        users=users,
        think_time_s=think_time,
        rate_rps=rate,
        arrivals=arrivals,
        output_tokens=output_tokens,
        run_time_s=run_time,
        attach=attach,
        model=model,
        protocol=protocol,
        metrics_url=parse_metrics_url(metrics_url),
        headers=parse_headers(header or []),
        extra_body=parse_body(extra_body),
        ca_file=ca_file,
        stream=not no_stream,
        api_key_env=api_key_env,
        dataset=dataset,
        split=split,
        input_tokens=input_tokens,
        calibration=calibration,
        real=real,
        allow_other_gpu=allow_other_gpu,
        max_cost_usd=max_cost,
        faults=faults,
        stopping=stopping_from(until_decided=until_decided, min_time_s=min_time, abort_on=abort_on or []),
        run_dir=run_dir,
        seed=seed,
    )
    loaded = loaded_catalog(catalog)
    cells = build_cells(loaded, options)
    _agree_to_cost(cells, max_cost, yes)
    store = None
    if results is not None:
        from harness.results_store import ResultsStore

        store = ResultsStore(results)
        store.check()
    code = show_run(loaded, cells, as_json=as_json, quiet=quiet)
    if store is not None:
        code = _stored(store, cells, code, quiet=quiet)
    raise typer.Exit(code)


def _stored(store: ResultsStore, cells: list[Cell], code: int, *, quiet: bool) -> int:
    """Copy what was sealed. Where that fails, PASS is no exit code any more; a verdict of another kind stays."""
    from harness.errors import ExitCode, HarnessError
    from harness.runlog import RunReader

    for cell in cells:
        try:
            if RunReader(cell.run_dir).manifest.sealed:
                place = store.publish(cell.run_dir, cell.run)
                if not quiet:
                    typer.echo(f"stored: {place}", err=True)
        except HarnessError as error:
            typer.echo(f"harness: {error}", err=True)
            code = code or ExitCode.USAGE
    return code


def _agree_to_cost(cells: list[Cell], max_cost: float | None, yes: bool) -> None:
    from harness.estimate import agree_to_cost

    def ask(told: str) -> bool:
        return typer.confirm(f"{told}. Start?", err=True)

    terminal = sys.stdin.isatty() and sys.stderr.isatty()
    told = agree_to_cost(cells, max_cost_usd=max_cost, yes=yes, ask=ask if terminal else None)
    if told and yes:
        typer.echo(told, err=True)
