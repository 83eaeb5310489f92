"""However and whenever a run ends: a documented exit code, no stack trace, no orphan, samples that can be judged."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import yaml

from harness.catalog import load_catalog
from harness.errors import ExitCode
from harness.judgement import Judgement, Mark, Verdict
from harness.runlog import JUDGEMENT, MANIFEST
from tests.e2e.processes import (
    HARNESS,
    LOCUST,
    Ended,
    Started,
    Together,
    assert_no_trace,
    assert_nothing_left,
    emulators,
    events,
    harness,
    in_phase,
    judgement_of,
    manifest_of,
    play_selected,
    samples_of,
    started,
)

STACK = "vllm-7b-int8-a100"
LOAD = ("--think-time", "0.3", "--seed", "5")
SHORT_ANSWERS = ("--output-tokens", "20")
SLOW_START = ("--faults", "slow_start:30")
LONG_ANSWERS = ("--output-tokens", "400")
"""Some 3 s, so that draining takes a moment."""

DOCUMENTED = {ExitCode.PASS, ExitCode.INVALID, ExitCode.INCONCLUSIVE, ExitCode.FAIL, ExitCode.INTERRUPTED}


@dataclass(frozen=True)
class Signalled:
    """A signal, sent when a run has come to a phase."""

    door: str
    phase: str
    number: signal.Signals
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Left:
    """What a run left, seen after its end."""

    ended: Ended
    run_dir: Path
    again: Ended | None
    """``harness judge`` on it, where there is a manifest."""


SIGNALLED = {
    f"{door}-{number.name}-{phase}": Signalled(door, phase, number, options)
    for door, phase, number, options in (
        ("harness", "server", signal.SIGINT, SLOW_START),
        ("harness", "spawn", signal.SIGTERM, SHORT_ANSWERS),
        ("harness", "load", signal.SIGINT, SHORT_ANSWERS),
        ("harness", "load", signal.SIGTERM, SHORT_ANSWERS),
        ("harness", "drain", signal.SIGINT, LONG_ANSWERS),
        ("locust", "server", signal.SIGINT, SLOW_START),
        ("locust", "server", signal.SIGTERM, SLOW_START),
        ("locust", "spawn", signal.SIGINT, SHORT_ANSWERS),
        ("locust", "load", signal.SIGINT, SHORT_ANSWERS),
        ("locust", "load", signal.SIGTERM, SHORT_ANSWERS),
        ("locust", "drain", signal.SIGINT, LONG_ANSWERS),
    )
}


def start(
    door: str, folder: Path, options: tuple[str, ...] = SHORT_ANSWERS, stack: str = STACK
) -> tuple[Started, Path, Path]:
    """Start a run of 3 users; return it with its run directory and its progress file."""
    run_dir = folder / "run"
    if door == "harness":
        own = ("run", "chatbot", "--users", "3", "--run-time", "5", "--run-dir", run_dir)
        return Started([*HARNESS, *own, "--stack", stack, *LOAD, *options], folder), run_dir, run_dir / "progress.jsonl"
    progress = folder / "progress.jsonl"
    own = ("-f", "locustfiles/chatbot.py", "--headless", "-u", "3", "-t", "5", "--run-dir", run_dir)
    command = [*LOCUST, *own, "--progress-file", progress, "--stack", stack, *LOAD, *options]
    return Started(command, folder), run_dir, progress


def left_by(ended: Ended, run_dir: Path) -> Left:
    assert_nothing_left(run_dir)
    return Left(ended, run_dir, harness("judge", run_dir) if (run_dir / MANIFEST).exists() else None)


def signalled(case: Signalled, folder: Path) -> Left:
    run, run_dir, progress = start(case.door, folder, case.options)
    try:
        run.until(lambda: in_phase(progress, case.phase), f"phase {case.phase}")
        if case.phase == "server":  # there is one that could be left behind
            run.until(lambda: emulators(run_dir), "an emulator")
        run.send(case.number)
        return left_by(run.end(), run_dir)
    finally:
        run.kill()


def load_generator_killed(folder: Path) -> Left:
    """SIGKILL for the Locust process of ``harness run``, some samples after the warm-up."""
    run, run_dir, progress = start("harness", folder)
    try:
        run.until(lambda: in_phase(progress, "load") and events(progress)[-1]["completed"] > 5, "samples")
        os.kill(int(events(progress)[-1]["pid"]), signal.SIGKILL)
        return left_by(run.end(), run_dir)
    finally:
        run.kill()


def harness_killed(folder: Path) -> Left:
    run, run_dir, progress = start("harness", folder)
    try:
        run.until(lambda: in_phase(progress, "load") and events(progress)[-1]["completed"] > 5, "samples")
        run.send(signal.SIGKILL)
        return left_by(run.end(), run_dir)
    finally:
        run.kill()


def server_signalled(number: signal.Signals, folder: Path) -> Left:
    run, run_dir, progress = start("harness", folder, ("--users", "12"))
    try:
        run.until(lambda: in_phase(progress, "load"), "load")
        (emulator,) = emulators(run_dir)
        os.kill(emulator, number)
        return left_by(run.end(), run_dir)
    finally:
        run.kill()


def played_to_the_end(door: str, options: tuple[str, ...], folder: Path, stack: str = STACK) -> Left:
    run, run_dir, _ = start(door, folder, options, stack)
    try:
        return left_by(run.end(), run_dir)
    finally:
        run.kill()


def never_ready(folder: Path) -> Left:
    """An emulator that takes 30 s to start, of a stack that waits 2 s."""
    folder.mkdir(parents=True)
    stack = json.loads(load_catalog().stack(STACK).model_dump_json(exclude_none=True))
    stack |= {"name": "patience", "launch": stack["launch"] | {"ready_timeout_s": 2}}
    (folder / "patience.yaml").write_text(yaml.safe_dump(stack))
    own = ("--catalog", str(folder / "patience.yaml"), *SLOW_START)
    return played_to_the_end("harness", own, folder, "patience")


OTHERS: dict[str, Callable[[Path], Left]] = {
    "load generator killed": load_generator_killed,
    "harness killed": harness_killed,
    "server killed": partial(server_signalled, signal.SIGKILL),
    "server hangs": partial(server_signalled, signal.SIGSTOP),
    "server exits": partial(played_to_the_end, "harness", ("--faults", "exit_after:25", *SHORT_ANSWERS)),
    "server exits, locust": partial(played_to_the_end, "locust", ("--faults", "exit_after:25", *SHORT_ANSWERS)),
    "never ready": never_ready,
}
PLAYS = OTHERS | {name: partial(signalled, case) for name, case in SIGNALLED.items()}


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together[Left]]:
    yield from play_selected(request, PLAYS, tmp_path_factory.mktemp("ends"))


@pytest.fixture
def played(request: pytest.FixtureRequest, together: Together[Left]) -> Left:
    return together[request.param]


def play(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("played", names, indirect=True)


def judged(left: Left) -> Judgement:
    """The judgement in the run directory, which ``harness judge`` has just written again."""
    assert left.again is not None
    return judgement_of(left.run_dir)


@play(*SIGNALLED)
def test_a_signal_ends_a_run_in_order(played: Left) -> None:
    assert played.ended.code in DOCUMENTED
    assert_no_trace(played.ended.out, played.ended.err)


@play(*(name for name in SIGNALLED if "server" in name))
def test_before_the_server_is_ready_there_is_nothing_to_judge(played: Left) -> None:
    assert played.ended.code == ExitCode.INTERRUPTED
    assert "interrupted before" in played.ended.err
    assert not (played.run_dir / MANIFEST).exists()


@play(*(name for name in SIGNALLED if "server" not in name))
def test_an_interrupted_run_is_sealed_and_judged(played: Left) -> None:
    manifest = manifest_of(played.run_dir)
    assert manifest.sealed
    assert manifest.problems == ()
    assert not manifest.server.died
    assert (played.run_dir / JUDGEMENT).exists()
    assert played.again is not None
    assert played.again.code == played.ended.code == judged(played).verdict.exit_code
    assert samples_of(played.run_dir).num_rows == manifest.load.samples_written
    assert judged(played).verdict is not Verdict.PASS


@play(*(name for name in SIGNALLED if "load" in name))
def test_load_that_is_cut_off_says_so(played: Left) -> None:
    load = manifest_of(played.run_dir).load
    assert load.ended_by == "interrupted"
    assert not load.complete
    assert load.samples_written > 0
    assert Mark.CUT_OFF in judged(played).marks


@play(*(name for name in SIGNALLED if "spawn" in name))
def test_a_run_that_never_started_is_invalid(played: Left) -> None:
    assert played.ended.code == ExitCode.INVALID
    assert "before all 3 users were up" in judged(played).sentence


@play(*(name for name in SIGNALLED if "drain" in name))
def test_a_signal_while_draining_changes_nothing(played: Left) -> None:
    load = manifest_of(played.run_dir).load
    assert load.complete
    assert load.ended_by in ("run time", "fail decided")


@play("load generator killed")
def test_a_killed_load_generator_is_named_and_its_samples_stay(played: Left) -> None:
    assert played.ended.code == ExitCode.LOAD
    assert_no_trace(played.ended.out, played.ended.err)
    assert "load generator" in played.ended.err
    assert "SIGKILL" in played.ended.err
    assert played.again is not None
    assert played.again.code == judged(played).verdict.exit_code
    assert judged(played).load.requests > 5
    assert Mark.CUT_OFF in judged(played).marks
    assert judged(played).verdict is not Verdict.PASS


@play("harness killed")
def test_nothing_survives_a_killed_harness(played: Left) -> None:
    assert played.ended.code == -signal.SIGKILL
    assert played.again is not None
    assert_no_trace(played.again.out, played.again.err)
    assert played.again.code == judged(played).verdict.exit_code
    assert judged(played).load.requests > 5
    assert judged(played).verdict is not Verdict.PASS


@play("server killed", "server exits", "server exits, locust")
def test_a_server_that_dies_under_load_is_a_fail_with_its_last_words(played: Left) -> None:
    assert played.ended.code == ExitCode.FAIL
    assert_no_trace(played.ended.out, played.ended.err)
    assert "the server died during the run" in played.ended.out
    judgement, manifest = judged(played), manifest_of(played.run_dir)
    assert judgement.verdict is Verdict.FAIL
    assert "the server died" in judgement.sentence
    assert any("calibration roofline" in line for line in judgement.server_log_tail)
    assert manifest.server.died
    assert manifest.load.ended_by == "server died"
    assert manifest.load.samples_written > 0


@play("server killed")
def test_a_kill_is_named_as_what_memory_running_out_looks_like(played: Left) -> None:
    assert "it was killed by SIGKILL (out of memory?); its log ends with:" in judged(played).sentence


@play("server hangs")
def test_a_server_that_hangs_is_a_fail_and_no_hang(played: Left) -> None:
    assert played.ended.code == ExitCode.FAIL
    assert_no_trace(played.ended.out, played.ended.err)
    judgement, manifest = judged(played), manifest_of(played.run_dir)
    assert judgement.verdict is Verdict.FAIL
    assert "p95(e2e)" in judgement.sentence
    assert not manifest.server.died
    assert manifest.problems == ()


@play("server exits")
def test_the_exit_code_of_a_dead_server_is_told(played: Left) -> None:
    assert manifest_of(played.run_dir).server.exit_code == 70
    assert "exit code 70" in judged(played).sentence


@play("never ready")
def test_a_server_that_never_stands_up(played: Left) -> None:
    assert played.ended.code == ExitCode.SERVER
    assert_no_trace(played.ended.out, played.ended.err)
    assert "in time" in played.ended.err
    assert played.ended.out.strip() == ""
    assert not (played.run_dir / MANIFEST).exists()


def test_a_served_stack_ends_with_its_interrupt(tmp_path: Path) -> None:
    with started([*HARNESS, "serve", STACK], tmp_path) as server:
        server.until(lambda: "Ctrl-C ends it" in server.out, "ready")
        url = server.out.split(" at ")[1].split(";")[0]
        assert "EMULATED" in server.out
        assert (
            harness("run", "chatbot", "--attach", url, "--model", "nobody", "--run-dir", tmp_path / "run").code
            == ExitCode.SERVER
        )
        server.send(signal.SIGINT)
        ended = server.end()
    assert ended.code == ExitCode.PASS
    assert_no_trace(ended.out, ended.err)
    assert_nothing_left(url.rpartition(":")[2])
