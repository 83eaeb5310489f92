"""Starts an emulator and talks to it with the standard library alone."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.catalog import load_catalog

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"
PATIENCE_S = 30.0
"""For what comes within milliseconds, on a machine that may be busy."""


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
