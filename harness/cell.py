"""A cell: one scenario against one stack with every option resolved, ready to run.

The doors (``harness run``, ``locust -f``) build one; the load generator reads nothing else.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Literal

from pydantic import Field

from harness.arrivals import Arrivals, TraceArrivals, arrivals_from
from harness.catalog import Catalog
from harness.connection import Connection
from harness.errors import UsageError
from harness.manifest import Manifest
from harness.records import GpuFacts, LoadFacts, Record
from harness.schedule import abort_times_s, decision_times_s, look_times_s
from harness.spec import (
    Claim,
    Gpu,
    NoPrice,
    Profile,
    Scenario,
    Split,
    Stack,
    ThinkTime,
    Timing,
    TokenPrice,
    Workload,
)
from harness.spend import DEFAULT_CAP_USD, Tariff, tariff_of
from harness.stopping import Stopping

ATTACHED = "attached"
"""Name of the stack that stands for a server somebody else started."""


class Overrides(Record):
    """What the user changed on the command line; None leaves the catalog's value."""

    users: int | None = None
    think_time_s: float | None = None
    rate_rps: float | None = None
    arrivals: str | None = None
    """As ``--arrivals`` says it."""
    output_tokens: int | None = None
    run_time_s: float | None = None
    dataset: str | None = None
    split: Split | None = None
    input_tokens: int | None = None
    """Synthetic prompts of this length, instead of the scenario's."""
    calibration: Literal["roofline", "claims"] | None = None

    def as_text(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.model_dump().items() if value is not None}


class Cell(Record):
    run: str
    run_dir: Path
    profile: str
    scenario: Scenario
    stack: Stack
    gpu: Gpu | None = None
    allow_other_gpu: bool = False
    other_gpu: str = ""
    gpu_facts: tuple[GpuFacts, ...] = ()
    timing: Timing
    looks: tuple[float, ...] = ()
    """Seconds after the run clock's zero."""
    stopping: Stopping = Stopping()
    calibration: Literal["", "roofline", "claims"] = ""
    """Not empty: the stack runs on the emulator."""
    connection: Connection
    reduced: bool = False
    overrides: dict[str, str] = {}
    shortened_from: int = 0
    region: str = ""
    seed: int = 0
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Of its verdict: a level of a search carries a share of the whole search's chance of an error."""
    faults: str = ""
    network: str = ""
    """How far users are from the server, as :func:`harness.experiments.parse_network` reads it; empty: not at all."""
    drain_s: float = Field(default=10.0, gt=0)
    command: str = ""
    max_cost_usd: float | None = None
    """Where the run stops paying for tokens; None: nothing is paid by the token."""
    refusal: str = ""
    """Why this cell is FAIL without load: the stack's memory cannot admit one request. Empty: it runs."""

    @property
    def emulated(self) -> bool:
        return self.calibration != ""

    @property
    def needs_gpus(self) -> bool:
        """Its server is started here, or over ssh, on real GPUs; emulators that are replicas play theirs."""
        played = self.emulated or self.stack.engine == "emulator"
        return not played and self.stack.hardware is not None and not self.connection.url

    @property
    def tariff(self) -> Tariff | None:
        """What its requests cost; None when they cost nothing by themselves."""
        price = self.stack.price
        if self.emulated or not isinstance(price, TokenPrice):
            return None
        return tariff_of(price, self.connection.extra_body)

    def seeds(self) -> dict[str, int]:
        """Separate seeds, so that changing the load does not change the data."""
        names = ("data", "think", "outputs", "emulator", "arrivals")
        return {name: self.seed + place for place, name in enumerate(names)}

    @property
    def in_flight_expected(self) -> int:
        """Requests under way at once, at most, while the longest limit holds (Little's law in an open loop)."""
        arrivals = self.scenario.arrivals
        if arrivals is None or arrivals.peak_rps is None:
            return self.scenario.users
        return math.ceil(arrivals.peak_rps * (self.scenario.longest_limit_s or 1.0))

    def abort_times_s(self) -> list[float]:
        """When the conditions that make a run hopeless are looked for, if there are any."""
        if not self.stopping.abort_on:
            return []
        return abort_times_s(self.timing.warm_up_s, self.timing.run_time_s)

    def manifest(self) -> Manifest:
        """The manifest as it stands before anything has happened."""
        closed = self.scenario.arrivals is None
        return Manifest(
            run=self.run,
            profile=self.profile,
            scenario=self.scenario,
            stack=self.stack,
            gpu=self.gpu,
            other_gpu=self.other_gpu,
            gpu_facts=self.gpu_facts,
            reduced=self.reduced,
            overrides=self.overrides,
            shortened_from=self.shortened_from,
            region=self.region,
            stream=self.connection.stream,
            confidence=self.confidence,
            seeds=self.seeds(),
            load=LoadFacts(
                users_asked=self.scenario.users if closed else 0,
                loop="closed" if closed else "open",
                warm_up_s=self.timing.warm_up_s,
                run_time_s=self.timing.run_time_s,
                tail_s=self.scenario.longest_limit_s,
                until_decided=self.stopping.until_decided,
                abort_on=self.stopping.abort_on,
                abort_looks=len(self.abort_times_s()),
            ),
            command=self.command,
        )


def new_run_id(scenario: str, stack: str) -> str:
    """A name that sorts by time and is unique on this host."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{scenario}-{stack}-{token_hex(4)}"


def attached_stack(model: str, protocol: str = "openai-chat") -> Stack:
    """The stack of a server at a URL: nothing is known of it, so nothing is claimed."""
    return Stack.model_validate(
        {
            "kind": "stack",
            "name": ATTACHED,
            "title": f"{model or 'server'} at a given URL",
            "engine": "attach",
            "model": None,
            "protocol": protocol,
            "price": NoPrice(kind="none", reason="a server at a URL has no known price"),
        }
    )


def build_cell(
    catalog: Catalog,
    scenario: Scenario,
    stack: Stack,
    profile: Profile,
    overrides: Overrides,
    connection: Connection,
    *,
    run_dir: Path,
    run: str = "",
    region: str = "",
    seed: int = 0,
    faults: str = "",
    emulate: bool | None = None,
    allow_other_gpu: bool = False,
    max_cost_usd: float | None = None,
    stopping: Stopping | None = None,
    command: str = "",
) -> Cell:
    """Resolve scenario, stack, profile and overrides into one cell.

    ``emulate`` None: a stack on GPUs or an API runs on the emulator, any other for real. ``max_cost_usd`` None: a cell
    that pays for tokens gets the default cap.

    Raises
    ------
    UsageError
        When an override is impossible.
    """
    timing = profile.timing_for(scenario.name)
    reduction = stack.reduction.get(scenario.name)
    think, workload, users = scenario.think_time, scenario.workload, scenario.users
    if reduction is not None:
        users = reduction.users
        # So few requests that every text is kept.
        workload = workload.model_copy(update={"output_tokens": reduction.output_tokens, "output_share": 1.0})
        timing = reduction.timing or timing
        if reduction.think_mean_s is not None:
            think = _with_mean(think, reduction.think_mean_s, "shortened: this engine is a stand-in")
    if scenario.name in stack.templates:
        workload = workload.model_copy(update={"templates": stack.templates[scenario.name]})
    users, think, workload, timing = _apply(overrides, users, think, workload, timing)
    arrivals = _arrivals(overrides, scenario.arrivals)
    resolved = scenario.model_copy(
        update={"users": users, "think_time": think, "workload": workload, "arrivals": arrivals}
    )
    calibration = _calibration(stack, scenario.name, overrides, emulate)
    if not calibration and stack.launch.api_key_env and not connection.api_key_env:
        connection = connection.model_copy(update={"api_key_env": stack.launch.api_key_env})
    cell = Cell(
        run=run or new_run_id(scenario.name, stack.name),
        run_dir=run_dir,
        profile=profile.name,
        scenario=resolved,
        stack=stack,
        gpu=catalog.gpu_of(stack),
        allow_other_gpu=allow_other_gpu,
        timing=timing,
        looks=_looks(profile, stopping or Stopping(), timing, scenario),
        stopping=stopping or Stopping(),
        calibration=calibration,
        connection=connection,
        reduced=reduction is not None
        and ((arrivals is None and users < scenario.users) or workload.output_tokens < scenario.workload.output_tokens),
        overrides=overrides.as_text(),
        shortened_from=scenario.workload.output_tokens
        if workload.output_tokens < scenario.workload.output_tokens
        else 0,
        region=region,
        seed=seed,
        faults=faults,
        drain_s=min(10.0, max(2.0, scenario.longest_limit_s)),
        command=command,
    )
    if cell.tariff is None:
        return cell
    return cell.model_copy(update={"max_cost_usd": DEFAULT_CAP_USD if max_cost_usd is None else max_cost_usd})


def is_emulated_unless_asked(stack: Stack) -> bool:
    """GPUs are rarely here and an API costs money: such stacks run for real only when told to (``--real``)."""
    return stack.engine == "emulator" or stack.hardware is not None or stack.is_api


def require_real(real: bool, allow_other_gpu: bool) -> None:
    """Refuse ``--allow-other-gpu`` where no GPU is used."""
    if allow_other_gpu and not real:
        raise UsageError("--allow-other-gpu is about stacks that are started on GPUs for real: give --real as well")


def _calibration(
    stack: Stack, scenario: str, overrides: Overrides, emulate: bool | None
) -> Literal["", "roofline", "claims"]:
    if emulate is None:
        emulate = is_emulated_unless_asked(stack)
    if not emulate:
        return ""
    wanted = overrides.calibration or (stack.emulation.calibration if stack.emulation else "roofline")
    if stack.is_api or stack.model is None or stack.hardware is None:  # no roofline
        wanted = "claims"
    claim: Claim | None = stack.claims.get(scenario)
    if wanted == "claims" and (claim is None or claim.latency_s is None):
        raise UsageError(f"stack '{stack.name}' has no latency claim for '{scenario}', so there is nothing to replay")
    return wanted


def _arrivals(overrides: Overrides, own: Arrivals | None) -> Arrivals | None:
    """The arrivals of an open loop; users or a think time on the command line ask for a closed one."""
    asked = overrides.rate_rps is not None or overrides.arrivals is not None
    for value, option in ((overrides.users, "--users"), (overrides.think_time_s, "--think-time")):
        if value is not None and asked:
            raise UsageError(
                f"{option} belongs to a closed loop, --rate and --arrivals to an open one: give one of them"
            )
        if value is not None:
            return None
    found: Arrivals | None = arrivals_from(own, overrides.rate_rps, overrides.arrivals)
    if isinstance(found, TraceArrivals) and overrides.arrivals is not None:
        return found.model_copy(update={"file": str(Path(found.file).resolve())})
    return found


def _looks(profile: Profile, stopping: Stopping, timing: Timing, scenario: Scenario) -> tuple[float, ...]:
    warm_up_s, run_time_s, limit_s = timing.warm_up_s, timing.run_time_s, scenario.longest_limit_s
    first_s = stopping.min_time_s
    if not stopping.until_decided:
        if first_s is not None:
            raise UsageError("--min-time is the first moment at which --until-decided may end a run: give both")
        return tuple(look_times_s(profile.looks, warm_up_s, run_time_s, limit_s))
    if first_s is not None and not warm_up_s + limit_s < first_s < run_time_s:
        raise UsageError(
            f"--min-time must lie between warm-up and longest limit, {warm_up_s + limit_s:g} s together, and the run"
            f" time of {run_time_s:g} s, not at {first_s:g} s"
        )
    return tuple(decision_times_s(first_s, warm_up_s, run_time_s, limit_s))


def _with_mean(think: ThinkTime, mean_s: float, reason: str) -> ThinkTime:
    if mean_s == 0:
        return ThinkTime(distribution="constant", mean_s=0, reason=reason)
    return think.model_copy(update={"mean_s": mean_s, "reason": reason})


def _apply(
    overrides: Overrides, users: int, think: ThinkTime, workload: Workload, timing: Timing
) -> tuple[int, ThinkTime, Workload, Timing]:
    if overrides.users is not None:
        if overrides.users < 1:
            raise UsageError(f"--users must be at least 1, not {overrides.users}")
        users = overrides.users
    if overrides.think_time_s is not None:
        if not 0 <= overrides.think_time_s < math.inf:
            raise UsageError(f"--think-time must be 0 s or more, not {overrides.think_time_s:g}")
        think = _with_mean(think, overrides.think_time_s, "given on the command line")
    if overrides.output_tokens is not None:
        if overrides.output_tokens < 1:
            raise UsageError(f"--output-tokens must be at least 1, not {overrides.output_tokens}")
        workload = workload.model_copy(update={"output_tokens": overrides.output_tokens})
    if overrides.input_tokens is not None:
        if overrides.dataset is not None:
            raise UsageError("give --dataset for prompts of your own, or --input-tokens for synthetic ones, not both")
        if overrides.input_tokens < 1:
            raise UsageError(f"--input-tokens must be at least 1, not {overrides.input_tokens}")
        synthetic = {"kind": "synthetic", "input_tokens": overrides.input_tokens, "difficulty": "mixed"}
        workload = workload.model_copy(update=synthetic)
    if overrides.dataset is not None:
        # The scenario's choice of difficulty is about its own data.
        data = {"kind": "dataset", "data": (str(Path(overrides.dataset).resolve()),), "difficulty": "mixed"}
        workload = workload.model_copy(update=data)
    if overrides.split is not None:
        if workload.kind == "synthetic":
            raise UsageError("--split chooses among the prompts of a set, and synthetic ones are of none")
        workload = workload.model_copy(update={"split": overrides.split})
    if overrides.run_time_s is not None:
        if not 0 < overrides.run_time_s < math.inf:
            raise UsageError(f"--run-time must be above 0 s, not {overrides.run_time_s:g}")
        warm_up = min(timing.warm_up_s, 0.2 * overrides.run_time_s)
        timing = Timing(
            warm_up_s=warm_up,
            run_time_s=overrides.run_time_s,
            spawn_s=min(timing.spawn_s, max(1.0, overrides.run_time_s / 4)),
        )
    return users, think, workload, timing
