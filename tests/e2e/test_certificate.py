"""The client's certificate in whole runs, and what a starved client or a hanging server makes of a verdict."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from harness.certificate import Certificate
from harness.errors import ExitCode
from harness.judgement import Judgement, Verdict
from harness.records import Outcome
from harness.runlog import CERTIFICATE, read_certificate
from servers import null_server
from tests.e2e.processes import (
    HARNESS,
    LOCUST,
    LONGEST_S,
    Ended,
    Together,
    assert_no_trace,
    assert_nothing_left,
    commands,
    events,
    harness,
    judgement_of,
    manifest_of,
    play_selected,
    run,
    server_started,
    started,
    two_processes,
    unstarved,
)

pytestmark = pytest.mark.alone
STACK, OTHER_STACK = "vllm-13b-h100", "vllm-13b-int8-2xa100"
USERS = ("--think-time", "0.5", "--output-tokens", "10")
RUN_S = 4.0
NULL_SERVER_PEM = Path(null_server.__file__).with_name("null_server.pem")
STOPPED_S, RUNNING_S = 0.25, 0.05
"""A process that is starved on purpose gets a sixth of its time."""


@dataclass(frozen=True)
class Left:
    """A finished run."""

    ended: Ended
    run_dir: Path

    @property
    def certificate(self) -> Certificate:
        made = read_certificate(self.run_dir)
        assert made is not None
        return made

    @property
    def judgement(self) -> Judgement:
        return judgement_of(self.run_dir)


def command(run_dir: Path, *options: str, stack: str = STACK) -> list[str | Path]:
    load = ("--users", "20", *USERS, "--run-time", f"{RUN_S:g}")
    return ["run", "chatbot", "--stack", stack, *load, "--run-dir", run_dir, *options]


def fed(play: Callable[[Path], Left], folder: Path) -> Left:
    """A run whose verdict matters, so its client must not have been starved."""
    left: list[Left] = []

    def judged(attempt: Path) -> Judgement:
        left[:] = [play(attempt)]
        return left[0].judgement

    unstarved(judged, folder)
    return left[0]


def one(folder: Path, *options: str) -> Left:
    return Left(harness(*command(folder / "run", *options)), folder / "run")


def side_by_side(folder: Path) -> Left:
    return Left(harness(*command(folder / "matrix", stack=f"{STACK},{OTHER_STACK}")), folder / "matrix")


def several_processes(folder: Path) -> Left:
    own = ("-f", "locustfiles/chatbot.py", "--headless", "--only-summary", "--run-dir", folder / "run")
    load = ("--stack", STACK, "-u", "20", *USERS, "--run-time", f"{RUN_S:g}")
    return Left(run([*LOCUST, *own, *two_processes(), *load]), folder / "run")


def interrupted(folder: Path) -> Left:
    """Ctrl-C in the rehearsal, whose files, and so its server's command line, name this case's folder."""
    run_dir = folder / "run"
    with started([*HARNESS, *command(run_dir)], folder, {"TMPDIR": str(folder)}) as process:
        process.until(lambda: commands("null_server", folder), "a rehearsal")
        process.send(signal.SIGINT)
        ended = process.end(30)
    assert_nothing_left(folder)
    return Left(ended, run_dir)


def starved(folder: Path) -> Left:
    """Stop the load process again and again, from its certificate to the end of its load."""
    run_dir = folder / "run"
    with started([*HARNESS, *command(run_dir)], folder) as process:
        deadline = time.monotonic() + LONGEST_S
        while process.alive():
            assert time.monotonic() < deadline, process.err
            last = events(run_dir / "progress.jsonl")[-1:]
            if any(event["phase"] in ("certify", "spawn", "warm-up", "load") for event in last):
                stop_for_a_moment(int(last[0]["pid"]))
            time.sleep(RUNNING_S)
        return Left(process.end(), run_dir)


def stop_for_a_moment(pid: int) -> None:
    with suppress(ProcessLookupError):
        try:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(STOPPED_S)
        finally:
            os.kill(pid, signal.SIGCONT)


def fast_server(folder: Path) -> Left:
    """A server that is far faster than any that a cell expects."""
    timing = ("--ttft", "0.001", "--gap", "0.001", "--tokens", "40", "--any-core")
    line = [sys.executable, "-I", "-S", null_server.__file__, *timing]
    load = ("--users", "5", "--think-time", "0", "--output-tokens", "40", "--run-time", f"{RUN_S:g}")
    with server_started(line, folder / "server") as url:
        return Left(harness("run", "chatbot", "--attach", url, *load, "--run-dir", folder / "run"), folder / "run")


PLAIN = ("-I", "-S", null_server.__file__)
GRPC = ("-m", "servers.null_grpc_server")


def against_null_server(folder: Path, *options: str, tls: bool = False, which: tuple[str, ...] = PLAIN) -> Left:
    """A run of whatever the options make of it, against a server of known timing."""
    line = [sys.executable, *which, "--ttft", "0.05", "--gap", "0.005", "--tokens", "8", "--log", folder / "truth"]
    line += ["--tls", str(NULL_SERVER_PEM)] if tls else []
    load = ("--users", "20", "--think-time", "0.2", "--output-tokens", "8", "--run-time", f"{RUN_S:g}", *options)
    with server_started(line, folder / "server") as url:
        url = url.replace("http:", "https:") if tls else url
        return Left(harness("run", "chatbot", "--attach", url, *load, "--run-dir", folder / "run"), folder / "run")


PLAYS: dict[str, Callable[[Path], Left]] = {
    "starved": starved,
    "side by side": side_by_side,
    "several processes": several_processes,
    "one": partial(fed, one),
    "fast server": fast_server,
    "stalled": lambda folder: one(folder, "--faults", "stall:0.3:after=2"),
    "interrupted": interrupted,
    "over TLS": lambda folder: against_null_server(folder, "--ca-file", str(NULL_SERVER_PEM), tls=True),
    "over gRPC": lambda folder: against_null_server(folder, "--protocol", "triton-grpc", "--model", "null", which=GRPC),
    "whole answers": lambda folder: against_null_server(folder, "--no-stream"),
}


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together[Left]]:
    yield from play_selected(request, PLAYS, tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def played(request: pytest.FixtureRequest, together: Together[Left]) -> Left:
    return together[request.param]


def play(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("played", names, indirect=True)


@play(*PLAYS)
def test_no_run_leaves_a_stack_trace(played: Left) -> None:
    assert_no_trace(played.ended.out, played.ended.err)


@play("one")
def test_a_run_has_a_certificate(played: Left) -> None:
    assert played.ended.code in (ExitCode.PASS, ExitCode.INCONCLUSIVE)
    made = played.certificate
    assert made.problem == made.skipped == made.reused_from == ""
    assert made.requests > 50
    assert made.unmatched == 0
    assert made.shape is not None
    assert made.shape.users == 20
    assert made.e2e is not None
    assert 0 < made.e2e.p50_s <= made.e2e.p99_s <= made.e2e.max_s
    assert made.cpu_per_event_s is not None
    assert made.cpu_per_event_s > 0
    assert made.headroom is not None
    assert made.headroom > 1


@play("one")
def test_it_is_made_before_the_load_and_belongs_to_the_run(played: Left) -> None:
    assert played.judgement.client.certificate == played.certificate
    assert CERTIFICATE in manifest_of(played.run_dir).digests
    phases = [event["phase"] for event in events(played.run_dir / "progress.jsonl")]
    assert phases.index("server") < phases.index("certify") < phases.index("spawn")
    assert not (played.run_dir / "certificate.tmp").exists()


@play("side by side")
def test_cells_side_by_side_share_one_of_their_shape(played: Left) -> None:
    folders = sorted(path.parent for path in played.run_dir.glob(f"*/{CERTIFICATE}"))
    made = [read_certificate(folder) for folder in folders]
    assert len(made) == 2
    (taken,) = [each for each in made if each is not None and each.reused_from]
    (own,) = [each for each in made if each is not None and not each.reused_from]
    assert taken.reused_from in [folder.name for folder in folders]
    assert taken.e2e == own.e2e
    assert 0 <= taken.age_s < 60


@play("several processes")
def test_several_processes_are_certified_together(played: Left) -> None:
    made = played.certificate
    assert made.shape is not None
    assert made.shape.workers == 2
    assert made.requests > 50
    assert made.unmatched == 0
    assert played.ended.code == played.judgement.verdict.exit_code


@play("interrupted")
def test_ctrl_c_while_certifying_ends_in_order(played: Left) -> None:
    assert played.ended.code in (ExitCode.INVALID, ExitCode.INTERRUPTED)


@play("starved")
def test_a_starved_client_is_invalid_and_never_fails_the_server(played: Left) -> None:
    assert played.ended.code == ExitCode.INVALID
    assert played.judgement.verdict is Verdict.INVALID
    reasons = " ".join(played.judgement.reasons)
    assert "the load generator's own error of p95(e2e)" in reasons
    assert "its event loop ran late" in reasons
    assert "use more processes (--processes), more hosts (--worker), or fewer users per process" in reasons
    assert played.certificate.attempts == 3


@play("stalled")
def test_a_server_that_stalls_to_the_end_ends_in_bounded_time(played: Left) -> None:
    # INVALID: a machine too busy for any verdict
    assert played.ended.code in (ExitCode.FAIL, ExitCode.INVALID)
    load = manifest_of(played.run_dir).load
    assert load.ended_by in ("run time", "fail decided")
    assert load.started_s is not None
    assert load.stopped_issuing_s is not None
    assert load.drained_s is not None
    assert load.stopped_issuing_s - load.started_s < load.run_time_s + load.tail_s + 5
    assert load.drained_s - load.stopped_issuing_s < 10
    assert sum(each.count for each in played.judgement.outcomes if each.outcome == Outcome.IN_FLIGHT) > 0


@play("fast server")
def test_a_run_faster_than_its_certificate_is_certified_again(played: Left) -> None:
    made, verdict = played.certificate, played.judgement.verdict
    assert made.when == "after the run"
    assert made.first is not None
    assert made.first.when == "before the run"
    assert made.shape is not None
    assert made.shape.needed_events_per_s > 1.1 * made.first.events_per_s
    assert verdict in (Verdict.PASS, Verdict.INVALID)
    assert played.ended.code == verdict.exit_code


@play("over TLS", "over gRPC", "whole answers")
def test_a_client_is_certified_the_way_it_asks(played: Left) -> None:
    made, manifest = played.certificate, manifest_of(played.run_dir)
    whole = not manifest.stream
    assert made.problem == made.skipped == ""
    assert made.shape is not None
    assert made.shape.protocol == manifest.stack.protocol
    assert (made.shape.tls, made.shape.stream) == (manifest.server.url.startswith("https:"), not whole)
    assert made.requests > 50
    assert made.unmatched == 0
    assert made.e2e is not None
    assert made.e2e.p50_s > 0
    assert made.events_per_s > (0.5 * made.requests_per_s if whole else 4 * made.requests_per_s)
    assert not [note for note in played.judgement.notes if "certified" in note]
    assert played.ended.code == played.judgement.verdict.exit_code
