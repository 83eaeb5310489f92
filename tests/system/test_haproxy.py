"""Real HAProxy before three emulators: load is shared evenly, and a replica that is killed takes only its own requests.

A request has *started* when a replica has accepted it. What the emulators' truth logs say is what happened: a request
in the log of a survivor was answered there; one in none of them was with the killed replica when it was killed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.catalog import load_catalog
from harness.errors import ExitCode
from harness.judgement import Judgement, Verdict
from harness.manifest import Manifest
from harness.records import BalancerCounters, Outcome, request_id
from tests.e2e.processes import (
    HARNESS,
    Ended,
    Started,
    assert_no_trace,
    assert_nothing_left,
    commands,
    events,
    in_phase,
    judgement_of,
    manifest_of,
    samples_of,
)

pytestmark = pytest.mark.system

NAMES = ("replica-1", "replica-2", "replica-3")
KILLED = "replica-2"
REQUESTS = 150
"""Before the kill: enough to see how they were shared."""
FLUSHED_S = 0.5
"""An emulator that is killed has written what ended longer ago than this."""


@dataclass(frozen=True)
class Run:
    """A run of which a replica was killed, and the moments before and after the signal, as monotonic seconds."""

    ended: Ended
    manifest: Manifest
    judgement: Judgement
    run_dir: Path
    before_s: float
    after_s: float
    samples: dict[str, dict[str, Any]]
    truth: dict[str, dict[str, dict[str, Any]]]
    """Replica to request id to what the emulator did."""

    def counters(self, name: str) -> BalancerCounters:
        found = next(each for each in self.manifest.server.replicas if each.name == name).counters
        assert found is not None
        return found

    def started_on_the_killed(self) -> dict[str, dict[str, Any]]:
        """Samples of requests that no survivor has seen and that the killed one had not ended."""
        seen = {name for log in self.truth.values() for name in log}
        return {
            name: sample
            for name, sample in self.samples.items()
            if name not in seen
            and not (sample["outcome"] == Outcome.OK and sample["end_s"] > self.before_s - FLUSHED_S)
        }


def catalog(folder: Path) -> Path:
    """A stack of three emulators, each a server of its own: with ``--real`` the engine is the emulator's program."""
    stack = json.loads(load_catalog().stack("vllm-7b-int8-a100").model_dump_json(exclude_none=True))
    stack |= {"name": "three", "title": "Three emulators", "engine": "emulator", "replicas": 3, "claims": {}}
    path = folder / "three.yaml"
    path.write_text(yaml.safe_dump(stack))
    return path


def start(folder: Path) -> tuple[Started, Path]:
    run_dir = folder / "run"
    folder.mkdir(parents=True, exist_ok=True)
    words = ["run", "chatbot", "--catalog", catalog(folder), "--stack", "three", "--real", "--users", "30"]
    words += ["--think-time", "0.3", "--output-tokens", "100", "--run-time", "9", "--run-dir", run_dir]
    return Started([*HARNESS, *words], folder), run_dir


def completed(run_dir: Path) -> int:
    return int(events(run_dir / "progress.jsonl")[-1]["completed"])


def process_of(run_dir: Path, replica: str) -> int:
    (pid,) = [pid for pid, line in commands("servers.emulator", run_dir / replica).items() if "guard.py" not in line]
    return pid


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, killed_harness: tuple[Started, Path]) -> Run:
    other, other_dir = killed_harness
    run, run_dir = start(tmp_path_factory.mktemp("replica"))
    try:
        other.until(lambda: commands("haproxy", other_dir / "haproxy.cfg"), "HAProxy")
        other.send(signal.SIGKILL)
        run.until(lambda: in_phase(run_dir / "progress.jsonl", "load") and completed(run_dir) > REQUESTS, "load")
        pid = process_of(run_dir, KILLED)
        before_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        after_s = time.monotonic()
        ended = run.end()
    finally:
        run.kill()
    samples = {request_id(row["run"], row["worker"], row["user"], row["sequence"]): row for row in _rows(run_dir)}
    truth = {name: _truth(run_dir / name / "truth.jsonl") for name in NAMES}
    return Run(ended, manifest_of(run_dir), judgement_of(run_dir), run_dir, before_s, after_s, samples, truth)


@pytest.fixture(scope="module")
def killed_harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Started, Path]]:
    """A run whose harness :func:`played` kills once it has its processes: both stand up beside each other."""
    run, run_dir = start(tmp_path_factory.mktemp("harness"))
    try:
        yield run, run_dir
    finally:
        run.kill()


def _rows(run_dir: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = samples_of(run_dir).to_pylist()
    return rows


def _truth(path: Path) -> dict[str, dict[str, Any]]:
    """Without the anchor, the probes, and a last line that the kill cut off."""
    lines = path.read_text(encoding="utf-8").split("\n")[1:-1]
    rows = [json.loads(line) for line in lines]
    loaded = [row for row in rows if row["request_id"] != "warm-up"]
    found = {row["request_id"]: row for row in loaded}
    assert len(found) == len(loaded), "one replica saw a request twice"
    return found


def test_load_is_shared_evenly(played: Run) -> None:
    shares = [sum(row["received_s"] < played.before_s for row in log.values()) for log in played.truth.values()]
    assert sum(shares) > REQUESTS
    assert max(shares) - min(shares) <= 0.15 * sum(shares) / len(shares) + 10  # those that the killed one had under way
    survivors = [played.counters(name).sessions for name in NAMES if name != KILLED]
    assert max(survivors) - min(survivors) <= 0.1 * sum(survivors) / 2


def test_the_balancer_counts_what_the_replicas_saw(played: Run) -> None:
    for name in NAMES:
        if name != KILLED:
            assert played.counters(name).sessions == len(played.truth[name])
            assert played.counters(name).times_down == 0
    killed = played.counters(KILLED)
    assert killed.status == "DOWN"
    assert killed.times_down == 1
    assert killed.down_s > 0
    assert killed.redispatches >= 1, "what it refused went to another"
    assert killed.connection_errors == 0
    assert killed.cut_off >= 1


def test_every_request_that_had_not_started_is_answered_by_another(played: Run) -> None:
    later = {name: row for name, row in played.samples.items() if row["sent_s"] > played.after_s}
    assert len(later) > 50
    assert Counter(row["outcome"] for row in later.values()) == {Outcome.OK: len(later)}
    survivors = set().union(*(log for name, log in played.truth.items() if name != KILLED))
    assert set(later) <= survivors


def test_only_what_the_killed_one_had_accepted_is_lost_and_all_of_it_counts(played: Run) -> None:
    failed = {name: row for name, row in played.samples.items() if row["outcome"] != Outcome.OK}
    assert failed.keys() == played.started_on_the_killed().keys()
    assert all(row["sent_s"] < played.after_s for row in failed.values())
    streaming = [row["outcome"] for row in failed.values() if row["chunks"]]
    assert streaming, "the replica was killed while it streamed"
    assert set(streaming) <= {Outcome.TRUNCATED, Outcome.RESET}
    # the others had been accepted, and no answer had begun
    assert {(row["outcome"], row["http_status"]) for row in failed.values() if not row["chunks"]} <= {
        *((outcome, 200) for outcome in (Outcome.TRUNCATED, Outcome.RESET)),
        (Outcome.HTTP_ERROR, 502),
    }
    counted = {each.outcome: each.count for each in played.judgement.outcomes if each.outcome != Outcome.OK}
    assert sum(counted.values()) == len(failed)


def test_no_request_is_sent_twice(played: Run) -> None:
    seen = Counter(name for log in played.truth.values() for name in log)
    assert set(seen.values()) == {1}
    assert seen.keys() <= played.samples.keys()


def test_a_replica_that_died_is_a_fail_with_its_last_words(played: Run) -> None:
    assert played.ended.code == ExitCode.FAIL
    assert_no_trace(played.ended.out, played.ended.err)
    judgement = played.judgement
    assert judgement.verdict is Verdict.FAIL
    assert judgement.sentence.startswith(f"FAIL: {KILLED} of 3 died during the run: it was killed by SIGKILL")
    assert "its log ends with: emulator: three, calibration roofline" in judgement.sentence
    assert played.manifest.load.complete, "two replicas were left to load"
    assert not played.manifest.server.died
    assert [each.died for each in played.manifest.server.replicas] == [name == KILLED for name in NAMES]
    assert any(f"{KILLED} is DOWN" in line for line in judgement.server_log_tail)


def test_the_report_and_the_seal_hold_all_of_it(played: Run) -> None:
    logs = {"server.log", *(f"server-{number}.log" for number in (1, 2, 3))}
    assert logs <= played.manifest.digests.keys()
    assert not list(played.run_dir.glob("*.live"))
    assert not (played.run_dir / "haproxy.sock").exists()
    page = (played.run_dir / "report.html").read_text(encoding="utf-8")
    (row,) = re.findall(rf"<tr>\s*<th[^>]*>\s*{KILLED}.*?</tr>", page, re.DOTALL)
    assert "was killed by SIGKILL" in row
    assert str(played.counters(KILLED).sessions) in row


def test_all_processes_end(played: Run) -> None:
    assert_nothing_left(played.run_dir)


@pytest.mark.usefixtures("played")
def test_nothing_survives_a_killed_harness(killed_harness: tuple[Started, Path]) -> None:
    run, run_dir = killed_harness
    assert run.end().code == -signal.SIGKILL
    assert_nothing_left(run_dir)
