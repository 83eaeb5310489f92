"""The floor: loops that receive and forget. Only the end of an answer is looked for, to send the next request."""

from __future__ import annotations

import select
import socket
import ssl
import time
from dataclasses import dataclass

from benchmarks.null import PEM

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: r\r\nContent-Length: %d\r\n\r\n%b"
STREAM, WHOLE = (REQUEST % (len(body), body) for body in (b'{"stream":true}', b'{"stream":false}'))
END = b"0\r\n\r\n"
RECORD_BYTES = 16384


@dataclass(frozen=True)
class Spent:
    events: int
    """Reads, or records of TLS; of whole answers, the answers."""
    cpu_s: float
    opened_cpu_s: float
    """Of opening all connections."""


class _Plain:
    def __init__(self, port: int, request: bytes, whole: bool) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setblocking(False)
        self._request, self._whole = request, whole

    def ask(self) -> None:
        self.sock.send(self._request)

    def read(self) -> int:
        data = self.sock.recv(65536)
        if self._whole or data.endswith(END):
            self.ask()
        return 1


class _Tls(_Plain):
    """``recv`` and an ``ssl.SSLObject`` in memory, which is all that a callback of gevent's hub may use."""

    def __init__(self, port: int, request: bytes, whole: bool, context: ssl.SSLContext) -> None:
        super().__init__(port, request, whole)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="127.0.0.1")
        self.sock.setblocking(True)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.sock.sendall(self._out.read())
                self._in.write(self.sock.recv(65536))
        self.sock.sendall(self._out.read())
        self.sock.setblocking(False)

    def ask(self) -> None:
        self._tls.write(self._request)
        self.sock.send(self._out.read())

    def read(self) -> int:
        incoming, events = self._in, 0
        incoming.write(self.sock.recv(65536))
        while incoming.pending:
            try:
                plain = self._tls.read(RECORD_BYTES)
            except ssl.SSLWantReadError:  # a session ticket, or half a record
                break
            events += 1
            if self._whole or plain.endswith(END):
                self.ask()
        return events


def bare(port: int, connections: int, seconds: float, cycle_s: float, *, tls: bool, whole: bool) -> Spent:
    """Receive for ``seconds`` on connections that begin spread over one answer's length, ``cycle_s``."""
    request = WHOLE if whole else STREAM
    began_s = time.process_time()
    context = ssl.create_default_context(cafile=PEM) if tls else None
    peers = [_Plain(port, request, whole) if context is None else _Tls(port, request, whole, context)
             for _ in range(connections)]  # fmt: skip
    opened_cpu_s = time.process_time() - began_s
    poll = select.epoll()
    readers = {peer.sock.fileno(): peer.read for peer in peers}
    for peer in peers:
        poll.register(peer.sock, select.EPOLLIN)
        peer.ask()
        time.sleep(cycle_s / connections)
    events = 0
    end_s, began_s = time.monotonic() + seconds, time.process_time()
    while time.monotonic() < end_s:
        for fd, _ in poll.poll(0.1, 4096):
            events += readers[fd]()
    return Spent(events, time.process_time() - began_s, opened_cpu_s)
