"""The main job on the real Triton: from a user's own stack to a verdict, and what becomes of one that cannot start."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from harness.errors import ExitCode
from harness.judgement import Judgement, Verdict
from harness.records import Outcome
from harness.runlog import OUTPUTS, SAMPLES, SERVER_LOG
from servers.triton_main import LOST, STUB
from tests.e2e.processes import (
    HARNESS,
    Ended,
    assert_no_trace,
    assert_nothing_left,
    commands,
    harness,
    judgement_of,
    manifest_of,
    started,
    unstarved,
)
from tests.engines.triton_support import GRPC, MODEL, catalog_file, need_triton, repository_in

pytestmark = pytest.mark.engines

LOAD = ("--users", "5", "--run-time", "10", "--think-time", "0.5", "--output-tokens", "40")


@pytest.fixture(scope="module", autouse=True)
def _environment() -> None:
    need_triton()


def test_a_whole_run(tmp_path: Path) -> None:
    """Over gRPC; the run below goes over HTTP."""
    catalog = catalog_file(tmp_path, repository_in(tmp_path), GRPC)
    exit_codes: list[int] = []

    def play(directory: Path) -> Judgement:
        ended = harness(*command(catalog, directory))
        assert_no_trace(ended.out, ended.err)
        exit_codes.append(ended.code)
        return judgement_of(directory)

    directory, judgement = unstarved(play, tmp_path)
    manifest = manifest_of(directory)
    assert exit_codes[-1] == judgement.verdict.exit_code
    assert judgement.verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE)  # too few requests for PASS in 10 s
    assert manifest.sealed
    assert manifest.problems == ()
    assert manifest.server.launcher == "triton-trtllm"
    assert manifest.server.version.startswith("triton 2.")
    assert not manifest.server.died
    assert not manifest.server.emulated
    assert f"successfully loaded '{MODEL}'" in (directory / SERVER_LOG).read_text()
    answered = [sample for sample in samples(directory) if sample["outcome"] == Outcome.OK]
    assert len(answered) > 15
    for sample in answered:
        assert sample["output_tokens"] == sample["requested_tokens"] == 40
        assert sample["finish_reason"] == "length"
        assert 0.3 <= sample["first_token_s"] - sample["sent_s"] < 2
    outputs = [json.loads(line) for line in (directory / OUTPUTS).read_text(encoding="utf-8").splitlines()]
    assert all(output["text"].startswith("stand-in text of no model") for output in outputs)
    assert_nothing_left(tmp_path)


def command(catalog: Path, directory: Path) -> tuple[str | Path, ...]:
    return ("run", "chatbot", "--stack", "triton-standin", "--catalog", catalog, *LOAD, "--run-dir", directory)


def samples(directory: Path) -> list[dict[str, Any]]:
    return pq.read_table(directory / SAMPLES).to_pylist()


def test_a_model_process_that_dies_under_load_fails_the_run(tmp_path: Path) -> None:
    repository = repository_in(tmp_path)
    directory = tmp_path / "run"
    with started([*HARNESS, *command(catalog_file(tmp_path, repository), directory)], tmp_path) as run:
        run.until(lambda: "load" in run.err + run.out, "load")
        (stub,) = [pid for pid, line in commands(STUB, repository).items() if STUB in line.split()[0]]
        os.kill(stub, signal.SIGKILL)
        ended = run.end()
    judgement, manifest = judgement_of(directory), manifest_of(directory)
    assert ended.code == ExitCode.FAIL
    assert judgement.verdict is Verdict.FAIL
    assert manifest.server.died
    assert manifest.server.exit_code == LOST
    assert f"the process of model '{MODEL}' was killed by SIGKILL" in judgement.sentence
    assert_nothing_left(tmp_path)


def test_a_repository_without_the_model(tmp_path: Path) -> None:
    repository = repository_in(tmp_path)
    catalog = catalog_file(tmp_path, repository, served_model="tensorrt_llm")
    ended = harness("serve", "triton-standin", "--catalog", catalog)
    assert ended.code == ExitCode.SERVER
    assert_no_trace(ended.out, ended.err)
    assert f"the model repository {repository} has no model 'tensorrt_llm': it holds {MODEL}" in said(ended)


def test_no_repository_at_all(tmp_path: Path) -> None:
    catalog = catalog_file(tmp_path, tmp_path / "nowhere")
    ended = harness("serve", "triton-standin", "--catalog", catalog)
    assert ended.code == ExitCode.SERVER
    assert_no_trace(ended.out, ended.err)
    assert said(ended).splitlines()[-1] == f"harness: the model repository {tmp_path / 'nowhere'} is not there"


def said(ended: Ended) -> str:
    return ended.out + ended.err
