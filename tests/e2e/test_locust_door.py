"""``locust -f locustfiles/...`` by itself: headless and with its web UI, one process and several."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.cell import ATTACHED
from harness.errors import ExitCode
from harness.judgement import Judgement, Mark, Verdict
from harness.manifest import Manifest
from harness.records import Outcome
from harness.runlog import JUDGEMENT, REPORT, SAMPLES
from tests.e2e.processes import (
    LOCUST,
    STARVED,
    Ended,
    Started,
    Together,
    answers,
    assert_no_trace,
    assert_nothing_left,
    commands,
    events,
    free_port,
    in_phase,
    judgement_of,
    listening,
    manifest_of,
    play_selected,
    post,
    samples_of,
    started,
    two_processes,
    unstarved,
)

pytestmark = pytest.mark.alone
STACK = "vllm-7b-int8-a100"
BRISK = ("--think-time", "0.3", "--output-tokens", "20")


@dataclass(frozen=True)
class Left:
    ended: Ended
    run_dir: Path

    @property
    def manifest(self) -> Manifest:
        return manifest_of(self.run_dir)

    @property
    def judgement(self) -> Judgement:
        return judgement_of(self.run_dir)

    @property
    def samples(self) -> list[dict[str, Any]]:
        return list(samples_of(self.run_dir).to_pylist())


def locust(scenario: str, folder: Path, *options: str | Path) -> Started:
    """Start Locust with its run directory and its progress file in a folder."""
    own = ("--run-dir", folder / "run", "--progress-file", folder / "progress.jsonl")
    return Started([*LOCUST, "-f", f"locustfiles/{scenario}.py", *own, *options], folder)


def headless(scenario: str, options: tuple[str, ...], folder: Path) -> Left:
    run = locust(scenario, folder, "--headless", *options)
    try:
        left = Left(run.end(), folder / "run")
    finally:
        run.kill()
    assert_nothing_left(folder)
    return left


def fed(scenario: str, options: tuple[str, ...], folder: Path) -> Left:
    """A run whose verdict matters, so its client must not have been starved."""
    left: list[Left] = []

    def play(attempt: Path) -> Judgement:
        left[:] = [headless(scenario, options, attempt)]
        return left[0].judgement

    unstarved(play, folder)
    return left[0]


def interrupted_in_warm_up(folder: Path) -> Left:
    """A run that was told nothing but its stack."""
    run = locust("chatbot", folder, "--headless", "--stack", STACK)
    try:
        run.until(lambda: in_phase(folder / "progress.jsonl", "warm-up"), "all users")
        run.send(signal.SIGINT)
        return Left(run.end(), folder / "run")
    finally:
        run.kill()


MANY_SHORT = ("-u", "6", "--think-time", "0.02", "--output-tokens", "8")


def plays(url: str) -> dict[str, Callable[[Path], Left]]:
    return {
        # 100 answers a second without an error are enough for PASS; shorter than the scenario's, they are not scored.
        "host": partial(fed, "chatbot", ("--host", url, *two_processes(), *MANY_SHORT, "-t", "8s")),
        "faulty": partial(
            headless, "chatbot", ("--stack", STACK, "--faults", "500:0.5", "-u", "10", "-t", "6", *BRISK)
        ),
        "few": partial(fed, "chatbot", ("--stack", STACK, "-u", "3", "-t", "4", *BRISK)),
        "defaults": interrupted_in_warm_up,
        "content": partial(headless, "content", ("--stack", STACK, "-u", "2", "-t", "3", *BRISK)),
        "translation": partial(headless, "translation", ("--stack", "trtllm-7b-int8-a100", "-u", "5", "-t", "5")),
    }


@pytest.fixture(scope="module")
def together(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, quick_server: str
) -> Iterator[Together[Left]]:
    yield from play_selected(request, plays(quick_server), tmp_path_factory.mktemp("door"))


@pytest.fixture
def played(request: pytest.FixtureRequest, together: Together[Left]) -> Left:
    return together[request.param]


def play(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("played", names, indirect=True)


@play("host", "faulty", "few", "defaults", "content", "translation")
def test_every_locustfile_leaves_a_judged_run(played: Left) -> None:
    assert_no_trace(played.ended.out, played.ended.err)
    manifest = played.manifest
    assert manifest.sealed
    assert manifest.problems == ()
    assert (played.run_dir / REPORT).stat().st_size > 0
    assert len(played.samples) == manifest.load.samples_written
    assert played.ended.code == played.judgement.verdict.exit_code
    assert str(played.judgement.verdict) in played.ended.out


@play("host")
def test_a_server_at_a_url_passes(played: Left) -> None:
    assert played.ended.code == ExitCode.PASS
    assert played.manifest.stack.name == ATTACHED
    assert played.manifest.server.model == "emulated"
    assert {sample["outcome"] for sample in played.samples} == {Outcome.OK}
    assert Mark.EMULATED not in played.judgement.marks  # nobody can know


@play("host")
def test_two_processes_share_the_users_and_no_sequence_of_prompts(played: Left) -> None:
    prompts: dict[tuple[int, int], list[str]] = {}
    for sample in sorted(played.samples, key=lambda sample: int(sample["sequence"])):
        prompts.setdefault((sample["worker"], sample["user"]), []).append(sample["prompt_id"])
    assert {worker for worker, _ in prompts} == {worker.worker for worker in played.manifest.workers} == {0, 1}
    assert len(prompts) == played.manifest.load.users_reached == 6
    beginnings = [tuple(sequence[:12]) for sequence in prompts.values()]
    assert all(len(beginning) == 12 for beginning in beginnings)
    assert len(set(beginnings)) == len(beginnings)
    assert len({worker.pid for worker in played.manifest.workers}) == 2


@play("faulty")
def test_a_failing_stack_exits_with_99(played: Left) -> None:
    assert played.ended.code == ExitCode.FAIL
    assert played.judgement.verdict is Verdict.FAIL
    assert Mark.EMULATED in played.judgement.marks
    assert {sample["outcome"] for sample in played.samples} >= {Outcome.OK, Outcome.HTTP_ERROR}


@play("few")
def test_too_few_requests_exit_with_98(played: Left) -> None:
    assert played.ended.code == ExitCode.INCONCLUSIVE
    assert any(
        words in played.judgement.sentence for words in ("more requests would decide", "a PASS takes a judged window")
    )


@play("content", "translation")
def test_few_requests_of_a_stricter_scenario_never_pass(played: Left) -> None:
    verdict, sentence = played.judgement.verdict, played.judgement.sentence
    assert verdict is Verdict.INCONCLUSIVE or any(words in sentence for words in STARVED)
    assert played.manifest.scenario.name in played.ended.out


@play("defaults")
def test_users_and_run_time_default_to_the_scenarios(played: Left) -> None:
    load, scenario = played.manifest.load, played.manifest.scenario
    assert load.users_asked == load.users_reached == scenario.users == 100
    assert (load.warm_up_s, load.run_time_s, load.tail_s) == (10, 100, 2)
    assert scenario.think_time.mean_s == 15
    assert played.manifest.overrides == {}
    assert played.manifest.profile == "quick"


@play("faulty")
def test_options_given_are_in_the_manifest(played: Left) -> None:
    given = {"users": "10", "think_time_s": "0.3", "output_tokens": "20", "run_time_s": "6.0"}
    assert played.manifest.overrides == given
    assert played.manifest.load.run_time_s == 6
    assert {sample["requested_tokens"] for sample in played.samples} == {20}


def test_the_web_ui_starts_and_stops_runs_on_this_machine_only(tmp_path: Path) -> None:
    port = free_port()
    url, run_dir, progress = f"http://127.0.0.1:{port}", tmp_path / "run", tmp_path / "progress.jsonl"
    options = ("--stack", STACK, "-u", "4", "-t", "20", "--web-port", str(port), *BRISK)
    own = ("-f", "locustfiles/chatbot.py", "--run-dir", run_dir, "--progress-file", progress)
    with started([*LOCUST, *own, *options], tmp_path) as ui:
        ui.until(lambda: ("127.0.0.1", port) in listening(ui.pid), "the web UI")
        ui.until(lambda: answers(url), "a page")
        assert {address for address, _ in listening(ui.pid)} == {"127.0.0.1"}
        post(f"{url}/swarm", user_count=4, spawn_rate=4)
        ui.until(lambda: in_phase(progress, "load") and events(progress)[-1]["completed"] > 50, "samples")
        assert not (run_dir / JUDGEMENT).exists()
        post(f"{url}/stop")
        ui.until((run_dir / REPORT).exists, "the report")
        ui.until(lambda: in_phase(progress, "done"), "the end of the run")
        manifest, judgement = manifest_of(run_dir), judgement_of(run_dir)
        assert answers(url)
        ui.send(signal.SIGTERM)
        ended = ui.end()
    assert_no_trace(ended.out, ended.err)
    assert manifest.sealed
    assert manifest.load.ended_by == "stopped"
    assert manifest.load.users_reached == 4
    assert (run_dir / SAMPLES).exists()
    assert not manifest.server.died
    assert judgement.load.judged > 0
    assert judgement.verdict in (Verdict.INCONCLUSIVE, Verdict.FAIL)
    assert ended.code == judgement.verdict.exit_code
    assert str(judgement.verdict) in ended.out


def test_master_and_workers_meet_on_this_machine_only(tmp_path: Path, quick_server: str) -> None:
    options = ("--headless", "--host", quick_server, *two_processes(), "-u", "2", "-t", "20", *BRISK)
    with started(
        [*LOCUST, "-f", "locustfiles/chatbot.py", "--run-dir", tmp_path / "run", *options], tmp_path
    ) as master:
        addresses = master.until(lambda: {address for address, _ in listening(master.pid)}, "the master")
        assert addresses == {"127.0.0.1"}
        # Before the workers are there: Locust itself would leave them behind, and end with 0.
        master.send(signal.SIGTERM)
        ended = master.end()
    assert_no_trace(ended.out, ended.err)
    assert ended.code == ExitCode.INTERRUPTED


def test_workers_do_not_outlive_a_master_that_is_killed(tmp_path: Path, quick_server: str) -> None:
    options = ("--headless", "--host", quick_server, *two_processes(), "-u", "2", "-t", "20", *BRISK)
    run = locust("chatbot", tmp_path, *options)
    try:
        run.until(lambda: in_phase(tmp_path / "progress.jsonl", "warm-up"), "load")
        assert len(commands(tmp_path, "-m locust")) == 3
        run.send(signal.SIGKILL)
        run.end()
    finally:
        run.kill()
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ((), ExitCode.USAGE, "--host URL"),
        (("--stack", "vllm-7b-t5"), ExitCode.USAGE, "did you mean 'vllm-7b-t4'?"),
        (("--stack", STACK, "--host", "http://127.0.0.1:9"), ExitCode.USAGE, "not both"),
        (("--host", "http://127.0.0.1:9"), ExitCode.SERVER, "refuses connections"),
        (("--stack", STACK, "-u", "-3"), ExitCode.USAGE, "at least 1"),
        (("--stack", STACK, "--faults", "gremlins:1"), ExitCode.USAGE, "unknown fault 'gremlins'"),
        (("--host", "http://127.0.0.1:9", "--header", "Authorization: Bearer abc"), ExitCode.USAGE, "${VARIABLE}"),
    ],
    ids=["neither", "stack", "both", "host", "users", "faults", "secret"],
)
def test_bad_options_are_one_sentence(options: tuple[str, ...], code: int, words: str, tmp_path: Path) -> None:
    ended = headless("chatbot", options, tmp_path).ended
    assert ended.code == code
    said = [line for line in ended.err.splitlines() if line.startswith("harness: ")]
    assert len(said) == 1
    assert words in ended.err
    assert_no_trace(ended.out, ended.err)
