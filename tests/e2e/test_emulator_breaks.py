"""Each fault of the emulator, seen over a real socket."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.emulator_process import CHAT, PATIENCE_S, ROOT, Server, chat_body, events, serving, until

QUIET_S = 0.3
"""Silence that is taken for a stall."""


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


def test_faults_leave_readiness_probes_alone(tmp_path: Path) -> None:
    with faulty(tmp_path, "500:1,exit_after:1") as server:
        assert [server.chat("warm-up")[0] for _ in range(3)] == [200, 200, 200]
        assert server.chat()[0] == 500
