"""The null server: answers at known times with as little work as there can be, and logs what it truly did.

A client is certified against it (:mod:`harness.loadgen.rehearsal`): what the client measured minus what this
log says is the client's own error. Started as a plain script, ``python -I -S null_server.py --ttft S --gap S
--tokens N [--log FILE]``: one thread, one epoll, the standard library. On standard output it says
``{"ready": true, "port": P}``; on TERM it writes the log and ends. ``--tls FILE`` (certificate and key, PEM) puts TLS
before it, ``"stream": false`` gets the whole answer at the time of its last token.

Every deadline is absolute: token k of a request received at r is due at ``r + ttft + (k - 1) * gap``. As all
requests have the same intervals, deadlines leave in the order in which they were made: a queue for each interval is
a timer, and costs less than a heap or a wheel. The last token carries the end of the answer with it.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import re
import resource
import select
import signal
import socket
import ssl
import sys
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import NamedTuple

NAN = float("nan")
SENDS_PER_LOOK = 64
"""Tokens sent between two looks for requests, so that a burst of tokens does not delay when one is seen."""
BACKLOG = 8192
_RECV_BYTES = 262144
_WHOLE = re.compile(rb'"stream": ?false')


class Truth(NamedTuple):
    """What happened: one entry a request, times in ``CLOCK_MONOTONIC`` seconds, NaN where it did not."""

    ids: list[str]
    received_s: array[float]
    first_s: array[float]
    last_s: array[float]


class Script(NamedTuple):
    """The bytes of one protocol's answer."""

    opening: bytes
    """Sent when the request has come; empty: with the first token."""
    first: bytes
    token: bytes
    last: bytes
    only: bytes
    """The answer of one token, which is the first and the last."""
    whole: bytes
    """The answer to a request without streaming."""


class _Peer:
    """One connection. ``number`` is its request's place in the log, ``left`` the tokens still to send."""

    __slots__ = ("buffer", "close", "handshake", "left", "number", "open", "receive", "script", "send")

    def __init__(self, peer: socket.socket) -> None:
        self.send, self.receive, self.close = peer.send, peer.recv, peer.close
        self.handshake = peer.do_handshake if isinstance(peer, ssl.SSLSocket) else None
        self.open = True
        self.buffer = b""
        self.left = self.number = 0
        self.script: Script | None = None


class NullServer:
    """``serve`` returns after ``stop``, which may be called from a signal handler."""

    def __init__(
        self,
        ttft_s: float,
        gap_s: float,
        tokens: int,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._ttft_s, self._gap_s, self._tokens = ttft_s, gap_s, tokens
        self._chat, self._generate = chat_script(tokens), generate_script(tokens)
        self._tls = tls
        self.truth = Truth([], array("d"), array("d"), array("d"))
        self._listener = socket.create_server((host, port), backlog=BACKLOG)
        self._listener.setblocking(False)
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        # An end between two steps of the loop, never within one: the log must hold what was sent.
        self._stop = os.eventfd(0, os.EFD_NONBLOCK)
        self._poll.register(self._stop, select.EPOLLIN)
        self._peers: dict[int, _Peer] = {}
        self._firsts: deque[tuple[float, _Peer, int]] = deque()
        self._others: deque[tuple[float, _Peer, int]] = deque()
        self._wholes: deque[tuple[float, _Peer, int]] = deque()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def stop(self) -> None:
        os.eventfd_write(self._stop, 1)

    def serve(self) -> None:
        queues, poll, listener = (self._firsts, self._others, self._wholes), self._poll.poll, self._listener.fileno()
        while True:
            due_s = min([queue[0][0] for queue in queues if queue], default=1e18)
            ready = poll(min(max(0.0, due_s - monotonic()), 1.0), 4096)
            now = monotonic()
            for descriptor, _ in ready:
                if descriptor == listener:
                    self._accept()
                elif descriptor == self._stop:
                    return
                else:
                    self._receive(descriptor, now)
            self._send_due(monotonic())

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                peer, _ = self._listener.accept()
                peer.setblocking(False)
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is not None:
                    peer = self._tls.wrap_socket(peer, server_side=True, do_handshake_on_connect=False)
                self._peers[peer.fileno()] = _Peer(peer)
                self._poll.register(peer, select.EPOLLIN)

    def _receive(self, descriptor: int, now: float) -> None:
        peer = self._peers[descriptor]
        try:
            data = peer.receive(_RECV_BYTES) if self._tls is None else _read_tls(peer)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            data = b""
        if not data:
            self._drop(descriptor)
            return
        data = peer.buffer + data if peer.buffer else data
        request = read_request(data)
        if request is None:
            peer.buffer = data
            return
        peer.buffer = b""
        path, name, streamed = request
        if path.startswith("GET "):
            self._say(peer, MODELS)
            return
        truth = self.truth
        peer.script = script = self._generate if "/v2/models/" in path else self._chat
        peer.number, peer.left = len(truth.ids), self._tokens
        truth.received_s.append(now)
        truth.first_s.append(NAN)
        truth.last_s.append(NAN)
        truth.ids.append(name)
        if not streamed:
            peer.left = 1
            self._wholes.append((now + self._ttft_s + (self._tokens - 1) * self._gap_s, peer, peer.number))
            return
        if script.opening:
            self._say(peer, script.opening)
        self._firsts.append((now + self._ttft_s, peer, peer.number))

    def _say(self, peer: _Peer, data: bytes) -> None:
        with contextlib.suppress(OSError):  # it has gone, which the next read says
            peer.send(data)

    def _drop(self, descriptor: int) -> None:
        peer = self._peers.pop(descriptor)
        peer.open = False
        self._poll.unregister(descriptor)
        peer.close()

    def _send_due(self, now: float) -> None:
        """Send what is due, the oldest first: only then do the queues stay sorted."""
        firsts, others, wholes, gap_s = self._firsts, self._others, self._wholes, self._gap_s
        for _ in range(SENDS_PER_LOOK):
            if wholes and wholes[0][0] <= now:
                queue = wholes
            elif firsts and (not others or firsts[0][0] <= others[0][0]):
                queue = firsts
            elif others:
                queue = others
            else:
                return
            due_s, peer, number = queue[0]
            if due_s > now:
                return
            queue.popleft()
            if not peer.open or peer.number != number:
                continue
            try:
                if queue is others and peer.left > 1:
                    peer.send(peer.script.token)  # type: ignore[union-attr]
                else:
                    self._send_edge(peer, is_first=queue is not others, is_whole=queue is wholes)
            except OSError:  # gone, or so far behind that its buffer is full: no answer to learn from
                peer.open = False
                continue
            peer.left -= 1
            if peer.left:
                others.append((due_s + gap_s, peer, number))

    def _send_edge(self, peer: _Peer, is_first: bool, is_whole: bool) -> None:
        """Send the first token, the last, or the only one, and note when."""
        script, truth, is_last = peer.script, self.truth, peer.left == 1
        assert script is not None
        data = script.only if is_first and is_last else script.first if is_first else script.last
        data = script.whole if is_whole else data
        now = monotonic()
        peer.send(data)
        if is_first:
            truth.first_s[peer.number] = now
        if is_last:
            truth.last_s[peer.number] = now


def _read_tls(peer: _Peer) -> bytes:
    """All that has come; the end of the handshake is no data, and is waited for without one."""
    if peer.handshake is not None:
        peer.handshake()
        peer.handshake = None
    parts = [peer.receive(_RECV_BYTES)]
    with contextlib.suppress(ssl.SSLWantReadError):  # a record holds 16 KiB, and a prompt may be longer
        while parts[-1]:
            parts.append(peer.receive(_RECV_BYTES))
    return b"".join(parts)


def read_request(data: bytes) -> tuple[str, str, bool] | None:
    """Method and path, the ``X-Request-Id`` (empty without), and whether to stream; None until it is whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end].decode("latin-1")
    line, *fields = head.split("\r\n")
    name, length = "", 0
    for field in fields:
        key, _, value = field.partition(":")
        key = key.lower()
        if key == "x-request-id":
            name = value.strip()
        elif key == "content-length":
            length = int(value)
    if len(data) < end + 4 + length:
        return None
    return line, name, not (_WHOLE.search(data, end) or "/generate " in line)


def _event(payload: bytes) -> bytes:
    data = b"data: " + payload + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
MODEL = "null"
_CHAT = (
    b'{"id":"chatcmpl-8d0f8a2c1e6b4a7f9c3d5e7f1a2b3c4d","object":"chat.completion.chunk",'
    b'"created":1764000000,"model":"null","choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]}'
)
_GENERATE = b'{"model_name":"null","model_version":"1","text_output":" token"}'


def _whole(answer: Mapping[str, object]) -> bytes:
    body = json.dumps(answer).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def chat_script(tokens: int) -> Script:
    """As vLLM streams: head and role at once, a chunk a token, then finish reason, usage and ``[DONE]``."""
    token = _event(_CHAT % (b'{"content":" token"}', b"null"))
    usage = b'{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":%d}}' % tokens
    last = token + _event(_CHAT % (b"{}", b'"stop"')) + _event(usage) + _event(b"[DONE]") + END
    role = _event(_CHAT % (b'{"role":"assistant","content":""}', b"null"))
    message = {"role": "assistant", "content": " token" * tokens}
    whole = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": tokens},
    }
    return Script(HEAD + role, token, token, last, last, _whole(whole))


def generate_script(tokens: int) -> Script:
    """As Triton streams: the head comes with the first token, and nothing but the body's end marks the end."""
    token = _event(_GENERATE)
    whole = {"model_name": MODEL, "model_version": "1", "text_output": " token" * tokens}
    return Script(b"", HEAD + token, token, token + END, HEAD + token + END, _whole(whole))


MODELS = _whole({"object": "list", "data": [{"id": MODEL, "object": "model"}]})


def write_truth(path: Path, truth: Truth) -> None:
    """One JSON line with the counts, the request ids a line each, then three columns of doubles."""
    requests = len(truth.ids)
    names = "".join(f"{name}\n" for name in truth.ids).encode()
    columns = (truth.received_s, truth.first_s, truth.last_s)
    about = json.dumps({"requests": requests, "name_bytes": len(names)}).encode() + b"\n"
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(about + names + b"".join(column[:requests].tobytes() for column in columns))
    partial.replace(path)


def read_truth(path: Path) -> Truth:
    with path.open("rb") as file:
        about = json.loads(file.readline())
        names = file.read(about["name_bytes"]).decode().split("\n")[:-1]
        columns = []
        for _ in range(3):
            columns.append(array("d"))
            columns[-1].frombytes(file.read(8 * about["requests"]))
    return Truth(names, *columns)


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(say: Callable[[str], object] = sys.stdout.write) -> None:
    parser = argparse.ArgumentParser(description="A server of known timing.")
    parser.add_argument("--ttft", type=float, default=0.1, help="seconds from request to first token")
    parser.add_argument("--gap", type=float, default=0.02, help="seconds between tokens")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of every answer")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path, default=None, help="where to write what happened, at TERM")
    parser.add_argument("--any-core", action="store_true", help="leave the cores that whoever started it is bound to")
    parser.add_argument("--tls", type=Path, default=None, help="PEM file with certificate and key")
    options = parser.parse_args()
    if options.tokens < 1 or options.ttft < 0 or options.gap < 0:
        parser.error("--tokens must be at least 1, and no time below 0")
    _raise_file_limit()
    if options.any_core:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
    tls = None
    if options.tls is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.tls)
    server = NullServer(options.ttft, options.gap, options.tokens, port=options.port, tls=tls)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    gc.disable()  # nothing here is made of cycles, and a collection would be a pause
    say(json.dumps({"ready": True, "port": server.port, "model": MODEL}) + "\n")
    sys.stdout.flush()
    server.serve()
    if options.log is not None:
        write_truth(options.log, server.truth)


if __name__ == "__main__":
    main()
