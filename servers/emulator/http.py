"""HTTP/1.1 over asyncio transports: requests in, raw bytes out, keep-alive."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

import httptools

from servers.emulator.answer import Answer
from servers.emulator.wire import dump, response

MAX_BODY_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    received_s: float
    """When its last byte had arrived."""
    keep_alive: bool


class Handler(Protocol):
    def connected(self, connection: Connection) -> None: ...

    def disconnected(self, connection: Connection) -> None: ...

    def handle(self, request: Request, connection: Connection) -> None:
        """Answer now with ``connection.respond``, or over time with ``connection.stream``."""


class Connection(asyncio.Protocol):
    """One client. Requests that arrive while one is being answered wait their turn."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._parser = httptools.HttpRequestParser(self)
        self._pending: deque[Request] = deque()
        self._answer: Answer | None = None
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._handler.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._handler.disconnected(self)
        del self._parser  # it holds our methods: a circle that only a full collection would find
        self._pending.clear()
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.client_gone()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, "no protocol to upgrade to")
        except httptools.HttpParserError as error:
            self._refuse(400, f"not HTTP/1.1: {error}")

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = {}
        self._body.clear()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._headers.get("expect", "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if len(self._body) + len(body) > MAX_BODY_BYTES:
            self._refuse(413, f"a body is at most {MAX_BODY_BYTES} bytes")
            return
        self._body += body

    def on_message_complete(self) -> None:
        request = Request(
            method=self._parser.get_method().decode("latin-1"),
            path=unquote(self._url.partition(b"?")[0].decode("latin-1")),
            headers=self._headers,
            body=bytes(self._body),
            received_s=time.monotonic(),
            keep_alive=self._parser.should_keep_alive(),
        )
        if self._answer is None and not self._pending:
            self._handler.handle(request, self)
        else:
            self._pending.append(request)

    def respond(self, data: bytes, *, keep_alive: bool) -> None:
        """Send a complete response."""
        self.transport.write(data)
        if not keep_alive:
            self.transport.close()

    def stream(self, answer: Answer) -> None:
        """Own the connection by an answer until :meth:`done`."""
        self._answer = answer

    def done(self, *, keep_alive: bool) -> None:
        """The answer is over; go on with what waits."""
        self._answer = None
        if not keep_alive:
            self.transport.close()
        while self._pending and self._answer is None and not self.transport.is_closing():
            self._handler.handle(self._pending.popleft(), self)

    def _refuse(self, status: int, message: str) -> None:
        if not self.transport.is_closing():
            self.respond(response(status, dump({"error": {"message": message, "code": status}})), keep_alive=False)
