"""The emulator as a process, over real sockets."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.catalog import load_catalog
from harness.roofline import latency_floor_s

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"
PATIENCE_S = 30.0
"""For what comes within milliseconds, on a machine that may be busy."""
QUIET_S = 0.3
"""Silence that is taken for a stall."""


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int
    model: str
    truth_path: Path

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def call(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        connection = self.connect()
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body)
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            return response.status, response.read(), dict(response.getheaders())
        finally:
            connection.close()

    def chat(self, request_id: str = "", **changes: object) -> tuple[int, bytes, dict[str, str]]:
        headers = {"X-Request-Id": request_id} if request_id else {}
        return self.call("POST", CHAT, chat_body(self.model, **changes), **headers)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def truth(self) -> list[dict[str, Any]]:
        """What it logged, once it has ended."""
        return [json.loads(line) for line in self.truth_path.read_bytes().splitlines()][1:]


def chat_body(model: str, **changes: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 8, **changes}


@contextmanager
def serving(directory: Path, *arguments: str, **popen: Any) -> Iterator[Server]:
    truth = directory / "truth.jsonl"
    command = [sys.executable, "-m", "servers.emulator", "--truth-log", str(truth), *arguments]
    with (directory / "stderr.log").open("w") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, **popen)
        with process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line, (directory / "stderr.log").read_text()
                ready = json.loads(line)
                assert ready["ready"] is True
                yield Server(process, ready["port"], ready["model"], truth)
            finally:
                if process.poll() is None:
                    process.terminate()


def stack_file(directory: Path, name: str, **changes: object) -> str:
    values = load_catalog().stack(name).model_dump(mode="json") | changes
    path = directory / "stack.json"
    path.write_text(json.dumps(values))
    return str(path)


def events(body: bytes) -> list[Any]:
    found = [line.removeprefix("data: ") for line in body.decode().split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in found]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


@pytest.fixture
def fixed(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path, "--fixed", "ttft_s=0.02,itl_s=0.005") as server:
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


def test_the_truth_log_matches_what_was_sent(fixed: Server) -> None:
    for number in range(3):
        fixed.chat(f"run/0/{number}/0", stream=True, ignore_eos=True)
    assert fixed.stop() == 0
    records = fixed.truth()
    assert [record["request_id"] for record in records] == ["run/0/0/0", "run/0/1/0", "run/0/2/0"]
    for record in records:
        assert record["outcome"] == "ok"
        assert record["output_tokens"] == len(record["sent_us"]) == 8
        assert record["planned_us"] == [20000 + 5000 * index for index in range(8)]
        assert all(sent >= planned for planned, sent in zip(record["planned_us"], record["sent_us"], strict=True))
        assert all(before < after for before, after in pairwise(record["sent_us"]))
        assert record["end_s"] >= record["received_s"] + record["sent_us"][-1] / 1e6 - 1e-6


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


def test_metrics_have_vllms_names(fixed: Server) -> None:
    fixed.chat(ignore_eos=True)
    text = fixed.call("GET", "/metrics")[1].decode()
    label = f'{{model_name="{fixed.model}"}}'
    assert f'vllm:num_requests_running{{engine="0",model_name="{fixed.model}"}} 0.0' in text
    assert f'vllm:num_requests_waiting{{engine="0",model_name="{fixed.model}"}} 0.0' in text
    assert f"vllm:generation_tokens_total{label} 8.0" in text
    assert f"vllm:prompt_tokens_total{label} 7.0" in text
    assert f"vllm:time_to_first_token_seconds_count{label} 1.0" in text
    assert f"vllm:e2e_request_latency_seconds_count{label} 1.0" in text
    assert f'vllm:request_success_total{{finished_reason="length",model_name="{fixed.model}"}} 1.0' in text
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


@contextmanager
def faulty(directory: Path, faults: str, fixed: str = "tokens=6") -> Iterator[Server]:
    with serving(directory, "--fixed", fixed, "--faults", faults) as server:
        yield server


def test_fault_429(tmp_path: Path) -> None:
    with faulty(tmp_path, "429:1:retry_after=2") as server:
        status, body, headers = server.chat()
        assert (status, headers["Retry-After"]) == (429, "2")
        assert json.loads(body)["error"]["type"] == "RateLimitError"
        assert server.chat()[0] == 200


@pytest.mark.parametrize("status", [500, 503])
def test_fault_status(tmp_path: Path, status: int) -> None:
    with faulty(tmp_path, f"{status}:1") as server:
        assert server.chat()[0] == status
        assert server.chat()[0] == 200
        server.stop()
        refused, served = server.truth()
        assert (refused["fault"], refused["status"], refused["outcome"]) == (str(status), status, "refused")
        assert served["outcome"] == "ok"


def test_fault_stall(tmp_path: Path) -> None:
    with faulty(tmp_path, "stall:1:after=2") as server:
        connection = server.connect()
        connection.request("POST", CHAT, json.dumps(chat_body(server.model, stream=True)))
        response = connection.getresponse()
        lines = [response.readline() for _ in range(6)]
        assert sum(b"content" in line for line in lines) == 3  # the role and two tokens
        connection.sock.settimeout(QUIET_S)
        with pytest.raises(TimeoutError):
            response.readline()
        response.close()
        connection.close()
        assert server.chat()[0] == 200
        server.stop()
        stalled = next(record for record in server.truth() if record["fault"] == "stall")
        assert (stalled["outcome"], len(stalled["sent_us"])) == ("stalled", 2)


def test_fault_reset(tmp_path: Path) -> None:
    with faulty(tmp_path, "reset:1:after=3") as server:
        with pytest.raises(ConnectionResetError):
            server.chat(stream=True)
        assert server.chat(stream=True)[0] == 200
        server.stop()
        assert server.truth()[0]["outcome"] == "reset"


@pytest.mark.parametrize("after", [0, 3, 6, 99])
def test_fault_truncate(tmp_path: Path, after: int) -> None:
    with faulty(tmp_path, f"truncate:1:after={after}") as server:
        with pytest.raises(http.client.IncompleteRead) as caught:
            server.chat(stream=True)
        assert caught.value.partial.count(b'"content":"') == 1 + min(after, 6)
        assert b"[DONE]" not in caught.value.partial
        server.stop()
        assert server.truth()[0]["outcome"] == "truncated"


def test_fault_malformed(tmp_path: Path) -> None:
    with faulty(tmp_path, "malformed:2:after=1") as server:
        _, body, _ = server.chat(stream=True)
        assert body.endswith(b"data: [DONE]\n\n")
        with pytest.raises(json.JSONDecodeError):
            events(body)
        with pytest.raises(json.JSONDecodeError):
            json.loads(server.chat()[1])
        server.stop()
        assert [record["outcome"] for record in server.truth()] == ["malformed", "malformed"]


def test_fault_slow_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    command = [sys.executable, "-m", "servers.emulator", "--fixed", "tokens=3", "--port", str(port)]
    with subprocess.Popen(
        [*command, "--faults", "slow_start:60"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        server = Server(process, port, "emulated", tmp_path)  # type: ignore[arg-type]

        def listens() -> bool:
            try:
                return server.call("GET", "/v1/models")[0] == 200
            except ConnectionError:
                return False

        until(listens)
        assert server.call("GET", "/health")[0] == 503
        assert server.chat()[0] == 503
        assert server.stop() == 0
        assert process.stdout is not None
        assert process.stdout.read() == b""  # it never was ready


def test_fault_slow_start_ends(tmp_path: Path) -> None:
    with faulty(tmp_path, "slow_start:0.05") as server:
        assert server.call("GET", "/health")[0] == 200


def test_fault_exit_after(tmp_path: Path) -> None:
    with faulty(tmp_path, "exit_after:2") as server:
        assert [server.chat()[0] for _ in range(2)] == [200, 200]
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            server.chat()
        assert server.process.wait(PATIENCE_S) == 70
        assert [record["outcome"] for record in server.truth()] == ["ok", "ok"]


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
