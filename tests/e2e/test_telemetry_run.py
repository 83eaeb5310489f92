"""Telemetry of whole runs on the emulator: aligned with the samples, and kept whatever ends first."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.judgement import Judgement, TelemetrySummary, Verdict
from harness.records import TelemetryFacts
from harness.runlog import REPORT, RunReader
from harness.telemetry_log import TELEMETRY, TELEMETRY_LIVE
from tests.e2e.processes import (
    HARNESS,
    Started,
    Together,
    assert_no_trace,
    assert_nothing_left,
    commands,
    emulators,
    events,
    harness,
    in_phase,
    judgement_of,
    manifest_of,
    play_selected,
    server_started,
)
from tests.unit import fake_pynvml

pytestmark = [pytest.mark.slow, pytest.mark.alone]

STACK = "vllm-7b-int8-a100"
LONG_ANSWERS = ("--users", "24", "--think-time", "0.5", "--output-tokens", "150", "--run-time", "12")
"""Some 1.2 s each: what a request spends on its way, which only the client counts, is little beside it."""
SHORT = ("--users", "4", "--think-time", "0.2", "--output-tokens", "20", "--run-time", "9")


@dataclass(frozen=True)
class Run:
    directory: Path
    judgement: Judgement
    telemetry: TelemetrySummary
    facts: TelemetryFacts
    rows: list[dict[str, Any]]

    def values(self, series: str) -> list[float]:
        return [row["value"] for row in self.rows if row["series"] == series]


def seen(directory: Path) -> Run:
    recorded, judgement = RunReader(directory).telemetry(), judgement_of(directory)
    assert recorded is not None
    assert judgement.telemetry is not None
    assert_nothing_left(directory)
    return Run(directory, judgement, judgement.telemetry, recorded.facts, recorded.table.to_pylist())


def plain(folder: Path) -> Run:
    ended = harness("run", "chatbot", "--stack", STACK, *LONG_ANSWERS, "--run-dir", folder / "run")
    assert_no_trace(ended.out, ended.err)
    return seen(folder / "run")


def interfered(folder: Path, act: Callable[[Path], None]) -> Run:
    """A run with which something is done once it is some readings into its judged window."""
    run_dir = folder / "run"
    run = Started([*HARNESS, "run", "chatbot", "--stack", STACK, *SHORT, "--run-dir", run_dir], folder)
    try:
        progress = run_dir / "progress.jsonl"
        run.until(lambda: in_phase(progress, "load") and events(progress)[-1]["elapsed_s"] > 4, "load")
        act(run_dir)
        ended = run.end()
        assert_no_trace(ended.out, ended.err)
        return seen(run_dir)
    finally:
        run.kill()


def kill_recorder(run_dir: Path) -> None:
    (pid,) = (pid for pid, line in commands("harness.telemetry", run_dir).items() if "guard.py" not in line)
    os.kill(pid, signal.SIGKILL)


def kill_server(run_dir: Path) -> None:
    for pid in emulators(run_dir):
        os.kill(pid, signal.SIGKILL)


def attached(folder: Path) -> Run:
    """A server that somebody else started, beside two GPUs that draw 400 W (a stand-in for NVML's module)."""
    (folder / "modules").mkdir(parents=True)
    shutil.copy(fake_pynvml.__file__, folder / "modules" / "pynvml.py")
    variables = {"PYTHONPATH": str(folder / "modules")}
    command = [sys.executable, "-m", "servers.emulator", "--fixed", "ttft_s=0.02,itl_s=0.002,tokens=8"]
    with server_started(command, folder / "server") as url:
        door = ("run", "chatbot", "--attach", url, "--metrics-url", f"{url}/metrics", "--run-dir", folder / "run")
        ended = harness(*door, "--users", "2", "--think-time", "0.2", "--run-time", "4", variables=variables)
    assert_no_trace(ended.out, ended.err)
    return seen(folder / "run")


PLAYS: dict[str, Callable[[Path], Run]] = {
    "plain": plain,
    "attached": attached,
    "recorder killed": lambda folder: interfered(folder, kill_recorder),
    "server killed": lambda folder: interfered(folder, kill_server),
}


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together[Run]]:
    yield from play_selected(request, PLAYS, tmp_path_factory.mktemp("telemetry"), "run")


@pytest.fixture
def run(request: pytest.FixtureRequest, together: Together[Run]) -> Run:
    return together[request.param]


@pytest.mark.parametrize("run", ["plain"], indirect=True)
def test_the_servers_count_is_ours(run: Run) -> None:
    found = run.telemetry
    assert found.server_kind == "vllm"
    assert found.in_flight_server == pytest.approx(found.in_flight_client, rel=0.1)
    assert found.in_flight_server is not None
    assert found.in_flight_server > 5
    assert any(note.startswith("the server says") for note in run.judgement.notes)
    assert not any("they differ" in note for note in run.judgement.notes)


@pytest.mark.parametrize("run", ["plain"], indirect=True)
def test_a_run_is_covered_from_warm_up_to_drain(run: Run) -> None:
    assert run.telemetry.incomplete == ""
    assert run.telemetry.scrape_failures == 0
    assert run.facts.ended
    load, worker = manifest_of(run.directory).load, manifest_of(run.directory).workers[0]
    assert load.started_s is not None
    assert load.drained_s is not None
    times = [row["monotonic_s"] for row in run.rows if row["series"] == "host_cpu_share"]
    assert times[0] < worker.monotonic_s(load.started_s)
    assert times[-1] > worker.monotonic_s(load.drained_s) - 2
    assert len(run.values("running")) == len(run.values("waiting")) == len(run.values("kv_use")) >= 12
    assert max(run.values("kv_use")) <= 1


@pytest.mark.parametrize("run", ["plain"], indirect=True)
def test_processes_are_the_servers_and_the_load_generators(run: Run) -> None:
    assert max(run.values("server_rss_bytes")) > 20e6
    assert run.values("server_processes")[0] == 2  # the guard and the emulator
    assert max(run.values("load_rss_bytes")) > 50e6
    for name in ("server_cpu_s", "load_cpu_s", "output_tokens_total"):
        counted = run.values(name)
        assert counted == sorted(counted)
        assert counted[-1] > counted[0]
    tokens = next(each for each in run.telemetry.series if each.name == "output_tokens_total")
    assert tokens.mean == pytest.approx(run.judgement.load.output_tokens_per_s, rel=0.25)


@pytest.mark.parametrize("run", ["plain"], indirect=True)
def test_the_recorder_costs_little(run: Run) -> None:
    spent = run.values("telemetry_cpu_s")
    assert spent[-1] - spent[0] < 0.1 * len(spent)  # far below a tenth of a core; a busy machine may triple it


@pytest.mark.parametrize("run", ["plain"], indirect=True)
def test_there_is_no_gpu_of_an_emulator(run: Run) -> None:
    assert run.facts.gpus == {}
    assert run.telemetry.energy is None
    assert not [row for row in run.rows if row["series"].startswith("gpu")]


@pytest.mark.parametrize("run", ["plain"], indirect=True)
def test_it_is_sealed_and_shown(run: Run) -> None:
    assert TELEMETRY in manifest_of(run.directory).digests
    assert not (run.directory / TELEMETRY_LIVE).exists()
    assert not (run.directory / "telemetry.log").exists()  # it had nothing to complain about
    page = (run.directory / REPORT).read_text(encoding="utf-8")
    for text in ("Server and host", "At the server: running", "KV cache in use", "CPU, cores"):
        assert text in page
    assert "GPU power" not in page


@pytest.mark.parametrize("run", ["recorder killed"], indirect=True)
def test_a_killed_recorder_harms_only_the_telemetry(run: Run) -> None:
    load = manifest_of(run.directory).load
    assert (load.ended_by, load.complete) == ("run time", True)
    assert run.judgement.verdict is not Verdict.INVALID or "telemetry" not in run.judgement.sentence
    assert not run.facts.ended
    assert "killed or died" in run.telemetry.incomplete
    assert any(note.startswith("telemetry is incomplete") for note in run.judgement.notes)
    assert run.values("running")


@pytest.mark.parametrize("run", ["server killed"], indirect=True)
def test_a_server_that_dies_leaves_telemetry_up_to_then(run: Run) -> None:
    assert run.judgement.verdict is Verdict.FAIL
    assert run.values("running")
    assert run.telemetry.in_flight_server is not None
    died = manifest_of(run.directory)
    assert died.server.died
    last = max(row["monotonic_s"] for row in run.rows if row["series"] == "running")
    stopped_s = died.load.stopped_issuing_s
    assert stopped_s is not None
    assert last > died.workers[0].monotonic_s(stopped_s) - 4


@pytest.mark.parametrize("run", ["attached"], indirect=True)
def test_an_attached_server_tells_its_metrics(run: Run) -> None:
    assert run.telemetry.server_kind == "vllm"
    assert manifest_of(run.directory).server.metrics_url.endswith("/metrics")
    assert run.values("running")
    assert run.values("server_cpu_s") == []  # whose processes are its own, nobody knows


@pytest.mark.parametrize("run", ["attached"], indirect=True)
def test_energy_is_that_of_the_window(run: Run) -> None:
    assert [gpu.partition(",")[0] for gpu in manifest_of(run.directory).gpus] == ["NVIDIA H100", "Tesla P4"]
    assert run.telemetry.gpus == {0: "NVIDIA H100", 1: "Tesla P4"}
    energy, window = run.telemetry.energy, run.judgement.window
    assert energy is not None
    assert window is not None
    assert energy.source == "energy counter and integral of power"
    assert energy.joules == pytest.approx(400 * (window[1] - window[0]), rel=0.01)
    assert energy.per_request_j == pytest.approx(energy.joules / energy.requests)
    assert energy.output_tokens == 8 * energy.requests
    page = (run.directory / REPORT).read_text(encoding="utf-8")
    assert "GPU power, W" in page
    assert "Energy per 1,000 output tokens" in page
