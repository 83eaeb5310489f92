"""The client's certificate in whole runs, and what a starved client or a hanging server makes of a verdict."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from servers import null_server
from tests.e2e.processes import (
    HARNESS,
    VERDICTS,
    assert_clean,
    assert_nothing_left,
    events,
    harness,
    phase,
    read_json,
    started,
    wait_until,
)

pytestmark = pytest.mark.system

USERS = ("--users", "20", "--think-time", "0.5", "--output-tokens", "10")
SOUND = (VERDICTS["PASS"], VERDICTS["INCONCLUSIVE"])
"""A busy machine may cost a run the requests that a PASS needs."""


def command(run_dir: Path, *options: str, stack: str = "vllm-13b-h100") -> list[str]:
    return ["run", "chatbot", "--stack", stack, *USERS, "--run-time", "8", "--run-dir", str(run_dir), *options]


def test_a_run_has_a_certificate(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    done = harness(*command(run_dir), "--json")
    assert_clean(done.text)
    assert done.code in SOUND, done.text
    made = read_json(run_dir / "certificate.json")
    assert made["problem"] == made["skipped"] == made["reused_from"] == ""
    assert made["requests"] > 50
    assert made["unmatched"] == 0
    assert made["shape"]["users"] == 20
    assert 0 < made["e2e"]["p50_s"] <= made["e2e"]["p99_s"] <= made["e2e"]["max_s"] < 0.1
    assert made["cpu_per_event_s"] > 0
    assert made["headroom"] > 1
    assert read_json(run_dir / "judgement.json")["client"]["certificate"] == made
    assert "certificate.json" in read_json(run_dir / "manifest.json")["digests"]
    phases = [event["phase"] for event in events(run_dir)]
    assert phases.index("server") < phases.index("certify") < phases.index("spawn")
    assert not (run_dir / "certificate.tmp").exists()


def test_cells_side_by_side_share_one_of_their_shape(tmp_path: Path) -> None:
    done = harness(*command(tmp_path / "matrix", stack="vllm-13b-h100,vllm-13b-int8-2xa100"), "--json")
    assert_clean(done.text)
    made = [read_json(path) for path in sorted((tmp_path / "matrix").glob("*/certificate.json"))]
    assert len(made) == 2
    (taken,) = [each for each in made if each["reused_from"]]
    (own,) = [each for each in made if not each["reused_from"]]
    assert (tmp_path / "matrix" / taken["reused_from"] / "certificate.json").exists()
    assert taken["e2e"] == own["e2e"]
    assert 0 <= taken["age_s"] < 60


def test_several_processes_are_certified_together(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])  # Locust's own may be another test's
    options = ("--headless", "--only-summary", "--processes", "2", "--stack", "vllm-13b-h100", "-u", "20")
    options += ("--master-port", port, "--master-bind-port", port)
    done = subprocess.run(
        [sys.executable, "-m", "locust", "-f", "locustfiles/chatbot.py", *options, "--think-time", "0.5",
         "--output-tokens", "10", "--run-time", "8", "--run-dir", str(run_dir)],
        capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip
    assert done.returncode in SOUND, done.stdout + done.stderr
    made = read_json(run_dir / "certificate.json")
    assert made["shape"]["workers"] == 2
    assert made["requests"] > 50
    assert made["unmatched"] == 0


def test_ctrl_c_while_certifying_ends_in_order(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    # its rehearsal's files, and so the null server's command line, name this test's folder
    with started([*HARNESS, *command(run_dir)], tmp_path / "out", {"TMPDIR": str(tmp_path)}) as process:
        wait_until(lambda: phase(run_dir) == "certify", "certifying")
        process.send(signal.SIGINT)
        began_s = time.monotonic()
        done = process.end()
        assert time.monotonic() - began_s < 30
    assert_clean(done.text)
    assert done.code in (VERDICTS["INVALID"], 130), done.text
    assert_nothing_left(tmp_path)


@contextlib.contextmanager
def pulses(run_dir: Path, alive: Callable[[], bool]) -> Iterator[Callable[[], None]]:
    """Stop the load process for 250 ms of every 300, from its certificate to the end of its load."""

    def pulse() -> None:
        found = events(run_dir)
        pid = found[-1]["pid"] if found else None
        if pid is None or phase(run_dir) not in ("certify", "spawn", "warm-up", "load"):
            time.sleep(0.02)
            return
        with contextlib.suppress(ProcessLookupError):
            try:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.25)
            finally:
                os.kill(pid, signal.SIGCONT)
        time.sleep(0.05)

    yield pulse
    assert not alive()


def test_a_starved_client_is_invalid_and_never_fails_the_server(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = [*HARNESS, *command(run_dir, "--json")]
    with started(arguments, tmp_path / "out") as process, pulses(run_dir, process.alive) as pulse:
        deadline = time.monotonic() + 80
        while process.alive():
            assert time.monotonic() < deadline
            pulse()
        done = process.end()
    assert_clean(done.err)
    assert done.code == VERDICTS["INVALID"], done.text
    (cell,) = json.loads(done.out)["cells"]
    assert cell["verdict"] == "INVALID"
    reasons = " ".join(read_json(run_dir / "judgement.json")["reasons"])
    assert "the load generator's own error of p95(e2e)" in reasons
    assert "its event loop ran late" in reasons
    assert "use more processes (--processes), more hosts (--worker), or fewer users per process" in reasons
    assert read_json(run_dir / "certificate.json")["attempts"] == 3


def test_a_server_that_stalls_to_the_end_ends_in_bounded_time(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    began_s = time.monotonic()
    done = harness(*command(run_dir, "--faults", "stall:0.3:after=2", "--json"))
    took_s = time.monotonic() - began_s
    assert_clean(done.err)
    assert done.code in (VERDICTS["FAIL"], VERDICTS["INVALID"]), (
        done.text
    )  # INVALID: a machine too busy for any verdict
    # server, certificate and spawning; run time, tail and drain of 8 + 2 + 2 s; seal, judging, report
    assert took_s < 45
    manifest = read_json(run_dir / "manifest.json")
    assert manifest["load"]["ended_by"] in ("run time", "fail decided")
    outcomes = {each["outcome"]: each["count"] for each in read_json(run_dir / "judgement.json")["outcomes"]}
    assert outcomes["in_flight"] > 0


@pytest.fixture
def fast_server() -> Iterator[str]:
    """A server that is far faster than any that a cell expects."""
    line = [sys.executable, "-I", "-S", null_server.__file__, "--ttft", "0.001", "--gap", "0.001", "--tokens", "40"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        yield f"http://127.0.0.1:{port}"
        process.kill()


def test_a_run_faster_than_its_certificate_is_certified_again(tmp_path: Path, fast_server: str) -> None:
    options = ["--users", "5", "--think-time", "0", "--output-tokens", "40", "--run-time", "14"]
    done = harness("run", "chatbot", "--attach", fast_server, *options, "--run-dir", str(tmp_path / "run"), "--json")
    assert_clean(done.err)
    made: dict[str, Any] = read_json(tmp_path / "run" / "certificate.json")
    assert made["when"] == "after the run"
    assert made["first"]["when"] == "before the run"
    assert made["shape"]["needed_events_per_s"] > 1.1 * made["first"]["events_per_s"]
    assert done.code in (VERDICTS["PASS"], VERDICTS["INVALID"]), done.text
