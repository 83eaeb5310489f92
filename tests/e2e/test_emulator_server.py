"""The emulator as a process, over real sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from harness.catalog import load_catalog
from harness.roofline import latency_floor_s
from tests.e2e.emulator_process import CHAT, PATIENCE_S, ROOT, Server, chat_body, events, serving, stack_file, until

FIXED = ("--fixed", "ttft_s=0.02,itl_s=0.005")


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For whoever needs no server that has answered nobody else."""
    with serving(tmp_path_factory.mktemp("fixed"), *FIXED) as server:
        yield server


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Server]:
    """One of its own, whose log, counters and end are the test's."""
    with serving(tmp_path, *FIXED) as server:
        yield server


def test_a_chat_stream(fixed: Server) -> None:
    status, body, headers = fixed.chat(
        "run/0/1/2", stream=True, ignore_eos=True, stream_options={"include_usage": True}
    )
    role, *contents, finish, usage, done = events(body)
    assert status == 200
    assert headers["Content-Type"].startswith("text/event-stream")
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(event["choices"][0]["delta"]["content"] for event in contents)
    assert text == "This text is emulated : no model wrote"
    assert len(contents) == 8
    assert finish["choices"][0]["finish_reason"] == "length"
    assert usage["usage"]["completion_tokens"] == 8
    assert done == "[DONE]"
    assert len({event["id"] for event in (role, *contents, finish, usage)}) == 1


def test_the_truth_log_matches_what_was_sent(fresh: Server) -> None:
    for number in range(3):
        fresh.chat(f"run/0/{number}/0", stream=True, ignore_eos=True)
    assert fresh.stop() == 0
    records = fresh.truth()
    assert [record["request_id"] for record in records] == ["run/0/0/0", "run/0/1/0", "run/0/2/0"]
    for record in records:
        assert record["outcome"] == "ok"
        assert record["output_tokens"] == len(record["sent_us"]) == 8
        assert record["planned_us"] == [20000 + 5000 * index for index in range(8)]
        assert all(sent >= planned for planned, sent in zip(record["planned_us"], record["sent_us"], strict=True))
        assert all(before < after for before, after in pairwise(record["sent_us"]))
        assert record["end_s"] >= record["received_s"] + record["sent_us"][-1] / 1e6 - 1e-6


@pytest.mark.alone
def test_tokens_leave_one_by_one(fixed: Server) -> None:
    connection = fixed.connect()
    try:
        connection.request("POST", CHAT, json.dumps(chat_body(fixed.model, stream=True, ignore_eos=True)))
        response = connection.getresponse()
        arrived = []
        while line := response.readline():
            if b'"content":"' in line:
                arrived.append(time.monotonic())
        assert len(arrived) == 9
        assert arrived[-1] - arrived[1] >= 7 * 0.005 * 0.5  # the reader may be late, not all of them at once
    finally:
        connection.close()


def test_a_chat_without_stream(fixed: Server) -> None:
    status, body, headers = fixed.chat(ignore_eos=True)
    answer = json.loads(body)
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert answer["choices"][0]["message"]["content"].startswith("This text is emulated")
    assert answer["usage"]["completion_tokens"] == 8


def test_a_natural_answer_ends_by_itself_and_the_same_way_again(fixed: Server) -> None:
    def length(request_id: str, **changes: object) -> int:
        tokens = json.loads(fixed.chat(request_id, **changes)[1])["usage"]["completion_tokens"]
        assert isinstance(tokens, int)
        return tokens

    lengths = [length(f"run/0/{user}/0", max_tokens=40) for user in range(12)]
    assert all(28 <= tokens <= 40 for tokens in lengths)
    assert len(set(lengths)) > 1
    assert length("run/0/3/0", max_tokens=40) == lengths[3]
    assert length("run/0/3/0", max_tokens=40, ignore_eos=True) == 40
    assert length("run/0/3/0", max_tokens=40, min_tokens=40) == 40
    assert length("run/0/3/0", max_completion_tokens=1) == 1


def test_generate_stream_has_no_done(fixed: Server) -> None:
    path = f"/v2/models/{fixed.model}/generate_stream"
    asked = {"text_input": "Hello", "sampling_param_max_tokens": 5, "ignore_eos": True, "streaming": True}
    status, body, headers = fixed.call("POST", path, asked)
    assert status == 200
    assert headers["Content-Type"].startswith("text/event-stream")
    found = events(body)
    assert [event["text_output"] for event in found] == ["This", " text", " is", " emulated", " :"]
    assert all(event["model_name"] == fixed.model and event["model_version"] == "1" for event in found)


def test_generate(fixed: Server) -> None:
    path = f"/v2/models/{fixed.model}/generate"
    _, body, _ = fixed.call("POST", path, {"text_input": "Hello", "max_tokens": 4, "ignore_eos": True})
    assert json.loads(body)["text_output"] == "This text is emulated"


def test_pages(fixed: Server) -> None:
    assert fixed.call("GET", "/health")[:2] == (200, b"")
    assert fixed.call("GET", "/v2/health/ready")[0] == 200
    assert json.loads(fixed.call("GET", "/v1/models?x=1")[1])["data"][0]["id"] == fixed.model
    assert json.loads(fixed.call("GET", f"/v2/models/{fixed.model}")[1])["versions"] == ["1"]


def test_metrics_have_vllms_names(fresh: Server) -> None:
    fresh.chat(ignore_eos=True)
    text = fresh.call("GET", "/metrics")[1].decode()
    label = f'{{model_name="{fresh.model}"}}'
    assert f'vllm:num_requests_running{{engine="0",model_name="{fresh.model}"}} 0.0' in text
    assert f'vllm:num_requests_waiting{{engine="0",model_name="{fresh.model}"}} 0.0' in text
    assert f"vllm:generation_tokens_total{label} 8.0" in text
    assert f"vllm:prompt_tokens_total{label} 7.0" in text
    assert f"vllm:time_to_first_token_seconds_count{label} 1.0" in text
    assert f"vllm:e2e_request_latency_seconds_count{label} 1.0" in text
    assert f'vllm:request_success_total{{finished_reason="length",model_name="{fresh.model}"}} 1.0' in text
    assert "vllm:kv_cache_usage_perc" in text


def test_errors(fixed: Server) -> None:
    status, body, _ = fixed.call("POST", CHAT, chat_body("other"))
    assert status == 404
    assert json.loads(body)["error"]["code"] == "model_not_found"
    status, body, _ = fixed.call("POST", "/v2/models/other/generate_stream", {"text_input": "x"})
    assert status == 404
    assert "other" in json.loads(body)["error"]
    status, body, _ = fixed.call("POST", CHAT, b"{not json")
    assert status == 400
    assert json.loads(body)["error"]["type"] == "BadRequestError"
    assert fixed.call("POST", CHAT, b"[1]")[0] == 400
    assert fixed.call("GET", CHAT)[0] == 405
    assert fixed.call("GET", "/nowhere")[0] == 404
    assert fixed.call("GET", "/v2/models/other")[0] == 404


def test_what_is_not_http_is_refused(fixed: Server) -> None:
    with socket.create_connection(("127.0.0.1", fixed.port), PATIENCE_S) as raw:
        raw.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 400")


def test_a_connection_is_kept_unless_asked_otherwise(fixed: Server) -> None:
    connection = fixed.connect()
    try:
        for close in (False, False, True):
            headers = {"Connection": "close"} if close else {}
            connection.request("POST", CHAT, json.dumps(chat_body(fixed.model, stream=True)), headers)
            used = connection.sock
            response = connection.getresponse()
            assert response.read().endswith(b"data: [DONE]\n\n")
            assert (connection.sock is used) or close
        assert used.recv(1) == b""
    finally:
        connection.close()


def test_requests_sent_ahead_are_answered_in_order(fixed: Server) -> None:
    requests = b""
    for tokens in (3, 2):
        body = json.dumps(chat_body(fixed.model, max_tokens=tokens, ignore_eos=True)).encode()
        requests += b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body)
    with socket.create_connection(("127.0.0.1", fixed.port), PATIENCE_S) as raw:
        raw.sendall(requests)
        received = b""
        while received.count(b'"completion_tokens"') < 2:
            data = raw.recv(65536)
            assert data
            received += data
    assert received.index(b'"completion_tokens":3') < received.index(b'"completion_tokens":2')


def test_a_client_that_goes_away_is_noticed(tmp_path: Path) -> None:
    with serving(tmp_path, "--fixed", "ttft_s=0,itl_s=0.01,tokens=100000") as server:
        connection = server.connect()
        connection.request("POST", CHAT, json.dumps(chat_body(server.model, stream=True)))
        response = connection.getresponse()
        response.readline()
        response.close()
        connection.close()
        until(lambda: b'running{engine="0",model_name="emulated"} 0.0' in server.call("GET", "/metrics")[1])
        server.stop()
        assert server.truth()[0]["outcome"] == "client_gone"


def test_a_gpus_times_follow_the_roofline(tmp_path: Path) -> None:
    arguments = ("--stack-json", stack_file(tmp_path, "vllm-7b-a100"), "--scenario", "chatbot")
    with serving(tmp_path, *arguments) as server:
        server.chat(stream=True, max_tokens=20, ignore_eos=True)
        assert server.stop() == 0
        (record,) = server.truth()
    catalog = load_catalog()
    stack = catalog.stack("vllm-7b-a100")
    assert stack.model is not None
    floor = latency_floor_s(stack.model, catalog.gpus["a100-80"], 1, record["prompt_tokens"], 20)
    assert floor.total_s <= record["planned_us"][-1] / 1e6 <= 2 * floor.total_s
    assert record["batch"] == 1


def test_memory_that_cannot_hold_a_request_is_an_error(tmp_path: Path) -> None:
    with serving(tmp_path, "--stack-json", stack_file(tmp_path, "vllm-7b-t4"), "--scenario", "content") as server:
        status, body, _ = server.chat(max_tokens=1000)
        assert status == 500
        assert json.loads(body)["error"]["message"].startswith("out of memory:")


def test_replicas_share_the_requests(tmp_path: Path) -> None:
    arguments = ("--stack-json", stack_file(tmp_path, "vllm-7b-a100", replicas=2))
    with serving(tmp_path, *arguments) as server:
        connections = [server.connect() for _ in range(4)]
        for connection in connections:
            connection.request("POST", CHAT, json.dumps(chat_body(server.model, stream=True, max_tokens=30)))
        for connection in connections:
            connection.getresponse().read()
            connection.close()
        server.stop()
        assert sorted(record["replica"] for record in server.truth()) == [0, 0, 1, 1]


def test_a_claim_is_replayed(tmp_path: Path) -> None:
    arguments = ("--stack-json", stack_file(tmp_path, "trtllm-13b-2xa100"), "--scenario", "translation")
    with serving(tmp_path, *arguments, "--calibration", "claims") as server:
        body = {"text_input": "Hello", "max_tokens": 20, "ignore_eos": True}
        server.call("POST", f"/v2/models/{server.model}/generate_stream", body)
        server.stop()
        assert server.truth()[0]["planned_us"][-1] == pytest.approx(200_000, abs=2)


def test_an_api_replays_its_claim_whatever_was_asked(tmp_path: Path) -> None:
    arguments = ("--stack-json", stack_file(tmp_path, "openai-gpt4"), "--scenario", "chatbot", "--seed", "5")
    with serving(tmp_path, *arguments, "--calibration", "roofline") as server:
        server.chat(max_tokens=10, ignore_eos=True)
        server.stop()
        assert server.truth()[0]["planned_us"][-1] == pytest.approx(100_000, rel=0.4)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_what_is_in_flight_logged(tmp_path: Path, number: int) -> None:
    with serving(tmp_path, "--fixed", "ttft_s=0,itl_s=0.01,tokens=100000") as server:
        connection = server.connect()
        try:
            connection.request("POST", CHAT, json.dumps(chat_body(server.model, stream=True)))
            response = connection.getresponse()
            while b'"content":"T' not in response.readline():
                pass
            assert server.stop(number) == 0
        finally:
            connection.close()
        (record,) = server.truth()
        assert record["outcome"] == "in_flight"
        assert record["output_tokens"] == len(record["sent_us"]) >= 1
        with pytest.raises(ConnectionRefusedError):
            server.call("GET", "/health")
        assert "stopped after 1 requests" in (tmp_path / "stderr.log").read_text()


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time\n"
        "server = subprocess.Popen([sys.executable, '-m', 'servers.emulator', '--fixed', 'tokens=1'],"
        " stdout=subprocess.PIPE, text=True)\n"
        "server.stdout.readline()\n"
        "print(server.pid, flush=True)\n"
        "server.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        assert server.is_running()
        os.kill(parent.pid, signal.SIGKILL)
        until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


def test_it_ends_with_its_stdin(tmp_path: Path) -> None:
    with serving(tmp_path, "--fixed", "tokens=1", "--watch-stdin", stdin=subprocess.PIPE) as server:
        assert server.chat()[0] == 200
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either --stack-json or --fixed"),
        (("--fixed", "tokens=1", "--faults", "gremlins:1"), "unknown fault 'gremlins'"),
        (("--fixed", "speed=1"), "--fixed has no 'speed'"),
        (("--stack-json", "/nonexistent.json"), "cannot read the stack"),
    ],
)
def test_usage_errors_exit_with_2(arguments: tuple[str, ...], message: str) -> None:
    command = [sys.executable, "-m", "servers.emulator", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
