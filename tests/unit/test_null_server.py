"""The null server: what its log says against what a plain socket saw, and the log against itself."""

from __future__ import annotations

import json
import math
import signal
import socket
import ssl
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers import null_server
from servers.null_server import Truth, read_request, read_truth, write_truth

CHAT = "POST /v1/chat/completions HTTP/1.1"
GENERATE = "POST /v2/models/null/generate_stream HTTP/1.1"
WHOLE = "POST /v2/models/null/generate HTTP/1.1"
TTFT_S, GAP_S, TOKENS = 0.05, 0.01, 5
SOON_S = 1.0
"""What a busy machine may add to any moment; lower bounds are exact."""


class Server:
    def __init__(self, log: Path, *options: str) -> None:
        self.log = log
        command = [sys.executable, "-I", "-S", null_server.__file__, "--log", str(log), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline())
        assert said["ready"] is True
        self.port = said["port"]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def truth(self) -> Truth:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(10) == 0
        return read_truth(self.log)


@contextmanager
def server(
    folder: Path, ttft_s: float = TTFT_S, gap_s: float = GAP_S, tokens: int = TOKENS, options: tuple[str, ...] = ()
) -> Iterator[Server]:
    timing = ("--ttft", str(ttft_s), "--gap", str(gap_s), "--tokens", str(tokens))
    found = Server(folder / "truth", *timing, *options)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait(10)
        assert found.process.stdout is not None
        found.process.stdout.close()


def request(line: str, name: str, body: bytes = b"{}") -> bytes:
    return f"{line}\r\nHost: x\r\nX-Request-Id: {name}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def ask(peer: socket.socket, data: bytes) -> tuple[float, list[tuple[float, bytes]]]:
    """Send, and receive until the body's end; every read with its time."""
    sent_s, reads = time.monotonic(), []
    peer.sendall(data)
    while not b"".join(part for _, part in reads[-2:]).endswith(b"0\r\n\r\n"):
        part = peer.recv(65536)
        assert part
        reads.append((time.monotonic(), part))
    return sent_s, reads


@pytest.mark.parametrize("line", [CHAT, GENERATE])
def test_its_log_agrees_with_what_a_socket_sees(tmp_path: Path, line: str) -> None:
    seen = []
    with server(tmp_path) as null, null.connect() as peer:
        for number in range(3):
            seen.append(ask(peer, request(line, f"run/0/1/{number}")))
        truth = null.truth()
    assert truth.ids == ["run/0/1/0", "run/0/1/1", "run/0/1/2"]
    for place, (sent_s, reads) in enumerate(seen):
        received_s, first_s, last_s = truth.received_s[place], truth.first_s[place], truth.last_s[place]
        tokens = [moment for moment, part in reads for _ in range(part.count(b"token"))]
        assert sent_s <= received_s <= sent_s + SOON_S
        assert TTFT_S <= first_s - received_s <= TTFT_S + SOON_S
        assert TTFT_S + (TOKENS - 1) * GAP_S <= last_s - received_s <= TTFT_S + TOKENS * GAP_S + SOON_S
        assert first_s <= next(moment for moment in tokens) <= first_s + SOON_S
        assert last_s <= reads[-1][0] <= last_s + SOON_S


@pytest.mark.parametrize("line", [CHAT, GENERATE])
@pytest.mark.parametrize("tokens", [1, 2, 7])
def test_every_answer_has_its_tokens(tmp_path: Path, line: str, tokens: int) -> None:
    with server(tmp_path, ttft_s=0.001, gap_s=0.0, tokens=tokens) as null, null.connect() as peer:
        text = b"".join(part for _, part in ask(peer, request(line, "a"))[1])
    assert text.startswith(b"HTTP/1.1 200 OK\r\n")
    assert text.count(b" token") == tokens
    assert text.count(b"[DONE]") == (line == CHAT)
    assert (b'"completion_tokens":%d' % tokens in text) == (line == CHAT)


def test_a_request_in_pieces_and_a_client_that_leaves(tmp_path: Path) -> None:
    with server(tmp_path) as null:
        with null.connect() as peer:
            whole = request(CHAT, "pieces", b"x" * 100_000)
            for start in range(0, len(whole), 40_000):
                peer.sendall(whole[start : start + 40_000])
                time.sleep(0.01)
            assert peer.recv(1)
        with null.connect() as other:
            ask(other, request(CHAT, "after"))
        truth = null.truth()
    assert truth.ids == ["pieces", "after"]
    assert math.isnan(truth.last_s[0])
    assert truth.last_s[1] > 0


def test_it_lists_its_model(tmp_path: Path) -> None:
    with server(tmp_path) as null, null.connect() as peer:
        peer.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b'"id": "null"' in peer.recv(65536)


@pytest.mark.parametrize("options", [["--tokens", "0"], ["--gap", "-1"]])
def test_nonsense_is_refused(options: list[str]) -> None:
    command = [sys.executable, "-I", "-S", null_server.__file__, *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "at least 1" in done.stderr


def test_a_request_is_read_whatever_its_headers_case() -> None:
    whole = b"POST /x HTTP/1.1\r\nx-request-id:  a/b \r\ncontent-length: 2\r\n\r\n{}"
    assert read_request(whole) == ("POST /x HTTP/1.1", "a/b", True)
    assert all(read_request(whole[:end]) is None for end in range(len(whole)))
    assert read_request(b"POST / HTTP/1.1\r\n\r\n") == ("POST / HTTP/1.1", "", True)


@pytest.mark.parametrize(
    ("line", "body", "streamed"),
    [
        (CHAT, b'{"stream":true}', True),
        (CHAT, b'{"stream":false}', False),
        (CHAT, b'{"stream": false}', False),
        (GENERATE, b"{}", True),
        (WHOLE, b"{}", False),
    ],
)
def test_a_request_says_whether_it_wants_a_stream(line: str, body: bytes, streamed: bool) -> None:
    assert read_request(request(line, "a", body)) == (line, "a", streamed)


@pytest.mark.parametrize(("line", "body"), [(CHAT, b'{"stream":false}'), (WHOLE, b"{}")])
def test_a_whole_answer_comes_with_its_last_token(tmp_path: Path, line: str, body: bytes) -> None:
    with server(tmp_path) as null, null.connect() as peer:
        sent_s = time.monotonic()
        peer.sendall(request(line, "a", body))
        text = peer.recv(65536)
        came_s = time.monotonic()
        truth = null.truth()
    assert text.count(b" token") == TOKENS
    assert b"application/json" in text
    spent_s = TTFT_S + (TOKENS - 1) * GAP_S
    assert spent_s <= truth.last_s[0] - truth.received_s[0] <= spent_s + SOON_S
    assert sent_s + spent_s <= came_s
    assert truth.first_s[0] == truth.last_s[0]


def test_over_tls_it_answers_the_same_and_knows_the_same(tmp_path: Path) -> None:
    pem = Path(null_server.__file__).with_name("null_server.pem")
    context = ssl.create_default_context(cafile=pem)
    with server(tmp_path, options=("--tls", str(pem))) as null:
        with null.connect() as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as peer:
            answers = [ask(peer, request(CHAT, name, b"x" * 40_000))[1] for name in ("a", "b")]
        with null.connect() as plain:
            plain.sendall(b"no TLS\r\n\r\n")
            with suppress(ConnectionResetError):
                assert b"token" not in plain.recv(65536)
        truth = null.truth()
    assert truth.ids == ["a", "b"]
    for place, reads in enumerate(answers):
        assert b"".join(part for _, part in reads).count(b" token") == TOKENS
        assert truth.last_s[place] <= reads[-1][0] <= truth.last_s[place] + SOON_S


times = st.floats(allow_nan=True, allow_infinity=False)
names = st.text(st.characters(codec="utf-8", exclude_categories=("Zl", "Zp", "Cc", "Zs")), max_size=20)


@given(st.lists(st.tuples(names, times, times, times), max_size=20))
def test_a_log_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple]) -> None:
    path = tmp_path_factory.mktemp("truth") / "log"
    columns = [array("d", column) for column in list(zip(*rows, strict=True))[1:]] or [array("d")] * 3
    write_truth(path, Truth([row[0] for row in rows], *columns))
    found = read_truth(path)
    assert found.ids == [row[0] for row in rows]
    assert [column.tobytes() for column in found[1:]] == [column.tobytes() for column in columns]
