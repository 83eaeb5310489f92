"""What the tests of ``servers`` share: scripted fake servers, conditions with a deadline, processes by their mark."""

from __future__ import annotations

import json
import os
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from harness.spec import Scenario, Stack
from servers.base import Launcher, Order, RunningServer, stand_up
from servers.ready import Endpoint
from servers.recipe import Recipe

ANSWERS = """
import http.server, json, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    events = [
        {"choices": [{"delta": {"role": "assistant", "content": None}}]},
        {"choices": [{"delta": {"content": "Hello"}}]},
        {"choices": [{"delta": {}, "finish_reason": "length"}]},
    ]
    status = 200

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for event in self.events:
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\\n\\n")
        self.wfile.write(b"data: [DONE]\\n\\n")

    def log_message(self, *_):
        pass

def listen(handler=Handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    print(json.dumps({"ready": True, "port": server.server_port, "version": "fake 1", "model": "fake"}), flush=True)
    return server
"""
"""Start of a script that serves; ``listen().serve_forever()`` makes it a server that gives one token."""


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for a condition, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


class Mark:
    """An argument that no other process carries, by which a test finds what it caused."""

    def __init__(self) -> None:
        self.text = f"mark-{uuid4().hex}"

    def pids(self) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    command = (entry / "cmdline").read_bytes()
                    state = (entry / "stat").read_bytes().rpartition(b")")[2].split()[0]
                except (OSError, IndexError):
                    continue
                if self.text.encode() in command and state not in (b"Z", b"X"):
                    found.append(int(entry.name))
        return found

    def gone(self) -> bool:
        return not self.pids()


def script(directory: Path, text: str, *arguments: str) -> tuple[str, ...]:
    """Write a Python script and give the command that runs it."""
    path = directory / f"script-{uuid4().hex[:8]}.py"
    path.write_text(text)
    return (sys.executable, "-u", str(path), *arguments)


class FakeEngine(Launcher):
    """Launches any command as an engine does."""

    name = "fake"

    def __init__(self, command: tuple[str, ...]) -> None:
        self.command = command

    def start(self, order: Order) -> RunningServer:
        return stand_up(order, self.name, Recipe(self.command))


def stack(**launch: object) -> Stack:
    return Stack.model_validate(
        {
            "kind": "stack",
            "name": "fake",
            "title": "A scripted server",
            "engine": "llamacpp",
            "model": {
                "name": "fake",
                "parameters": 1e9,
                "layers": 1,
                "hidden": 8,
                "kv_heads": 1,
                "head_dim": 8,
                "weight_bytes": 2,
            },
            "price": {"kind": "none", "reason": "a test"},
            "launch": {"ready_timeout_s": 20, **launch},
        }
    )


def scenario() -> Scenario:
    return Scenario.model_validate(
        {
            "kind": "scenario",
            "name": "fake",
            "title": "A scenario of tests",
            "users": 2,
            "think_time": {"distribution": "constant", "mean_s": 1, "reason": "a test"},
            "sla": ["p95(e2e) < 2 s"],
            "sla_reason": "a test",
            "cost_sensitivity": "low",
            "quality_need": "medium",
            "workload": {"kind": "synthetic", "input_tokens": 8, "output_tokens": 8},
            "stacks": [],
        }
    )


ROLE = {"choices": [{"delta": {"role": "assistant", "content": None}}]}
TOKEN = {"choices": [{"delta": {"content": "Hi"}}]}
END = {"choices": [{"delta": {}, "finish_reason": "length"}]}


def sse(*events: object, done: bool = True) -> bytes:
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    body += b"data: [DONE]\n\n" if done else b""
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + body


def answer(status: int, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


class Wire:
    """A server that answers each connection with the next of its answers, the last one again and again."""

    def __init__(self, answers: list[bytes], tls: ssl.SSLContext | None = None) -> None:
        self.answers = answers
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.scheme = "http" if tls is None else "https"
        wire = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                try:
                    if tls is not None:
                        self.request = tls.wrap_socket(self.request, server_side=True)
                        self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb", 0)
                    wire.requests.append(read_request(self.rfile))
                    self.wfile.write(wire.answers.pop(0) if len(wire.answers) > 1 else wire.answers[0])
                except OSError:
                    pass
                finally:
                    if tls is not None:
                        self.request.close()

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)

    def endpoint(self, **changes: Any) -> Endpoint:
        facts = {"url": f"{self.scheme}://127.0.0.1:{self.server.server_address[1]}", "model": "m"}
        return Endpoint(**{**facts, **changes})


def read_request(file: Any) -> tuple[str, dict[str, str], Any]:
    line = file.readline().decode()
    headers = {}
    while (header := file.readline().decode().strip()) != "":
        name, _, value = header.partition(": ")
        headers[name] = value
    data = file.read(int(headers.get("Content-Length", 0)))
    return line, headers, json.loads(data) if data else None


@contextmanager
def serving(*answers: bytes, tls: ssl.SSLContext | None = None) -> Iterator[Wire]:
    wire = Wire(list(answers), tls)
    thread = threading.Thread(target=wire.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield wire
    finally:
        wire.server.shutdown()
        thread.join()
        wire.server.server_close()
