"""From options to cells, and from judged cells to one report."""

from __future__ import annotations

import shlex
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from harness.advice import advise
from harness.audit import Audit, audit
from harness.audit.lines import AuditLine
from harness.candidates import quality_rank
from harness.catalog import Catalog
from harness.cell import (
    Cell,
    Overrides,
    attached_stack,
    build_cell,
    is_emulated_unless_asked,
    new_run_id,
    require_real,
)
from harness.connection import Connection
from harness.dataset import read_workload
from harness.errors import UsageError, unknown_name
from harness.judgement import Judgement
from harness.plan import PlanRow, cheapest_passing_variant, plan, plan_cell
from harness.recommend import Recommendation
from harness.spec import Protocol, Scenario, Split, Stack
from harness.stopping import Stopping
from harness.studies import NO_STUDIES, Studies, stack_facts
from reports.written import write_reports
from servers.emulator.faults import FaultPlan

RUNS = Path("runs")
PROMISING_SHARE = 0.65
"""Of the limit: a plan knows the mean prompt, and long ones stretch the tail beyond it."""


@dataclass(frozen=True)
class Options:
    """What ``harness run`` was asked for; empty means the catalog's own."""

    scenarios: tuple[str, ...] = ()
    stacks: tuple[str, ...] = ()
    profile: str = "quick"
    users: int | None = None
    think_time_s: float | None = None
    rate_rps: float | None = None
    arrivals: str | None = None
    output_tokens: int | None = None
    run_time_s: float | None = None
    attach: str | None = None
    model: str = ""
    protocol: str = "openai-chat"
    metrics_url: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    extra_body: dict[str, object] = field(default_factory=dict)
    ca_file: str | None = None
    stream: bool = True
    api_key_env: str = "OPENAI_API_KEY"
    dataset: Path | None = None
    split: str | None = None
    """``train`` or ``held-out``: that part of the prompts alone."""
    input_tokens: int | None = None
    calibration: str | None = None
    real: bool = False
    """Start stacks on GPUs and APIs for real, instead of playing them on the emulator."""
    allow_other_gpu: bool = False
    """Run a stack on other GPUs than its own, and mark the run."""
    max_cost_usd: float | None = None
    """Dollars for tokens, over all cells together; None: the default cap."""
    faults: str = ""
    stopping: Stopping = field(default_factory=Stopping)
    run_dir: Path | None = None
    seed: int = 1


def build_cells(catalog: Catalog, options: Options) -> list[Cell]:
    """Resolve options into cells; nothing is started before every one of them is valid.

    Raises
    ------
    UsageError
        For unknown names and impossible values.
    """
    if options.attach and options.stacks:
        raise UsageError("give --attach for a server that is there, or --stack for ones to start, not both")
    if options.metrics_url and not options.attach:
        raise UsageError("--metrics-url is about a server at --attach; one that is started here says where it counts")
    if options.real and options.calibration is not None:
        raise UsageError("--calibration is about emulated stacks, --real starts them for real: give one of them")
    require_real(options.real, options.allow_other_gpu)
    if options.calibration not in (None, "roofline", "claims"):
        raise unknown_name("calibration", str(options.calibration), ("roofline", "claims"))
    if options.protocol not in typing.get_args(Protocol):
        raise unknown_name("protocol", options.protocol, typing.get_args(Protocol))
    if options.split is not None and options.split not in typing.get_args(Split):
        raise unknown_name("split", options.split, typing.get_args(Split))
    FaultPlan.parse(options.faults)
    scenarios = [catalog.scenario(name) for name in options.scenarios] or catalog.unasked_scenarios
    pairs = [(scenario, stack) for scenario in scenarios for stack in _stacks(catalog, scenario, options)]
    base = options.run_dir or RUNS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    single = len(pairs) == 1
    cells = [
        _cell(catalog, scenario, stack, base if single else base / f"{scenario.name}--{stack.name}", options)
        for scenario, stack in pairs
    ]
    for workload in {cell.scenario.name: cell.scenario.workload for cell in cells}.values():
        read_workload(workload)
    return cells


def _cell(catalog: Catalog, scenario: Scenario, stack: Stack, directory: Path, options: Options) -> Cell:
    overrides = Overrides.model_validate(
        {
            "users": options.users,
            "think_time_s": options.think_time_s,
            "rate_rps": options.rate_rps,
            "arrivals": options.arrivals,
            "output_tokens": options.output_tokens,
            "run_time_s": options.run_time_s,
            "input_tokens": options.input_tokens,
            "dataset": str(options.dataset) if options.dataset else None,
            "split": options.split,
            "calibration": options.calibration if is_emulated_unless_asked(stack) else None,
        }
    )
    attached = options.attach is not None
    connection = Connection(
        protocol=options.protocol if attached else stack.protocol,
        url=options.attach or "",
        metrics_url=options.metrics_url if attached else "",
        model=options.model,
        api_key_env=options.api_key_env if attached else "",
        headers=options.headers if attached or (options.real and stack.engine == "openai") else {},
        extra_body=options.extra_body,
        ca_file=options.ca_file,
        stream=options.stream,
    )
    cell = build_cell(
        catalog,
        scenario,
        stack,
        catalog.profile(options.profile),
        overrides,
        connection,
        run_dir=directory.resolve(),
        run=new_run_id(scenario.name, stack.name),
        seed=options.seed,
        faults=options.faults,
        emulate=False if options.real else None,
        allow_other_gpu=options.allow_other_gpu,
        max_cost_usd=options.max_cost_usd,
        stopping=options.stopping,
        command=_repeat(scenario, stack, options, overrides),
    )
    # What another GPU holds is known once it is found: the preflight refuses there.
    certain = cell.emulated or (cell.needs_gpus and not cell.allow_other_gpu)
    return cell.model_copy(update={"refusal": _refusal(catalog, cell)}) if certain else cell


def _refusal(catalog: Catalog, cell: Cell) -> str:
    row = plan_cell(catalog, cell.scenario, cell.stack)
    if row.fits is not False:
        return ""
    return next(reason for reason in row.reasons if reason.startswith("does not fit"))


def _stacks(catalog: Catalog, scenario: Scenario, options: Options) -> Iterator[Stack]:
    if options.attach:
        yield attached_stack(options.model, options.protocol)
        return
    if options.stacks:
        yield from (catalog.stack(name) for name in options.stacks)
        return
    yield from (catalog.stack(name) for name in scenario.stacks)
    variant = cheapest_passing_variant(catalog, scenario.name, lambda stack: _promising(catalog, scenario, stack))
    if variant is not None:
        yield catalog.stack(variant.stack)
    yield from (catalog.stack(name) for name in scenario.real)


def _promising(catalog: Catalog, scenario: Scenario, stack: Stack) -> bool:
    """Whether a variant has the quality, and the room that a prediction from mean prompts needs to come true."""
    rank, need = quality_rank(stack.quality_word(scenario.name)), quality_rank(scenario.quality_need)
    predicted = plan_cell(catalog, scenario, stack).predicted
    roomy = predicted is not None and predicted <= PROMISING_SHARE * scenario.primary.limit
    return roomy and rank is not None and need is not None and rank >= need


def _repeat(scenario: Scenario, stack: Stack, options: Options, overrides: Overrides) -> str:
    """The command that repeats one cell. Headers appear as they were given: secrets only as ``${NAME}``."""
    words = ["harness", "run", scenario.name, "--profile", options.profile, "--seed", str(options.seed)]
    if options.attach:
        words += ["--attach", options.attach, "--protocol", options.protocol]
        words += ["--model", options.model] if options.model else []
        words += ["--metrics-url", options.metrics_url] if options.metrics_url else []
        for name, value in options.headers.items():
            words += ["--header", f"{name}: {value}"]
    else:
        words += ["--stack", stack.name] + (["--real"] if options.real else [])
        words += ["--allow-other-gpu"] if options.allow_other_gpu else []
        words += ["--max-cost", f"{options.max_cost_usd:g}"] if options.max_cost_usd is not None else []
    flags = {
        "users": "--users",
        "think_time_s": "--think-time",
        "rate_rps": "--rate",
        "arrivals": "--arrivals",
        "output_tokens": "--output-tokens",
        "run_time_s": "--run-time",
        "dataset": "--dataset",
        "split": "--split",
        "input_tokens": "--input-tokens",
        "calibration": "--calibration",
    }
    for name, value in overrides.as_text().items():
        words += [flags[name], value]
    words += options.stopping.words()
    if not options.stream:
        words.append("--no-stream")
    if options.faults:
        words += ["--faults", options.faults]
    return shlex.join(words)


def report_of(
    judgements: list[Judgement],
    path: Path,
    catalog: Catalog,
    advice: Sequence[Recommendation] | None = None,
    studies: Studies = NO_STUDIES,
) -> Path:
    """Write the reports over judged cells, with the recommendation, the plan and the claims of their scenarios.

    Returns the page's path; ``verdict.md`` and ``junit.xml`` lie beside it. A capacity that is known of a stack counts
    in the recommendation, unless ``advice`` brings one.
    """
    rows: list[PlanRow] = []
    lines: list[AuditLine] = []
    today = datetime.now(UTC).date()
    for name in dict.fromkeys(judgement.scenario for judgement in judgements):
        if name not in catalog.scenarios:
            continue
        judged = [judgement.stack for judgement in judgements if judgement.scenario == name]
        stacks = dict.fromkeys((*judged, *catalog.scenarios[name].stacks, *catalog.scenarios[name].variants))
        known = [stack for stack in stacks if stack in catalog.stacks]
        rows += plan(catalog, [name], known)
        lines += audit(catalog, today, [name], known, judgements).lines
    advice = advice or advise(judgements, catalog, today, stack_facts(studies.capacities, judgements))
    title = "SLA verdicts" if judgements else "Capacity and comparison"
    return write_reports(path, judgements, advice, rows, title, Audit(lines=tuple(lines)), studies)
