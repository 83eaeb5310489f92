"""A TCP proxy that notes when bytes pass: a second clock beside the load generator's, which knows nothing of it.

One thread a connection; it parses nothing while bytes pass, and its times are read afterwards.
"""

from __future__ import annotations

import re
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

CONTENT = re.compile(rb'"content":"[^"]')


@dataclass
class Passed:
    """One request: when its first byte came, when its first token and its last byte went."""

    began_s: float
    first_token_s: float = 0.0
    end_s: float = 0.0
    head: bytes = b""


@dataclass
class TimingProxy:
    port: int
    upstream: int
    passed: list[Passed] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.upstream)) as server:
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            current: Passed | None = None
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    now = time.monotonic()
                    if not data:
                        return
                    if source is client:
                        if current is None or current.end_s:
                            current = Passed(now)
                            self.passed.append(current)
                        server.sendall(data)
                    else:
                        assert current is not None
                        current.end_s = now
                        if not current.first_token_s and CONTENT.search(data):
                            current.first_token_s = now
                        client.sendall(data)


@contextmanager
def timing_proxy(upstream: int) -> Iterator[TimingProxy]:
    """A proxy in front of a port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = TimingProxy(listener.getsockname()[1], upstream)

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:  # closed: the test is over
                    return
                threading.Thread(target=proxy.carry, args=(client,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield proxy
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
