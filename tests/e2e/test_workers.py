"""Several load processes: their clocks and regions, and what becomes of a run that loses one of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from harness.judge import read_judgement
from harness.judgement import Mark, Verdict
from harness.records import WorkerFacts
from harness.runlog import RunReader
from tests.e2e.processes import LOCUST, ROOT, Started, started, wait_until

pytestmark = pytest.mark.alone
CHATBOT = (*LOCUST, "-f", str(ROOT / "locustfiles" / "chatbot.py"))
USERS = ("--headless", "--only-summary", "--users", "20", "--think-time", "0.5", "--output-tokens", "4")
LOST_WITHIN_S = 30.0
"""From the kill to the verdict: Locust's heartbeat 5 s, drain and end 7 s, seal and judging; and a busy machine."""
CLOCK_S = 0.005


@contextmanager
def emulator(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "servers.emulator", "--fixed", "ttft_s=0.02,itl_s=0.005,tokens=4"]
    with started(command, folder) as process:
        line = wait_until(lambda: process.out.partition("\n")[0], "the emulator is ready")
        yield f"http://127.0.0.1:{json.loads(line)['port']}"


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def assert_one_clock(workers: Iterable[WorkerFacts]) -> None:
    """On one host all clocks are the same one, and are measured as such."""
    for worker in workers:
        assert worker.clock_round_trip_s is not None
        assert 0 < worker.clock_round_trip_s < 1
        assert abs(worker.clock_offset_s) < CLOCK_S


def test_workers_have_their_clocks_and_regions(tmp_path: Path) -> None:
    """The master has a region of its own, which Locust hands to workers with the first users."""
    port, run_dir = free_port(), tmp_path / "run"
    with emulator(tmp_path / "emulator") as url, ExitStack() as stack:
        words = [*CHATBOT, *USERS, "--master", "--master-bind-port", port, "--expect-workers", "3", "--run-time", "6"]
        words += ["--region", "home", "--host", url, "--run-dir", str(run_dir)]
        master = stack.enter_context(started(words, tmp_path / "master"))
        for name, region in {"a": ["--region", "eu"], "b": ["--region", "us"], "c": []}.items():
            worker = [*CHATBOT, "--worker", "--master-port", port, *region]
            stack.enter_context(started(worker, tmp_path / name))
        ended = master.end()
    assert ended.code in {verdict.exit_code for verdict in Verdict}, ended.out + ended.err
    reader = RunReader(run_dir)
    facts = reader.manifest.workers
    assert sorted(worker.region for worker in facts) == ["eu", "home", "us"]
    assert len({worker.pid for worker in facts}) == 3
    by_worker = {worker.worker: worker.region for worker in facts}
    table = reader.samples()
    tags = set(zip(table.column("worker").to_pylist(), table.column("region").to_pylist(), strict=True))
    assert dict(tags) == by_worker
    assert_one_clock(facts)
    judgement = read_judgement(run_dir)
    assert [each.region for each in judgement.regions] == ["eu", "home", "us"]
    assert sum(each.requests for each in judgement.regions) == judgement.load.judged
    assert {each.check for each in judgement.regions} == {judgement.checks[0].text}
    assert any("3 regions, each also judged by itself" in note for note in judgement.notes)


def load_pids(master: Started) -> list[int]:
    return [child.pid for child in psutil.Process(master.pid).children() if "locust" in " ".join(child.cmdline())]


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.system)])
def test_a_lost_worker_is_noticed_and_named(number: signal.Signals, tmp_path: Path) -> None:
    port, run_dir = free_port(), tmp_path / "run"
    words = [*CHATBOT, *USERS, "--processes", "2", "--master-port", port, "--master-bind-port", port]
    with emulator(tmp_path / "emulator") as url:
        words += ["--run-time", "25", "--host", url, "--run-dir", str(run_dir)]
        with started(words, tmp_path / "locust") as master:
            live = run_dir / "samples.arrows"
            wait_until(lambda: live.exists() and len(RunReader(run_dir).samples()) > 400, "some load", 60)
            victim = load_pids(master)[-1]
            os.kill(victim, number)
            killed_s = time.time()
            ended = master.end(LOST_WITHIN_S)
    assert ended.code == Verdict.INVALID.exit_code, ended.out + ended.err
    assert "Traceback" not in ended.out + ended.err, ended.out + ended.err
    reader = RunReader(run_dir)
    manifest, judgement = reader.manifest, read_judgement(run_dir)
    assert manifest.sealed
    assert manifest.load.ended_by == "load worker lost"
    assert judgement.verdict is Verdict.INVALID
    assert Mark.CUT_OFF in judgement.marks
    assert len(manifest.workers) == 2
    assert_one_clock(manifest.workers)
    (lost,) = [worker for worker in manifest.workers if worker.pid == victim]
    assert f"load worker {lost.worker} (host {lost.host}, pid {victim}) was lost during the run" in judgement.sentence
    table = reader.samples()
    ends = {worker.worker: 0.0 for worker in manifest.workers}
    walls = {worker.worker: worker.wall_s(0.0) for worker in manifest.workers}
    for worker, end_s in zip(table.column("worker").to_pylist(), table.column("end_s").to_pylist(), strict=True):
        ends[worker] = max(ends[worker], walls[worker] + end_s)
    assert killed_s - 2.0 < ends[lost.worker] < killed_s + 1.0
    assert judgement.load.judged > 0
    assert judgement.window is not None
    assert manifest.load.started_s is not None
    assert judgement.window[1] <= killed_s + 1.0 - manifest.load.started_s, "half a load is not judged as the whole"
    measured = [check for check in judgement.checks if check.verdict is not Verdict.NOT_MEASURED]
    assert measured
    assert all(check.samples for check in measured)


@pytest.mark.system
def test_the_only_worker_lost_ends_the_run_the_same_way(tmp_path: Path) -> None:
    """Locust stops a run itself when its last worker is gone."""
    port, run_dir = free_port(), tmp_path / "run"
    with emulator(tmp_path / "emulator") as url:
        words = [*CHATBOT, *USERS, "--master", "--master-bind-port", port, "--expect-workers", "1", "--run-time", "60"]
        words += ["--host", url, "--run-dir", str(run_dir)]
        with (
            started(words, tmp_path / "master") as master,
            started([*CHATBOT, "--worker", "--master-port", port], tmp_path / "worker") as worker,
        ):
            live = run_dir / "samples.arrows"
            wait_until(lambda: live.exists() and len(RunReader(run_dir).samples()) > 400, "some load", 60)
            worker.kill()
            ended = master.end(LOST_WITHIN_S)
    assert ended.code == Verdict.INVALID.exit_code, ended.out + ended.err
    assert RunReader(run_dir).manifest.load.ended_by == "load worker lost"
    assert "was lost during the run" in read_judgement(run_dir).sentence
