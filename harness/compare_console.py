"""Launches in turn on the screen, and the comparison that comes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from harness.catalog import Catalog
from harness.compare import compare
from harness.compare_run import Trial, Turn, base_of, launch_in_turn, trial_of, turns
from harness.comparison import Comparison
from harness.differences import FEWEST_LAUNCHES, Rules
from harness.errors import ExitCode, UsageError
from harness.expectations import expectation_notes
from harness.experiments import Arm
from harness.live_display import progress_display


def launch(
    catalog: Catalog,
    named: Sequence[str],
    rules: Rules,
    *,
    experiment: str | None,
    scenario: str | None,
    launches: int | None,
    profile: str,
    users: int | None,
    run_time_s: float | None,
    real: bool,
    seed: int,
    run_dir: Path | None,
    command: str,
) -> tuple[ExitCode, Comparison, Path]:
    """Make the launches and compare them; the exit code is 130 when they were interrupted.

    Raises
    ------
    UsageError
        For what cannot be launched, and when an interrupt left an arm without a launch.
    """
    if experiment is not None:
        if scenario is not None:
            raise UsageError("--scenario belongs to --interleave: an experiment has its own")
        trial = trial_of(catalog, experiment, real=real)
    else:
        if scenario is None:
            raise UsageError("--interleave needs --scenario: the load that every arm gets")
        trial = Trial(scenario=scenario, arms=tuple(map(Arm.parse, named)))
    trial = replace(
        trial,
        launches=launches or trial.launches,
        profile=profile,
        users=users,
        run_time_s=run_time_s,
        real=real,
        seed=seed,
        run_dir=run_dir,
        command=command,
    )
    schedule = turns(catalog, trial)
    err = Console(stderr=True)
    if trial.launches < FEWEST_LAUNCHES:
        err.print(f"fewer than {FEWEST_LAUNCHES} launches of an arm cannot give a verdict", style="yellow")

    def say(turn: Turn) -> None:
        err.print(f"round {turn.round} of {trial.launches}: {turn.arm}", markup=False, highlight=False, soft_wrap=True)

    with progress_display(err, [turn.cell for turn in schedule]) as display:
        made = launch_in_turn(trial, schedule, say, display.update)
    if not made.arms:
        raise InterruptedCompareError("interrupted before every arm had a launch: there is nothing to compare")
    found = compare(
        made.arms,
        replace(rules, headline=trial.headline, expected=trial.expected),
        title=trial.title,
        question=trial.question,
        experiment=trial.experiment,
        interleaved=True,
        command=command,
        notes=(*trial.notes, *made.notes),
    )
    told = expectation_notes(trial.expects, found.pairs)
    found = found.model_copy(update={"notes": (*told, *found.notes)})
    return ExitCode.INTERRUPTED if made.interrupted else ExitCode.PASS, found, base_of(schedule)


class InterruptedCompareError(UsageError):
    """Ctrl-C before there was anything to compare."""

    exit_code = ExitCode.INTERRUPTED
