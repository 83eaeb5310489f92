"""The open loop as a user starts it, against the emulator: every arrival of the schedule has a sample, at its time."""

from __future__ import annotations

import json
import signal
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from harness.judge import read_judgement
from harness.judgement import OpenLoad
from harness.manifest import Manifest
from harness.records import OUT_OF_RESOURCES
from harness.runlog import RunReader
from harness.schedule import arrival_times_s
from harness.spec import Timing
from tests.e2e.processes import LOCUST, ROOT, VERDICTS, assert_clean, harness, run, started, wait_until

pytestmark = pytest.mark.system

RUN_S, RATE = 8.0, 100.0
BUSY_LATE_S = 0.1
"""How late the median arrival may be here, where tests share two cores; what a quiet machine does is benchmarked."""


@contextmanager
def emulator(folder: Path, *arguments: str) -> Iterator[str]:
    command = [sys.executable, "-m", "servers.emulator", "--fixed", "ttft_s=0.02,itl_s=0.005,tokens=4", *arguments]
    with started(command, folder) as process:
        line = wait_until(lambda: process.out.partition("\n")[0], "the emulator is ready")
        yield f"http://127.0.0.1:{json.loads(line)['port']}"


def load(url: str, run_dir: Path, *arguments: str) -> Manifest:
    words = ["run", "translation", "--attach", url, "--run-dir", run_dir, "--run-time", f"{RUN_S:g}", *arguments]
    ended = harness(*words)
    assert ended.code in VERDICTS.values(), ended.text
    assert_clean(ended.text)
    return RunReader(run_dir).manifest


def scheduled(manifest: Manifest) -> npt.NDArray[np.float64]:
    """What the manifest alone says that the schedule was."""
    arrivals, facts = manifest.scenario.arrivals, manifest.load
    assert arrivals is not None
    timing = Timing(warm_up_s=facts.warm_up_s, run_time_s=facts.run_time_s)
    return arrival_times_s(arrivals, timing, facts.tail_s, manifest.seeds["arrivals"])


def column(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    return np.asarray(table.column(name).to_numpy())


def assert_every_arrival_has_its_sample(run_dir: Path) -> OpenLoad | None:
    """One sample per arrival, its ``user`` the place in the schedule, its scheduled time the schedule's.

    A run in which FAIL was decided at a look has the arrivals up to then.
    """
    reader = RunReader(run_dir)
    manifest, table = reader.manifest, reader.samples()
    schedule, facts = scheduled(manifest), manifest.load
    places = column(table, "user").astype(int)
    assert facts.loop == "open"
    assert facts.started_s is not None
    assert facts.stopped_issuing_s is not None
    assert sorted(places) == list(range(len(places)))
    assert facts.arrivals_scheduled == len(schedule)
    assert facts.arrivals_due == facts.samples_written == len(places)
    if facts.ended_by == "run time":
        assert len(places) == len(schedule)
    else:
        due = int((schedule <= facts.stopped_issuing_s - facts.started_s).sum())
        assert len(places) == pytest.approx(due, abs=5), "the stop reached the worker some milliseconds later"
    origins = {worker.worker: worker.wall_s(0.0) - facts.started_s for worker in manifest.workers}
    shift = np.array([origins[worker] for worker in table.column("worker").to_pylist()])
    assert np.abs(column(table, "scheduled_s") + shift - schedule[places]).max() < 1e-5
    lag_s = column(table, "sent_s") - column(table, "scheduled_s")
    assert lag_s.min() >= 0, "nothing leaves before its time"
    assert np.median(lag_s) < BUSY_LATE_S
    judgement = read_judgement(run_dir)
    window, found = judgement.window, judgement.load.open_loop
    if window is None:  # stopped within the warm-up
        return None
    assert found is not None
    in_window = (schedule >= window[0]) & (schedule <= window[1])
    assert found.due == found.started == int(in_window.sum())
    assert found.late_p99_s is not None
    assert found.late == int(((lag_s > 0.002) & in_window[places]).sum())
    return found


def test_every_arrival_has_its_sample(tmp_path: Path) -> None:
    with emulator(tmp_path / "emulator") as url:
        manifest = load(url, tmp_path / "run", "--rate", f"{RATE:g}", "--arrivals", "constant")
    found = assert_every_arrival_has_its_sample(tmp_path / "run")
    assert found is not None
    assert found.scheduled == RATE * (RUN_S + manifest.scenario.longest_limit_s)
    assert found.completed_rps == pytest.approx(RATE, rel=0.1)
    assert "open loop, constant 100/s" in read_judgement(tmp_path / "run").notes[0]
    assert "constant 100/s" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_the_shares_of_two_processes_add_up(tmp_path: Path) -> None:
    with emulator(tmp_path / "emulator") as url:
        ended = run(
            [
                *(*LOCUST, "-f", str(ROOT / "locustfiles" / "translation.py"), "--headless", "--processes", "2"),
                *("--host", url, "--rate", f"{RATE:g}", "--run-time", f"{RUN_S:g}", "--run-dir", str(tmp_path / "run")),
            ]
        )
    assert ended.code in VERDICTS.values(), ended.text
    assert "Traceback" not in ended.text, ended.text
    assert_every_arrival_has_its_sample(tmp_path / "run")
    manifest = RunReader(tmp_path / "run").manifest
    shares = [worker.arrivals_due for worker in manifest.workers]
    assert len(shares) == 2
    assert abs(shares[0] - shares[1]) <= 1
    table = RunReader(tmp_path / "run").samples()
    ranks = {worker.worker: rank for rank, worker in enumerate(manifest.workers)}
    assert all(
        place % 2 == ranks[worker]
        for place, worker in zip(table.column("user").to_pylist(), table.column("worker").to_pylist(), strict=True)
    )


def test_a_stalled_server_slows_no_arrival(tmp_path: Path) -> None:
    with emulator(tmp_path / "emulator", "--faults", "stall:0.5:after=2") as url:
        load(url, tmp_path / "run", "--rate", f"{RATE:g}")
    found = assert_every_arrival_has_its_sample(tmp_path / "run")
    assert found is not None
    assert found.in_flight_halves[1] > found.in_flight_halves[0] > 10, "what is stalled stays in flight"
    outcomes = RunReader(tmp_path / "run").samples().column("outcome").to_pylist()
    assert 0.35 < outcomes.count("in_flight") / len(outcomes) < 0.65
    assert any(check.verdict.value == "FAIL" for check in read_judgement(tmp_path / "run").checks)


def test_a_client_without_open_files_is_invalid_and_counts_what_it_could_not_start(tmp_path: Path) -> None:
    """The limit covers what the scenario's own limit needs, not a server that takes eight times as long."""
    with emulator(tmp_path / "emulator", "--fixed", "ttft_s=4,itl_s=0.005,tokens=4") as url:
        words = f"ulimit -n 320; exec {sys.executable} -m harness.cli run translation --attach {url} --rate {RATE:g}"
        ended = run(["bash", "-c", f"{words} --run-time {RUN_S:g} --run-dir {tmp_path / 'run'}"])
    assert ended.code == VERDICTS["INVALID"], ended.text
    reader = RunReader(tmp_path / "run")
    errors = reader.samples().column("error").to_pylist()
    refused = sum(error.startswith(OUT_OF_RESOURCES) for error in errors)
    assert refused > 10
    assert reader.manifest.load.arrivals_not_started == refused
    assert len(errors) == reader.manifest.load.arrivals_due, "not startable is counted, never skipped"
    assert any("could not be started" in reason for reason in read_judgement(tmp_path / "run").reasons)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--rate", "-1"), "--rate must be above 0 requests/s, not -1"),
        (("--arrivals", "poisson"), "--arrivals poisson needs --rate, in requests/s"),
        (("--rate", "5", "--users", "5"), "--users belongs to a closed loop, --rate and --arrivals to an open one"),
        (("--arrivals", "trace:/nowhere.csv"), "/nowhere.csv: there is no such file"),
    ],
)
def test_nonsense_ends_before_any_server_is_asked(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    ended = harness("run", "translation", "--attach", "http://127.0.0.1:9", "--run-dir", tmp_path / "run", *arguments)
    assert ended.code == 2
    assert sentence in ended.text
    assert "Traceback" not in ended.text


def test_the_web_form_starts_and_stops_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [*LOCUST, "-f", str(ROOT / "locustfiles" / "translation.py"), "--web-port", str(port), "--rate", "50"]
    words += ["--run-time", "60", "--run-dir", str(tmp_path / "run")]
    web = f"http://127.0.0.1:{port}"
    with emulator(tmp_path / "emulator") as url, started([*words, "--host", url], tmp_path / "locust") as process:
        wait_until(lambda: _posts(f"{web}/swarm", {"user_count": "7", "spawn_rate": "1", "host": url}), "the web form")
        samples = tmp_path / "run" / "samples.arrows"
        wait_until(lambda: samples.exists() and samples.stat().st_size > 30_000, "some arrivals were answered")
        assert _posts(f"{web}/stop", {})
        wait_until(lambda: (tmp_path / "run" / "judgement.json").exists(), "the verdict")
        process.send(signal.SIGINT)
        process.end()
    load_facts = RunReader(tmp_path / "run").manifest.load
    assert load_facts.ended_by == "stopped"
    assert 0 < load_facts.arrivals_due < load_facts.arrivals_scheduled
    assert_every_arrival_has_its_sample(tmp_path / "run")


def _posts(url: str, form: dict[str, str]) -> bool:
    try:
        with urllib.request.urlopen(url, urllib.parse.urlencode(form).encode(), timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
