"""What the harness measures is what happened: every sample against the emulator's log of its true send times.

Client and emulator share one host, and so one CLOCK_MONOTONIC; the clock anchors of both are checked beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.judgement import Judgement, Mark
from harness.manifest import Manifest
from harness.records import request_id
from tests.e2e.processes import assert_no_trace, harness, judgement_of, manifest_of, samples_of, unstarved

pytestmark = pytest.mark.alone
CLOSE_S = 0.005
CLOSE_SHARE = 0.02
ANCHOR_S = 0.02
"""Two readings of two clocks, in each of two processes, on a machine that is busy."""

RUNS = {
    "openai": ("chatbot", "vllm-7b-int8-a100", "--users", "30", "--think-time", "0.5", "--output-tokens", "60"),
    "triton": ("chatbot", "trtllm-7b-int8-a100", "--users", "40", "--think-time", "0.5", "--output-tokens", "24"),
}


@dataclass(frozen=True)
class Run:
    manifest: Manifest
    judgement: Judgement
    samples: dict[str, dict[str, Any]]
    """By request id."""
    truth: list[dict[str, Any]]
    """Rows of the truth log, without the requests of the warm-up."""
    anchor: dict[str, Any]
    rows: int

    def pairs(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Finished requests as (sample, truth)."""
        true = {row["request_id"]: row for row in self.truth}
        return [(sample, true[name]) for name, sample in self.samples.items() if sample["outcome"] == "ok"]


@pytest.fixture(scope="module", params=RUNS)
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    scenario, stack, *options = RUNS[request.param]

    def play(run_dir: Path) -> Judgement:
        ended = harness("run", scenario, "--stack", stack, *options, "--run-time", "7", "--run-dir", run_dir)
        assert_no_trace(ended.out, ended.err)
        judgement = judgement_of(run_dir)
        assert ended.code == judgement.verdict.exit_code
        return judgement

    run_dir, judgement = unstarved(play, tmp_path_factory.mktemp(request.param))
    table = samples_of(run_dir).to_pylist()
    samples = {request_id(row["run"], row["worker"], row["user"], row["sequence"]): row for row in table}
    anchor, *truth = [json.loads(line) for line in (run_dir / "truth.jsonl").read_text().splitlines()]
    loaded = [row for row in truth if row["request_id"] != "warm-up"]
    return Run(manifest_of(run_dir), judgement, samples, loaded, anchor["anchor"], len(table))


def assert_close(measured_s: list[float], true_s: list[float]) -> None:
    error_s = np.abs(np.array(measured_s) - np.array(true_s))
    allowed_s = max(CLOSE_S, CLOSE_SHARE * float(np.median(true_s)))
    assert np.isfinite(error_s).all()
    assert float(np.median(error_s)) <= allowed_s


def test_the_load_was_worth_measuring(measured: Run) -> None:
    assert len(measured.pairs()) > 200
    assert Mark.EMULATED in measured.judgement.marks
    assert measured.judgement.load.in_flight_mean is not None
    assert measured.judgement.load.in_flight_mean > 1


def test_every_sample_has_exactly_one_row_of_truth(measured: Run) -> None:
    names = [row["request_id"] for row in measured.truth]
    assert measured.rows == len(measured.samples) == measured.manifest.load.samples_written
    assert len(names) == len(set(names))
    assert set(names) == set(measured.samples)


def test_tokens_agree(measured: Run) -> None:
    for sample, true in measured.pairs():
        assert sample["output_tokens"] == true["output_tokens"] == len(true["sent_us"]) == sample["chunks"]
        assert len(sample["gaps_us"]) == sample["chunks"] - 1
        assert sample["requested_tokens"] == true["asked_tokens"]
        assert true["outcome"] == "ok"


def test_time_to_first_token(measured: Run) -> None:
    pairs = measured.pairs()
    assert_close([s["first_token_s"] - s["sent_s"] for s, _ in pairs], [t["sent_us"][0] / 1e6 for _, t in pairs])


def test_last_token(measured: Run) -> None:
    pairs = measured.pairs()
    assert_close([s["last_token_s"] - s["sent_s"] for s, _ in pairs], [t["sent_us"][-1] / 1e6 for _, t in pairs])


def test_end_to_end(measured: Run) -> None:
    pairs = measured.pairs()
    assert_close([s["end_s"] - s["sent_s"] for s, _ in pairs], [t["end_s"] - t["received_s"] for _, t in pairs])


def test_gaps_between_tokens(measured: Run) -> None:
    pairs = measured.pairs()
    gaps_us = np.concatenate([sample["gaps_us"] for sample, _ in pairs])
    true_us = np.concatenate([np.diff(true["sent_us"]) for _, true in pairs])
    assert_close(list(gaps_us / 1e6), list(true_us / 1e6))


def test_no_token_arrives_before_it_was_sent(measured: Run) -> None:
    for sample, true in measured.pairs():
        assert sample["sent_s"] <= true["received_s"]
        assert sample["first_token_s"] >= true["received_s"] + true["sent_us"][0] / 1e6 - 1e-6
        assert sample["last_token_s"] >= true["received_s"] + true["sent_us"][-1] / 1e6 - 1e-6


def test_anchors_map_to_the_same_wall_clock(measured: Run) -> None:
    anchor, workers = measured.anchor, {worker.worker: worker for worker in measured.manifest.workers}
    errors = []
    for sample, true in measured.pairs():
        received = anchor["wall_s"] + (true["received_s"] - anchor["monotonic_s"])
        errors.append(workers[sample["worker"]].wall_s(sample["sent_s"]) - received)
    assert abs(float(np.median(errors))) < ANCHOR_S
