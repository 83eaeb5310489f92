"""``harness``: the command line. Prints and exits; everything else is elsewhere.

Imports are inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from harness.errors import ExitCode, HarnessError, UsageError

try:
    import typer
except KeyboardInterrupt:  # the longest import; Ctrl-C ends it without a stack trace, as it does later
    sys.exit(ExitCode.INTERRUPTED)

if TYPE_CHECKING:
    from harness.catalog import Catalog
    from harness.cell import Cell
    from harness.judgement import Judgement

app = typer.Typer(
    name="harness",
    help="Which serving stack meets a scenario's SLA at this many users, at what cost, and does it still?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

CatalogOption = Annotated[
    list[Path] | None, typer.Option("--catalog", help="Your own YAML file or folder, on top of the built-in catalog.")
]
OtherGpuOption = Annotated[
    bool, typer.Option("--allow-other-gpu", help="Run a --real stack on other GPUs than its own, and mark the run.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines, nothing else.")]


def main() -> int:
    """Run the command line; every expected error is one sentence and its exit code."""
    # A scheduler's TERM ends everything in the same order as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except HarnessError as error:
        sys.stderr.write(f"harness: {error}\n")
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
    return ExitCode.PASS


def _catalog(extra: list[Path] | None) -> Catalog:
    from harness.catalog import load_catalog

    for path in extra or ():
        if not path.exists():
            raise UsageError(f"--catalog {path}: there is no such file or folder")
    return load_catalog(tuple(path.resolve() for path in extra or ()))


@app.command()
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
    input_tokens: Annotated[int | None, typer.Option(help="Synthetic prompts of this length.")] = None,
    calibration: Annotated[str | None, typer.Option(help="roofline or claims, for emulated stacks.")] = None,
    faults: Annotated[str, typer.Option(help="Faults that emulated stacks make, such as 500:0.1.")] = "",
    run_dir: Annotated[Path | None, typer.Option(help="Where to write (default: runs/TIME).")] = None,
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
    as_json: JsonOption = False,
    catalog: CatalogOption = None,
) -> None:
    """Stand stacks up, load them, judge the results and write one report."""
    from harness.connection import parse_body, parse_headers, parse_metrics_url
    from harness.live import show_run
    from harness.matrix import Options, build_cells

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
        input_tokens=input_tokens,
        calibration=calibration,
        real=real,
        allow_other_gpu=allow_other_gpu,
        max_cost_usd=max_cost,
        faults=faults,
        run_dir=run_dir,
        seed=seed,
    )
    loaded = _catalog(catalog)
    cells = build_cells(loaded, options)
    _agree_to_cost(cells, max_cost, yes)
    raise typer.Exit(show_run(loaded, cells, as_json=as_json))


def _agree_to_cost(cells: list[Cell], max_cost: float | None, yes: bool) -> None:
    from harness.estimate import agree_to_cost

    def ask(told: str) -> bool:
        return typer.confirm(f"{told}. Start?", err=True)

    terminal = sys.stdin.isatty() and sys.stderr.isatty()
    told = agree_to_cost(cells, max_cost_usd=max_cost, yes=yes, ask=ask if terminal else None)
    if told and yes:
        typer.echo(told, err=True)


@app.command()
def judge(
    run_dir: Annotated[Path, typer.Argument(help="A run directory, or a folder of them.")],
    report: Annotated[bool, typer.Option("--report", help="Write report.html as well.")] = False,
    as_json: JsonOption = False,
    catalog: CatalogOption = None,
) -> None:
    """Judge a recorded run again; also one that was cut off. Needs no server."""
    from harness.console import print_judgements
    from harness.judge import judge as judge_one
    from harness.judge import write_judgement
    from harness.runlog import run_directories

    judgements = []
    for directory in run_directories(run_dir):
        judgements.append(judge_one(directory))
        write_judgement(directory, judgements[-1])
    path = _write_report(judgements, run_dir / "report.html", _catalog(catalog)) if report else None
    raise typer.Exit(print_judgements(judgements, as_json=as_json, report=path))


@app.command()
def report(
    run_dirs: Annotated[list[Path], typer.Argument(help="Run directories, or folders of them.")],
    output: Annotated[Path | None, typer.Option(help="The HTML file (default: report.html in the first).")] = None,
    catalog: CatalogOption = None,
) -> None:
    """Write one HTML report over recorded runs."""
    from harness.judge import judge as judge_one
    from harness.judge import read_judgement
    from harness.runlog import JUDGEMENT, run_directories

    loaded = _catalog(catalog)
    directories = [directory for path in run_dirs for directory in run_directories(path)]
    judgements = [
        read_judgement(directory) if (directory / JUDGEMENT).exists() else judge_one(directory)
        for directory in directories
    ]
    typer.echo(_write_report(judgements, output or run_dirs[0] / "report.html", loaded))


def _write_report(judgements: list[Judgement], path: Path, catalog: Catalog) -> Path:
    from harness.matrix import report_of

    return report_of(judgements, path, catalog)


@app.command()
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
            _catalog(catalog), stack, scenario, port, calibration, faults, real, allow_other_gpu=allow_other_gpu
        )
    )


@app.command()
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


@app.command()
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


@app.command("list")
def list_(as_json: JsonOption = False, catalog: CatalogOption = None) -> None:
    """List scenarios, stacks, GPUs and profiles."""
    from harness.console import print_catalog

    print_catalog(_catalog(catalog), as_json=as_json)


@app.command()
def plan(
    scenarios: Annotated[list[str] | None, typer.Argument(help="Scenarios; all of them when none is named.")] = None,
    stack: Annotated[list[str] | None, typer.Option(help="Stacks; the scenario's and its variants when none.")] = None,
    as_json: JsonOption = False,
    catalog: CatalogOption = None,
) -> None:
    """Claim beside physical floor and capacity, without any load."""
    from harness.console import print_plan
    from harness.plan import plan as make_plan

    loaded = _catalog(catalog)
    rows = []
    for name in scenarios or loaded.scenarios:
        scenario = loaded.scenario(name)
        rows += make_plan(loaded, [name], stack or [*scenario.stacks, *scenario.variants])
    print_plan(rows, as_json=as_json)


@app.command()
def validate(files: Annotated[list[Path], typer.Argument(help="YAML files of scenarios, stacks, hardware.")]) -> None:
    """Check specification files, every mistake at once."""
    from harness.dataset import read_workload
    from harness.spec import Scenario
    from harness.strict_yaml import load_specs

    for _, spec in load_specs(files):
        if isinstance(spec, Scenario):
            read_workload(spec.workload)
    _catalog(files)  # names that refer to nothing
    typer.echo(f"{len(files)} file{'s are' if len(files) != 1 else ' is'} valid")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """What this machine can run, what is missing and how to get it."""
    from harness.console import print_doctor

    raise typer.Exit(print_doctor(as_json=as_json))


if __name__ == "__main__":
    sys.exit(main())
