"""The main job on a real engine: llama.cpp with a small real model, from the command to the verdict."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from harness.judgement import Mark, Verdict
from harness.records import Outcome, TokenSource
from harness.runlog import CERTIFICATE, JUDGEMENT, OUTPUTS, REPORT, SAMPLES, SAMPLES_LIVE, SCHEMA, SERVER_LOG, RunReader
from harness.telemetry_log import TELEMETRY
from servers.environments import ENVIRONMENTS, problems
from tests.e2e.processes import Ended, assert_no_trace, assert_nothing_left, harness, judgement_of, manifest_of

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(bool(problems(ENVIRONMENTS["llamacpp"])), reason="no llama.cpp here: make engine-llamacpp"),
]


@dataclass(frozen=True)
class Run:
    ended: Ended
    directory: Path
    samples: list[dict[str, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("llamacpp") / "run"
    # One user: a second one's long first prompt would end so short a run at its first look on a busy machine.
    options = ("--users", "1", "--run-time", "15")
    ended = harness("run", "chatbot", "--stack", "llamacpp-smollm2", *options, "--run-dir", directory)
    assert_nothing_left(directory)
    return Run(ended, directory, pq.read_table(directory / SAMPLES).to_pylist())


def test_the_exit_code_is_the_verdicts(run: Run) -> None:
    assert_no_trace(run.ended.out, run.ended.err)
    verdict = judgement_of(run.directory).verdict
    assert run.ended.code == verdict.exit_code
    assert verdict in (Verdict.INCONCLUSIVE, Verdict.FAIL)  # too few requests for PASS in 15 s
    assert str(verdict) in run.ended.out
    assert str(run.directory / REPORT) in run.ended.out


def test_the_run_directory_is_complete_and_sealed(run: Run) -> None:
    manifest = manifest_of(run.directory)
    assert manifest.sealed
    assert manifest.problems == ()
    assert set(manifest.digests) == {SAMPLES, OUTPUTS, TELEMETRY, SERVER_LOG, CERTIFICATE}
    assert RunReader(run.directory).altered_files() == ()
    for name in (*manifest.digests, JUDGEMENT, REPORT):
        assert (run.directory / name).stat().st_size > 0
    assert not (run.directory / SAMPLES_LIVE).exists()
    assert "llama" in (run.directory / SERVER_LOG).read_text(errors="replace")


def test_samples_have_exactly_the_columns_of_the_schema(run: Run) -> None:
    schema = pq.read_schema(run.directory / SAMPLES)
    assert schema.names == SCHEMA.names
    assert schema.types == SCHEMA.types
    assert len(run.samples) == manifest_of(run.directory).load.samples_written > 10


def test_it_is_reduced_and_real(run: Run) -> None:
    judgement, manifest = judgement_of(run.directory), manifest_of(run.directory)
    assert Mark.REDUCED in judgement.marks
    assert Mark.EMULATED not in judgement.marks
    assert manifest.reduced
    assert not manifest.server.emulated
    assert manifest.server.launcher == "llamacpp"
    assert manifest.server.version.startswith("xllamacpp ")


def test_the_servers_own_account_is_beside_ours(run: Run) -> None:
    found = judgement_of(run.directory).telemetry
    assert found is not None
    assert (found.server_kind, found.incomplete, found.energy) == ("llamacpp", "", None)
    means = {each.name: each.mean for each in found.series}
    assert 0 < means["running"] <= 1  # one user
    assert means["waiting"] == 0
    assert means["server_cpu_s"] > 0
    assert means["output_tokens_total"] > 0
    assert "kv_use" not in means  # it does not say: absent, not zero


def test_tokens_are_counted_by_the_server(run: Run) -> None:
    answered = [sample for sample in run.samples if sample["outcome"] == Outcome.OK]
    assert len(answered) > 10
    asked = manifest_of(run.directory).scenario.workload.output_tokens
    for sample in answered:
        assert sample["token_source"] == TokenSource.USAGE
        assert 0 < sample["output_tokens"] <= sample["requested_tokens"] == asked
        assert sample["prompt_tokens"] > 10
        assert sample["finish_reason"] in ("stop", "length")


def test_times_are_in_order(run: Run) -> None:
    for sample in run.samples:
        if sample["outcome"] == Outcome.OK:
            times = [sample[f"{name}_s"] for name in ("scheduled", "sent", "first_byte", "first_token", "last_token")]
            assert [*times, sample["end_s"]] == sorted([*times, sample["end_s"]])


def test_outputs_hold_real_text(run: Run) -> None:
    outputs = [json.loads(line) for line in (run.directory / OUTPUTS).read_text(encoding="utf-8").splitlines()]
    assert 0 < len(outputs) <= len(run.samples)
    texts = [output["text"] for output in outputs if output["outcome"] == Outcome.OK]
    assert all("emulated" not in text for text in texts)
    assert all(any(letter.isalpha() for letter in text) for text in texts)
    assert len(set(texts)) > 1


def test_it_is_judged_the_same_again_and_elsewhere(run: Run, tmp_path: Path) -> None:
    before = judgement_of(run.directory)
    copy = tmp_path / "copy"
    shutil.copytree(run.directory, copy)
    for directory in (run.directory, copy):
        ended = harness("judge", directory)
        assert_no_trace(ended.out, ended.err)
        assert ended.code == run.ended.code
        assert judgement_of(directory) == before


def test_an_altered_copy_is_noticed(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run.directory, copy)
    with (copy / OUTPUTS).open("a", encoding="utf-8") as file:
        file.write("{}\n")
    ended = harness("judge", copy)
    assert ended.code == Verdict.INVALID.exit_code
    assert OUTPUTS in judgement_of(copy).sentence
