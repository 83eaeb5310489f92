"""A specialised translation model on the real Triton, with CTranslate2; it is made here and its quality unclaimed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness.records import Outcome
from harness.runlog import OUTPUTS, SAMPLES
from servers import RunningServer
from tests.e2e.processes import assert_no_trace, assert_nothing_left, harness, judgement_of, manifest_of
from tests.engines.onnx_support import GRPC, HTTP, ask, batches, stack_with
from tests.engines.triton_support import launch

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]

SENTENCE = "the teacher buys the key."
LEARNT = {"fr": "le professeur achète la clé.", "de": "der Lehrer kauft den Schlüssel."}
"""Of the lexicon that the tiny model was trained with."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("translation")
    with launch(stack_with("translation-ctranslate2", "tiny-seq2seq"), folder) as server:
        yield server
    assert_nothing_left(folder)


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_each_of_a_batch_gets_its_own_language_token_by_token(server: RunningServer, protocol: str) -> None:
    prompts = [f">>{language}<< {SENTENCE}" for language in LEARNT] * 4
    answers = ask(server, protocol, prompts, 32, at_once=True)
    assert [answer["text"] for answer in answers] == [*LEARNT.values()] * 4
    for answer in answers:
        assert answer["finish_reason"] == "stop"
        assert 4 < answer["tokens"] <= 32
        assert answer["server"]["first_token_time_ns"] < answer["server"]["last_token_time_ns"]
    assert batches(answers) < len(answers)


def test_limits(server: RunningServer) -> None:
    (cut,) = ask(server, HTTP, [f">>fr<< {SENTENCE}"], 3)
    assert cut["finish_reason"] == "length"
    assert 0 < cut["tokens"] <= 3  # a space that opens the sentence is a token without text
    assert LEARNT["fr"].startswith(cut["text"])
    unnamed, unknown, long = ask(server, HTTP, [SENTENCE, f">>xx<< {SENTENCE}", "word " * 600], 32)
    assert unnamed["text"] == LEARNT["fr"]
    assert "translates into" in unknown["error"]
    assert "more than the model's 512" in long["error"]


def test_a_whole_run(tmp_path: Path) -> None:
    stack_with("translation-ctranslate2", "tiny-seq2seq")
    directory = tmp_path / "run"
    ended = harness(
        "run", "translation", "--stack", "translation-ctranslate2", "--run-time", "8", "--run-dir", directory
    )
    assert_nothing_left(directory)
    assert_no_trace(ended.out, ended.err)
    judgement, manifest = judgement_of(directory), manifest_of(directory)
    assert ended.code == judgement.verdict.exit_code
    assert manifest.scenario.workload.templates == "bare-sentence"
    assert manifest.server.launcher == "triton-ctranslate2"
    answered = [row for row in pq.read_table(directory / SAMPLES).to_pylist() if row["outcome"] == Outcome.OK]
    assert len(answered) > 8
    assert all(0 < row["output_tokens"] <= 24 for row in answered)
    outputs = [json.loads(line) for line in (directory / OUTPUTS).read_text(encoding="utf-8").splitlines()]
    assert not any("Translate" in output["text"] for output in outputs)
