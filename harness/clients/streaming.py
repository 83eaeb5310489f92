"""One user's client over HTTP: what all HTTP protocols share around a Wire."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from random import Random
from time import monotonic
from typing import Any

import msgspec

from harness.clients.base import Reply, RetryPolicy, Target
from harness.clients.dial import ConnectError
from harness.clients.exchange import Ending, Exchange, read_reply
from harness.clients.tls import TlsWire
from harness.clients.user import OneUser
from harness.clients.wire import Wire
from harness.records import Prompt
from harness.sse import Events


class StreamingClient(OneUser[bytes]):
    """Sends over a Wire; a protocol adds its path, its body and its two readers."""

    def __init__(self, target: Target, retry: RetryPolicy | None = None, rng: Random | None = None) -> None:
        super().__init__(target, retry, rng)
        self._head = _head_template(target, self.path())
        if target.tls:
            self._wire: Wire = TlsWire(target.host, target.port, target.timeouts, target.ca_file, target.verify)
        else:
            self._wire = Wire(target.host, target.port, target.timeouts)

    # what a protocol adds

    @abstractmethod
    def path(self) -> str: ...

    @abstractmethod
    def body(self, prompt: Prompt) -> dict[str, Any]: ...

    @abstractmethod
    def read_events(self, reply: Reply, events: Events, times: Sequence[float], whole: bool) -> None: ...

    @abstractmethod
    def read_body(self, reply: Reply, data: bytes) -> None: ...

    # what every user of it calls

    def open(self) -> None:
        if not self._wire.connected:
            try:
                self._wire.connect(monotonic() + self.target.timeouts.connect_s)
            except ConnectError:
                return

    def close(self) -> None:
        self._wire.cancel()

    # pure steps, which tests drive without a socket

    def encode(self, prompt: Prompt, request_id: str) -> bytes:
        """Build the request: the same headers in the same order every time."""
        body = msgspec.json.encode(self.body(prompt))
        head = self._head % (_header_value(request_id).encode("latin-1"), len(body))
        return head + body

    def read(self, exchange: Exchange) -> Reply:
        return read_reply(exchange, self, stream=self.target.stream, secrets=self._secrets)

    # steps of send

    def _attempt(self, request: bytes, deadline_s: float) -> Exchange:
        exchange = self._wire.exchange(request, deadline_s)
        closed = exchange.ending in (Ending.RESET, Ending.CLOSED)
        if exchange.reused and closed and not exchange.parts and monotonic() < deadline_s:
            # the server closed the idle connection while the request was on its way (RFC 9112, 9.3.1)
            return self._wire.exchange(request, deadline_s)
        return exchange

    def _current(self) -> Exchange | None:
        return self._wire.current


def _header_value(text: str) -> str:
    return "".join(c if " " <= c <= "\xff" and c != "\x7f" else "?" for c in text)


def _head_template(target: Target, path: str) -> bytes:
    """Everything before the body, with two places: the request's id and the body's length."""
    default_port = 443 if target.tls else 80
    name = f"[{target.host}]" if ":" in target.host else target.host
    host = name if target.port == default_port else f"{name}:{target.port}"
    headers = {
        "Host": host,
        "User-Agent": "llm-sla-harness",
        "Accept": "text/event-stream" if target.stream else "application/json",
        "Content-Type": "application/json",
    }
    if target.api_key is not None and target.api_key.get_secret_value():
        headers["Authorization"] = f"Bearer {target.api_key.get_secret_value()}"
    own = {name.lower() for name in target.headers}
    lines = [f"{name}: {value}" for name, value in headers.items() if name.lower() not in own]
    lines += [f"{name}: {value}" for name, value in target.headers.items()]
    text = "\r\n".join([f"POST {path} HTTP/1.1", *lines]).encode("latin-1", "replace")
    text = text.replace(b"%", b"%%")
    return text + b"\r\nX-Request-Id: %b\r\nContent-Length: %d\r\n\r\n"
