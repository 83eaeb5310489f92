"""Runs that end before their time, and the process that watches them from beside."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.errors import ExitCode
from harness.judgement import Judgement, Mark, Verdict
from harness.snapshot import LIVE, Snapshot, read_snapshot
from harness.watch.channel import FOLDER
from tests.e2e.processes import (
    HARNESS,
    LOCUST,
    Ended,
    Started,
    Together,
    assert_no_trace,
    assert_nothing_left,
    commands,
    events,
    harness,
    in_phase,
    judgement_of,
    manifest_of,
    play_selected,
    two_processes,
)

pytestmark = pytest.mark.slow

LOAD = ("--think-time", "0.3", "--seed", "5", "--output-tokens", "20")
GOOD, BAD = "vllm-7b-int8-a100", "vllm-7b-t4"
DECIDED = ("--until-decided", "--min-time")


class Left(NamedTuple):
    """What a run left, and the last that was seen of it while it lasted."""

    ended: Ended
    run_dir: Path
    seen: Snapshot | None
    again: Judgement | None


def start(folder: Path, stack: str, run_time_s: float, options: tuple[str, ...]) -> Started:
    command: list[str | Path] = [
        *HARNESS,
        "run",
        "chatbot",
        "--stack",
        stack,
        "--users",
        "40",
        "--run-dir",
        folder / "run",
        *LOAD,
    ]
    return Started([*command, "--run-time", str(run_time_s), *options], folder)


def followed(run: Started, run_dir: Path, act: Callable[[Snapshot], object] = lambda seen: None) -> Left:
    """Wait for a snapshot of the load, act, and see the run to its end."""
    try:
        seen = run.until(lambda: loaded(run_dir), "a snapshot of the load")
        assert seen is not None
        act(seen)
        ended = run.end()
        assert_nothing_left(run_dir)
        again = harness("judge", run_dir)
        assert_no_trace(ended.err, again.err)
        return Left(ended, run_dir, seen, judgement_of(run_dir))
    finally:
        run.kill()


def loaded(run_dir: Path) -> Snapshot | None:
    seen = read_snapshot(run_dir)
    return seen if seen is not None and seen.judged else None


def played_by_harness(stack: str, run_time_s: float, options: tuple[str, ...], folder: Path) -> Left:
    return followed(start(folder, stack, run_time_s, options), folder / "run")


def played_by_locust(folder: Path) -> Left:
    """With workers, beside whose master alone a watching process runs."""
    run_dir = folder / "run"
    own = ("-f", "locustfiles/chatbot.py", "--headless", "-u", "40", "-t", "60", "--run-dir", run_dir)
    run = Started([*LOCUST, *own, "--stack", GOOD, *LOAD, *DECIDED, "15", *two_processes()], folder)
    watching: list[int] = []
    left = followed(run, run_dir, lambda seen: watching.extend(watchers(run_dir)))
    assert len(watching) == 1
    return left


def watchers(run_dir: Path) -> list[int]:
    """Without their guards."""
    return [pid for pid, line in commands("harness.watch", run_dir).items() if "guard.py" not in line]


def interrupted(folder: Path) -> Left:
    run = start(folder, GOOD, 60, (*DECIDED, "50"))
    progress = folder / "run" / "progress.jsonl"

    def interrupt(seen: Snapshot) -> None:
        run.until(lambda: in_phase(progress, "load") and events(progress)[-1]["completed"] > 100, "load")
        run.send(signal.SIGINT)

    return followed(run, folder / "run", interrupt)


def watcher_killed(folder: Path) -> Left:
    run = start(folder, GOOD, 22, (*DECIDED, "15"))

    def kill(seen: Snapshot) -> None:
        (pid,) = watchers(folder / "run")
        os.kill(pid, signal.SIGKILL)

    return followed(run, folder / "run", kill)


HOPELESS = ("--faults", "500:0.5", "--abort-on", "error_rate > 20%")
PLAYS: dict[str, Callable[[Path], Left]] = {
    "good": partial(played_by_harness, GOOD, 60, (*DECIDED, "15")),
    "bad": partial(played_by_harness, BAD, 60, (*DECIDED, "20")),
    "hopeless": partial(played_by_harness, GOOD, 60, HOPELESS),
    "locust": played_by_locust,
    "interrupted": interrupted,
    "watcher killed": watcher_killed,
}


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together[Left]]:
    yield from play_selected(request, PLAYS, tmp_path_factory.mktemp("decided"))


@pytest.fixture
def played(request: pytest.FixtureRequest, together: Together[Left]) -> Left:
    return together[request.param]


def play(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("played", names, indirect=True)


def judged(left: Left, *marks: Mark) -> Judgement:
    """The judgement that ``harness judge`` has just made again; the directory holds nothing of the watching."""
    names = {path.name for path in left.run_dir.iterdir()}
    assert not names & {LIVE, FOLDER, "watch.log"}, names
    found = left.again
    assert found is not None
    assert (Mark.DECIDED in found.marks, Mark.ABORTED in found.marks) == (Mark.DECIDED in marks, Mark.ABORTED in marks)
    return found


@play("good", "locust")
def test_a_good_stack_passes_early(played: Left) -> None:
    found = judged(played, Mark.DECIDED)
    assert (played.ended.code, found.verdict) == (ExitCode.PASS, Verdict.PASS), found.sentence
    load = manifest_of(played.run_dir).load
    assert load.ended_by == "decided"
    assert load.complete
    look = load.ended_look
    assert look is not None
    assert look.passed
    assert found.window == pytest.approx((load.warm_up_s, look.at_s - 2.0))
    assert any("GPU minutes unused" in note for note in found.notes)
    # the level of each of the looks, the end included
    measured = [check for check in found.checks if check.verdict is not Verdict.NOT_MEASURED]
    assert len(measured) == 2
    for check in measured:
        assert check.confidence == pytest.approx(1 - 0.05 / (len(load.looks) + 1), abs=1e-6)
    assert played.seen is not None
    assert (played.seen.users, played.seen.users_asked, played.seen.stack) == (40, 40, GOOD)
    assert played.seen.in_flight is not None


@play("bad")
def test_a_bad_stack_fails_early(played: Left) -> None:
    found = judged(played, Mark.DECIDED)
    assert (played.ended.code, found.verdict) == (ExitCode.FAIL, Verdict.FAIL), found.sentence
    load = manifest_of(played.run_dir).load
    assert (load.ended_by, load.looks[0].failed) == ("fail decided", True)


@play("hopeless")
def test_a_hopeless_run_is_aborted(played: Left) -> None:
    found = judged(played, Mark.ABORTED)
    load = manifest_of(played.run_dir).load
    assert load.ended_by == "aborted"
    assert load.aborted_on.startswith("error_rate > 20%: error_rate is ")
    assert (played.ended.code, found.verdict) == (ExitCode.FAIL, Verdict.FAIL), found.sentence
    assert any(reason.startswith("the run was aborted on error_rate > 20%") for reason in found.reasons)


@play("interrupted")
def test_ctrl_c_ends_it_as_any_run(played: Left) -> None:
    found = judged(played)
    assert found.ended_by == "interrupted"
    assert Mark.CUT_OFF in found.marks
    assert played.ended.code == found.verdict.exit_code


@play("watcher killed")
def test_without_the_watching_process_a_run_goes_on_to_its_verdict(played: Left) -> None:
    found = judged(played)
    load = manifest_of(played.run_dir).load
    assert (load.ended_by, load.complete) == ("run time", True)
    assert not any(look.taken for look in load.looks)
    assert found.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE), found.sentence
    assert played.ended.code == found.verdict.exit_code
