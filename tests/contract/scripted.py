"""A server that says exactly what a test tells it to, over TCP or TLS, one script an answer."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
from gevent.event import Event

CERTS = Path(__file__).parent / "certs"
CA = str(CERTS / "test_only_ca.pem")
OTHER_CA = str(CERTS / "test_only_other_ca.pem")

Step = bytes | Callable[[], None]
End = str
"""``keep``, ``close``, ``reset`` or ``stall``."""


@dataclass(frozen=True)
class Script:
    """What follows a request: bytes are sent, callables are called; ``stall`` says nothing more."""

    steps: Sequence[Step] = ()
    end: End = "keep"
    read_request: bool = True


@dataclass
class ScriptedServer:
    """Serves ``scripts`` in order, over as many connections as the client makes."""

    scripts: list[Script]
    tls: bool = False
    accepts: int = 0
    ready: int = 0
    """Connections whose handshake is over."""
    open: int = 0
    requests: list[bytes] = field(default_factory=list)
    asked: Event = field(default_factory=Event)
    """Set while a request has been read whose script is not over."""
    _listener: Any = None
    _greenlets: list[Any] = field(default_factory=list)
    _released: Event = field(default_factory=Event)

    def __enter__(self) -> ScriptedServer:
        self._listener = gevent.socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(16)
        self._greenlets.append(gevent.spawn(self._accept))
        return self

    def __exit__(self, *exc: object) -> None:
        self._released.set()
        gevent.killall(self._greenlets)
        self._listener.close()

    @property
    def request_ids(self) -> list[str]:
        return [request.partition(b"X-Request-Id: ")[2].partition(b"\r\n")[0].decode() for request in self.requests]

    def release(self) -> None:
        """Let every stalled script end."""
        self._released.set()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://localhost:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        context = None
        if self.tls:
            context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTS / "test_only_server.pem", CERTS / "test_only_server.key")
        while True:
            peer, _ = self._listener.accept()
            self.accepts += 1
            self._greenlets.append(gevent.spawn(self._serve, peer, context))

    def _serve(self, peer: Any, context: Any) -> None:
        self.open += 1
        try:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # the client may hang up, or refuse the certificate, at any moment
            with contextlib.suppress(OSError):
                if context is not None:
                    # two steps, because a handshake that fails inside wrap_socket loses the descriptor
                    peer = context.wrap_socket(peer, server_side=True, do_handshake_on_connect=False)
                    peer.do_handshake()
                self.ready += 1
                while self._answer(peer):
                    pass
        finally:
            self.open -= 1
            peer.close()

    def _answer(self, peer: Any) -> bool:
        script = self.scripts[0] if self.scripts else None
        if script is None or script.read_request:
            request = _read_request(peer)
            if not request:
                return False
            self.requests.append(request)
        script = self.scripts.pop(0)
        self.asked.set()
        for step in script.steps:
            if callable(step):
                step()
            else:
                peer.sendall(step)
        self.asked.clear()
        if script.end == "reset":
            # closing with nothing to linger for sends RST
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if script.end == "stall":
            self.asked.set()
            self._released.wait()
        return script.end == "keep"


def _read_request(peer: Any) -> bytes:
    data = b""
    while True:
        head, found, body = data.partition(b"\r\n\r\n")
        if found:
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            if len(body) >= length:
                return data
        piece = peer.recv(1 << 20)
        if not piece:
            return b""
        data += piece


@contextlib.contextmanager
def closing(client: Any) -> Iterator[Any]:
    try:
        yield client
    finally:
        client.close()


def until(condition: Callable[[], bool], what: str, within_s: float = 10.0) -> None:
    """Let other greenlets run until ``condition`` holds."""
    limit_s = monotonic() + within_s
    while not condition():
        assert monotonic() < limit_s, f"still not: {what}"
        gevent.sleep(0.001)
