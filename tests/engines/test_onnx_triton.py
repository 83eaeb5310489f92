"""ONNX Runtime GenAI on the real Triton, with SmolLM2 in two precisions, asked by the harness's own clients."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness.judgement import Mark
from harness.records import Outcome
from harness.runlog import SAMPLES
from servers import RunningServer
from tests.e2e.processes import assert_no_trace, assert_nothing_left, harness, judgement_of, manifest_of
from tests.engines.onnx_support import GRPC, HTTP, ask, batches, stack_with
from tests.engines.scored_quality import assert_translates_as_smollm2_does
from tests.engines.triton_support import launch

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]

TIMES = ("arrival", "first_scheduled", "first_token", "last_token")
PROMPTS = [
    "Tell me about a dog who went to the city.",
    "List three colours.",
    "Say hello.",
    "How do I make tomato soup?",
    "What is a bicycle?",
]


@pytest.fixture(scope="module", params=["smollm2-onnx-int4", "smollm2-onnx-int8"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp(request.param)
    with launch(stack_with("triton-onnx-smollm2", request.param), folder) as server:
        yield server
    assert_nothing_left(folder)


@pytest.fixture(scope="module")
def alone(server: RunningServer) -> list[str]:
    """What the model says to each prompt when nothing else runs."""
    answers = ask(server, HTTP, PROMPTS, 12)
    assert batches(answers) == len(PROMPTS)
    return [answer["text"] for answer in answers]


def in_common(one: str, other: str) -> int:
    """Letters with which both begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_several_at_once_are_batched_and_each_gets_its_own_answer(
    server: RunningServer, alone: list[str], protocol: str
) -> None:
    answers = ask(server, protocol, PROMPTS, 12, at_once=True)
    for number, answer in enumerate(answers):
        assert (answer["outcome"], answer["error"]) == ("ok", "")
        assert 0 < answer["tokens"] <= 12
        assert answer["finish_reason"] in ("stop", "length")
        times = [answer["server"][f"{name}_time_ns"] for name in TIMES]
        assert times == sorted(times)
        # A batch rounds otherwise than a single row, so a later word may differ.
        shared = [in_common(answer["text"], text) for text in alone]
        assert shared[number] > max(shared[:number] + shared[number + 1 :])
    assert batches(answers) < len(answers)


def test_temperature_0_repeats_an_answer(server: RunningServer, alone: list[str]) -> None:
    assert [answer["text"] for answer in ask(server, GRPC, PROMPTS[:2], 12)] == alone[:2]
    assert len(set(alone)) == len(alone)


def test_a_seed_repeats_a_sampled_answer_and_another_seed_does_not(server: RunningServer) -> None:
    prompts = ["Tell me a long story about a dog."]
    sampled = {"sampling_param_temperature": 1.0, "sampling_param_top_k": 0}
    first, again = ask(server, GRPC, prompts * 2, 16, sampling_param_seed=7, **sampled)
    (other,) = ask(server, HTTP, prompts, 16, sampling_param_seed=8, **sampled)
    assert first["text"] == again["text"]
    assert first["text"] != other["text"]


def test_an_exact_length_goes_on_after_the_end(server: RunningServer) -> None:
    (short,) = ask(server, HTTP, ["What is the capital of France?"], 48)
    (forced,) = ask(server, HTTP, ["What is the capital of France?"], 48, ignore_eos=True)
    assert short["tokens"] <= forced["tokens"]
    assert forced["finish_reason"] == "length"
    assert 44 <= forced["tokens"] <= 48  # a token of half a character has no text of its own, and so is not seen


def test_what_does_not_fit_is_refused_and_the_rest_is_answered(server: RunningServer) -> None:
    too_long, fits = ask(server, HTTP, ["word " * 3000, "Say hello."], 8, at_once=True)
    assert too_long["outcome"] == "http_error"
    assert "are more than the context of 2048" in too_long["error"]
    assert fits["outcome"] == "ok"
    (empty,) = ask(server, GRPC, [" "], 8)
    assert "text_input is empty" in empty["error"]


def test_its_translations_are_scored_and_those_of_a_small_model(server: RunningServer, tmp_path: Path) -> None:
    # Triton takes one text, in which the roles are words: a model this small repeats "System:" and "User:".
    assert_translates_as_smollm2_does(server, tmp_path, HTTP, least_clean=0.5)


def test_a_whole_run(tmp_path: Path) -> None:
    stack_with("triton-onnx-smollm2", "smollm2-onnx-int4")
    directory = tmp_path / "run"
    options = ("--users", "1", "--run-time", "12", "--output-tokens", "8")
    ended = harness("run", "chatbot", "--stack", "triton-onnx-smollm2", *options, "--run-dir", directory)
    assert_nothing_left(directory)
    assert_no_trace(ended.out, ended.err)
    judgement, manifest = judgement_of(directory), manifest_of(directory)
    assert ended.code == judgement.verdict.exit_code
    assert Mark.EMULATED not in judgement.marks
    assert manifest.server.launcher == "triton-onnx"
    assert manifest.server.version.startswith("triton 2.")
    assert manifest.server.details["weights"] == "smollm2-onnx-int4"
    answered = [row for row in pq.read_table(directory / SAMPLES).to_pylist() if row["outcome"] == Outcome.OK]
    assert answered
    assert all(0 < row["output_tokens"] <= 8 for row in answered)
