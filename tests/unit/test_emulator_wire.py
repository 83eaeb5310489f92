"""The wire formats, the truth log and the command line's values, without sockets."""

from __future__ import annotations

import json
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.catalog import load_catalog
from harness.errors import UsageError
from servers.emulator import kserve, openai
from servers.emulator.config import Fixed, read_cell
from servers.emulator.truth import TruthLog, TruthRecord
from servers.emulator.wire import TOKENS, WORDS, Ask, WireError, event, token_text, whole_text

MESSAGES = [{"role": "user", "content": "x" * 40}]


def ask(**changes: object) -> Ask:
    return openai.parse({"model": "m", "messages": MESSAGES, **changes}, "m")


def payloads(data: bytes) -> list[str]:
    """The events of chunks, each checked against its chunk's length."""
    found = []
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        chunk, data = data[:length], data[length:]
        assert data.startswith(b"\r\n")
        data = data[2:]
        if length:
            assert chunk.startswith(b"data: ")
            assert chunk.endswith(b"\n\n")
            found.append(chunk[6:-2].decode())
    return found


def test_the_text_says_what_it_is() -> None:
    assert whole_text(4) == "This text is emulated"
    assert whole_text(21).startswith("This text is emulated :")
    assert len(TOKENS) == len(WORDS) + 1
    assert whole_text(200).split() == [WORDS[index % len(WORDS)] for index in range(200)]


@settings(deadline=None)
@given(st.integers(0, 500))
def test_a_token_is_the_same_word_in_both_formats(index: int) -> None:
    chat = openai.ChatFormat(ask(stream=True), "m", 1)
    generate = kserve.GenerateFormat("m")
    (chat_event,) = payloads(chat.token(index))
    (generate_event,) = payloads(generate.token(index))
    assert json.loads(chat_event)["choices"][0]["delta"]["content"] == token_text(index)
    assert json.loads(generate_event)["text_output"] == token_text(index)


def test_a_chat_stream_ends_with_finish_usage_and_done() -> None:
    chat = openai.ChatFormat(ask(stream=True, stream_options={"include_usage": True}), "m", 1)
    finish, usage, done = payloads(chat.tail(7, "stop"))
    assert json.loads(finish)["choices"][0]["finish_reason"] == "stop"
    assert json.loads(usage)["usage"] == {"prompt_tokens": 14, "completion_tokens": 7, "total_tokens": 21}
    assert json.loads(usage)["choices"] == []
    assert done == "[DONE]"


def test_usage_only_when_asked_for() -> None:
    assert len(payloads(openai.ChatFormat(ask(stream=True), "m", 1).tail(7, "stop"))) == 2


def test_lengths_are_read_from_every_name() -> None:
    assert ask(max_tokens=5).max_tokens == 5
    assert ask(max_tokens=5, max_completion_tokens=6).max_tokens == 6
    assert ask(min_tokens=3, max_tokens=5).min_tokens == 3
    assert ask(ignore_eos=True).ignore_eos
    generate = kserve.parse({"text_input": "hi", "parameters": {"max_tokens": 9}}, stream=True)
    assert generate.max_tokens == 9
    assert kserve.parse({"text_input": "hi", "sampling_param_max_tokens": 8}, stream=True).max_tokens == 8
    assert kserve.parse({"text_input": "hi", "max_tokens": 4, "ignore_eos": True}, stream=False).ignore_eos


def test_content_may_come_in_parts() -> None:
    parts = [{"type": "text", "text": "a" * 20}, {"type": "image_url"}, {"type": "text", "text": "b" * 20}]
    assert ask(messages=[{"role": "user", "content": parts}]).prompt_tokens == 14


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"model": "other"}, 404),
        ({"messages": []}, 400),
        ({"messages": "hello"}, 400),
        ({"messages": [{"content": "no role"}]}, 400),
        ({"messages": [{"role": "user", "content": 7}]}, 400),
        ({"max_tokens": 0}, 400),
        ({"max_tokens": "ten"}, 400),
        ({"max_tokens": True}, 400),
        ({"max_tokens": 5, "min_tokens": 6}, 400),
    ],
)
def test_wrong_requests_are_refused(changes: dict[str, object], status: int) -> None:
    with pytest.raises(WireError) as caught:
        ask(**changes)
    assert caught.value.status == status


@pytest.mark.parametrize("body", [{}, {"text_input": 3}, {"text_input": "x", "parameters": 4}])
def test_wrong_generate_requests_are_refused(body: dict[str, object]) -> None:
    with pytest.raises(WireError):
        kserve.parse(body, stream=True)


def test_an_event_is_one_chunk() -> None:
    assert event(b"[DONE]") == b"e\r\ndata: [DONE]\n\n\r\n"


def test_the_truth_log_holds_offsets_from_the_anchor(tmp_path: Path) -> None:
    log = TruthLog(tmp_path / "truth.jsonl", {"seed": 3})
    record = TruthRecord("run/0/1/2", 0, "/v1/chat/completions", 1000.0)
    record.planned = array("d", [1000.1, 1000.2])
    record.sent = array("d", [1000.1005, 1000.2000004])
    log.write(record)
    log.work()
    log.write(TruthRecord("run/0/1/3", 1, "/v1/chat/completions", 1001.0))
    log.close()
    anchor, first, second = (json.loads(line) for line in (tmp_path / "truth.jsonl").read_bytes().splitlines())
    assert anchor["anchor"]["seed"] == 3
    assert {"wall_s", "monotonic_s", "pid"} <= anchor["anchor"].keys()
    assert first["planned_us"] == [100000, 200000]
    assert first["sent_us"] == [100500, 200000]
    assert second["outcome"] == "in_flight"
    assert second["sent_us"] == []


def test_without_a_path_the_truth_log_keeps_nothing() -> None:
    log = TruthLog(None, {})
    log.write(TruthRecord("", 0, "/", 0.0))
    log.work()
    log.close()


def test_fixed_times() -> None:
    assert Fixed.parse("ttft_s=0.1,itl_s=0.02,tokens=32") == Fixed(0.1, 0.02, 32)
    assert Fixed.parse("itl_s=0.02") == Fixed(0.0, 0.02, None)


@pytest.mark.parametrize("text", ["speed=3", "ttft_s=fast", "ttft_s=-1"])
def test_wrong_fixed_times(text: str) -> None:
    with pytest.raises(UsageError, match="--fixed"):
        Fixed.parse(text)


def test_a_cell_is_a_stack_or_an_object_of_parts(tmp_path: Path) -> None:
    catalog = load_catalog()
    stack, gpu, scenario = catalog.stack("vllm-7b-t4"), catalog.gpus["t4"], catalog.scenario("chatbot")
    path = tmp_path / "cell.json"
    path.write_text(stack.model_dump_json())
    plain = read_cell(path, "chatbot")
    assert (plain.stack, plain.gpu, plain.scenario) == (stack, gpu, scenario)
    own = gpu.model_copy(update={"name": "own", "bandwidth_gbps": 1.0})
    parts = (f'"stack": {stack.model_dump_json()}', f'"gpu": {own.model_dump_json()}')
    path.write_text(f'{{{", ".join(parts)}, "scenario": {scenario.model_dump_json()}}}')
    full = read_cell(path, None)
    assert (full.gpu, full.scenario) == (own, scenario)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "stack"}'])
def test_a_file_that_is_no_cell_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cell.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"cell\.json"):
        read_cell(path, None)


def test_an_unknown_gpu_is_named(tmp_path: Path) -> None:
    stack = load_catalog().stack("vllm-7b-t4")
    values = stack.model_dump(mode="json") | {"hardware": {"gpu": "abacus", "count": 1}}
    path = tmp_path / "cell.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UsageError, match="no GPU 'abacus'"):
        read_cell(path, None)
