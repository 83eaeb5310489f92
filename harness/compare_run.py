"""Launches in turn: A B, B A, A B, ... each a run of its own, so that what drifts touches all arms alike."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from harness.catalog import Catalog
from harness.cell import Cell, is_emulated_unless_asked
from harness.comparison import ArmResult
from harness.dataset import read_workload
from harness.differences import FEWEST_LAUNCHES, METRICS
from harness.errors import ExitCode, HarnessError, LoadError, ServerError, UsageError, unknown_name
from harness.experiments import Arm, Expectation, Zipf
from harness.launches import ROUND, read_launch
from harness.matrix import RUNS, Options, build_cells
from harness.run import CellProgress, OnChange, run_cells
from harness.spec import Emulation, Stack

SEEDS_APART = 100
"""Between rounds; a cell takes the few seeds after its own."""
_CONDITIONS = {
    "users": ("users",),
    "think_time_s": ("think times",),
    "rate_rps": ("users", "arrivals", "think times"),
    "output_tokens": ("answer lengths",),
    "input_tokens": ("prompts",),
    "stream": ("ways of answering",),
    "templates": ("templates",),
    "network": ("networks",),
}
"""An arm's change to the conditions (:func:`harness.launches.conditions`) that it changes."""
_ERRORS: dict[int, type[HarnessError]] = {ExitCode.USAGE: UsageError, ExitCode.SERVER: ServerError}


@dataclass(frozen=True)
class Trial:
    """What is to be launched in turn. ``arms`` have titles of their own; the first is what the others are held to."""

    scenario: str
    arms: tuple[Arm, ...]
    launches: int = FEWEST_LAUNCHES
    experiment: str = ""
    title: str = ""
    question: str = ""
    headline: tuple[str, ...] = ()
    expects: tuple[Expectation, ...] = ()
    notes: tuple[str, ...] = ()
    repeat: Zipf | None = None
    real: bool = False
    profile: str = "quick"
    users: int | None = None
    run_time_s: float | None = None
    run_dir: Path | None = None
    seed: int = 1
    command: str = ""

    @property
    def expected(self) -> frozenset[str]:
        """Conditions in which its arms are meant to differ, so that nobody is warned of them."""
        changed = {name for arm in self.arms for name in arm.changes}
        return frozenset(condition for name in changed for condition in _CONDITIONS.get(name, ()))


def trial_of(catalog: Catalog, name: str, *, real: bool) -> Trial:
    """An experiment of the catalog.

    Raises
    ------
    UsageError
        When it is unknown, or no engine here can show it.
    """
    experiment = catalog.experiment(name)
    arms = experiment.real if real else experiment.arms
    if not arms:
        raise UsageError(f"experiment '{name}' has no arms on a real engine: {experiment.real_reason}")
    notes = [text for text in (experiment.note, experiment.real_reason if real else "") if text]
    return Trial(
        scenario=experiment.scenario,
        arms=arms,
        launches=experiment.launches,
        experiment=name,
        title=experiment.title,
        question=experiment.question,
        headline=experiment.headline,
        expects=() if real else experiment.expects,
        notes=tuple(notes),
        repeat=experiment.repeat,
    )


@dataclass(frozen=True)
class Turn:
    """One launch to be made."""

    arm: str
    round: int
    cell: Cell


def turns(catalog: Catalog, trial: Trial) -> list[Turn]:
    """Every launch in its order; nothing is started before all of them are valid.

    Both arms of a round have the same seeds: the same users ask the same questions, so that less than half of chance
    stands between them. The first round's order is drawn, and each later one is the reverse of the one before: what
    grows steadily cancels over two rounds.

    Raises
    ------
    UsageError
        For unknown names, impossible values and arms that cannot be told apart.
    """
    if trial.launches < 1:
        raise UsageError(f"--launches must be at least 1, not {trial.launches}")
    for name in (*trial.headline, *(each.metric for each in trial.expects)):
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS)
    names = [re.sub(r"[^a-z0-9.\-]+", "-", (arm.label or arm.stack).lower()).strip("-") for arm in trial.arms]
    folders = [f"{place}-{name}" for place, name in enumerate(names, start=1)]
    if len({arm.title for arm in trial.arms}) < len(trial.arms):
        raise UsageError(f"two arms are called alike: {', '.join(arm.title for arm in trial.arms)}")
    base = trial.run_dir or RUNS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-compare"
    order = list(range(len(trial.arms)))
    random.Random(f"{trial.seed}/order").shuffle(order)
    found = []
    for round_ in range(1, trial.launches + 1):
        for place in order:
            directory = base / folders[place] / f"{ROUND}{round_}"
            cell = _cell(catalog, trial, trial.arms[place], directory, trial.seed + SEEDS_APART * (round_ - 1))
            found.append(Turn(trial.arms[place].title, round_, cell))
        order.reverse()
    if len({turn.cell.emulated for turn in found}) > 1:
        raise UsageError("some of these arms are emulated and others are not: their difference says nothing")
    return found


def base_of(made: Sequence[Turn]) -> Path:
    return made[0].cell.run_dir.parents[1]


def _cell(catalog: Catalog, trial: Trial, arm: Arm, directory: Path, seed: int) -> Cell:
    stack = catalog.stack(arm.stack)
    if trial.real and stack.is_api:
        raise UsageError(f"{arm.stack} is paid by the token: harness run it with --real, then compare the folders")
    body: dict[str, object] = {}
    if arm.prefix_cache is not None and stack.engine == "llamacpp":
        body["cache_prompt"] = arm.prefix_cache  # of llama.cpp's server, per request
    options = Options(
        scenarios=(trial.scenario,),
        stacks=(arm.stack,),
        profile=trial.profile,
        users=arm.users or (None if arm.rate_rps else trial.users),
        think_time_s=arm.think_time_s,
        rate_rps=arm.rate_rps,
        output_tokens=arm.output_tokens,
        input_tokens=arm.input_tokens,
        run_time_s=trial.run_time_s or arm.run_time_s,
        calibration=arm.calibration,
        stream=arm.stream,
        extra_body=body,
        real=trial.real and is_emulated_unless_asked(stack),
        run_dir=directory,
        seed=seed,
    )
    (cell,) = build_cells(catalog, options)
    workload = cell.scenario.workload
    if arm.templates is not None:
        workload = workload.model_copy(update={"templates": None if arm.templates == "none" else arm.templates})
    if trial.repeat is not None:
        workload = workload.model_copy(update={"repeat": trial.repeat})
    read_workload(workload)
    return cell.model_copy(
        update={
            "scenario": cell.scenario.model_copy(update={"workload": workload}),
            "stack": _changed(cell.stack, arm, emulated=cell.emulated),
            "network": arm.network,
            "overrides": {**cell.overrides, **arm.changes},
            "looks": (),  # a run that ends at FAIL has another window than its pair
            "command": trial.command or cell.command,
        }
    )


def _changed(stack: Stack, arm: Arm, *, emulated: bool) -> Stack:
    if arm.replicas is not None:
        stack = stack.model_copy(update={"replicas": arm.replicas})
    if arm.prefix_cache is None:
        return stack
    if emulated:
        emulation = (stack.emulation or Emulation()).model_copy(update={"prefix_cache": arm.prefix_cache})
        return stack.model_copy(update={"emulation": emulation})
    if stack.engine == "llamacpp":  # told with each request
        return stack
    if stack.engine != "vllm":
        raise UsageError(f"prefix_cache: {stack.engine} cannot be told about it; vllm, llamacpp and the emulator can")
    return stack.model_copy(update={"launch": stack.launch.model_copy(update={"prefix_caching": arm.prefix_cache})})


@dataclass
class Made:
    """What came of a trial."""

    arms: tuple[ArmResult, ...] = ()
    notes: tuple[str, ...] = ()
    interrupted: bool = False
    failures: list[tuple[Turn, CellProgress]] = field(default_factory=list)


def launch_in_turn(
    trial: Trial, schedule: Sequence[Turn], on_turn: Callable[[Turn], None], on_change: OnChange
) -> Made:
    """Make every launch, one at a time.

    One that fails stops no other; Ctrl-C ends the one that runs and starts no more.

    Raises
    ------
    HarnessError
        When an arm has no launch at all: the first failure's own kind, and what it said.
    """
    made = Made()
    done: list[Turn] = []
    for turn in schedule:
        on_turn(turn)
        try:
            (progress,) = run_cells([turn.cell], on_change)
        except KeyboardInterrupt:
            made.interrupted = True
            break
        if progress.judgement is None:
            made.failures.append((turn, progress))
        else:
            done.append(turn)
        ended_by = progress.judgement.ended_by if progress.judgement is not None else ""
        if progress.exit_code in (None, ExitCode.INTERRUPTED) or ended_by == "interrupted":
            made.interrupted = True
            break
    made.notes = tuple(f"round {turn.round} of {turn.arm} did not run: {each.error}" for turn, each in made.failures)
    missing = [arm.title for arm in trial.arms if not any(turn.arm == arm.title for turn in done)]
    if missing:
        if made.interrupted:
            return made
        turn, failed = next((turn, each) for turn, each in made.failures if turn.arm == missing[0])
        kind = _ERRORS.get(failed.exit_code or 0, LoadError)
        raise kind(f"{turn.arm} was never launched: {failed.error}")
    made.arms = tuple(
        ArmResult(
            label=arm.title,
            changes=arm.changes,
            launches=tuple(
                read_launch(turn.cell.run_dir, round_=turn.round)
                for turn in sorted(done, key=lambda each: each.round)
                if turn.arm == arm.title
            ),
        )
        for arm in trial.arms
    )
    return made
