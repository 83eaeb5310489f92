"""One answer on its way to one client: writes tokens as they fall due, and breaks off where a fault says so."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import Protocol

from servers.emulator.faults import Fault
from servers.emulator.truth import TruthRecord
from servers.emulator.wire import Ask, Format

BROKEN_EVENT = b'12\r\ndata: {"broken":\n\n\r\n'
BROKEN_BODY = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"broken":'


class Owner(Protocol):
    """Whoever started the answer: counts tokens and learns of the end."""

    generated_tokens: int

    def first_token(self, answer: Answer, sent_s: float) -> None: ...

    def ended(self, answer: Answer) -> None: ...


class Answer:
    """``token`` is called once per token, by a source, with the moment it was planned for."""

    __slots__ = (
        "_break_at",
        "_format",
        "_malformed_at",
        "_owner",
        "_stalled",
        "_tail",
        "_transport",
        "ask",
        "fault",
        "keep_alive",
        "output_tokens",
        "over",
        "produced",
        "record",
        "source_state",
    )

    def __init__(
        self,
        owner: Owner,
        transport: asyncio.Transport,
        wire_format: Format,
        ask: Ask,
        output_tokens: int,
        record: TruthRecord,
        fault: Fault | None,
        keep_alive: bool,
    ) -> None:
        self._owner = owner
        self._transport = transport
        self._format = wire_format
        self._stalled = False
        self._tail = b""
        self._break_at = -1
        self._malformed_at = -1
        self.ask = ask
        self.output_tokens = output_tokens
        self.record = record
        self.fault = fault
        self.keep_alive = keep_alive
        self.produced = 0
        self.over = False
        self.source_state: object = None
        """Whatever the source needs to find this answer again."""
        record.status = 200
        if fault is not None and fault.name == "malformed":
            self._malformed_at = min(fault.after, output_tokens - 1)
        elif fault is not None:
            self._break_at = min(fault.after, output_tokens)

    @property
    def finish_reason(self) -> str:
        return "length" if self.output_tokens == self.ask.max_tokens else "stop"

    def start(self) -> None:
        """Send what precedes the first token; a stream's head leaves before any of its tokens exists.

        The tail is built here too: a batch that ends together would pay for it between its last tokens.
        """
        if self.ask.stream:
            self._transport.write(self._format.head())
            self._tail = self._format.tail(self.output_tokens, self.finish_reason)

    def token(self, planned_s: float) -> None:
        """Send the next token; the last one takes the end of the stream with it."""
        index = self.produced
        if self.over or self._stalled:
            return
        if index == self._break_at:
            self._break_off()
            return
        self.produced = index + 1
        self._owner.generated_tokens += 1
        sent_s = time.monotonic()  # before the write: a reader on another core may be quicker than our return
        self.record.planned.append(planned_s)
        if index == 0:
            self._owner.first_token(self, sent_s)
        last = index + 1 == self.output_tokens
        if self.ask.stream:
            self.record.sent.append(sent_s)
            data = BROKEN_EVENT if index == self._malformed_at else self._format.token(index)
            if last and self._break_at != index + 1:
                data += self._tail
            self._transport.write(data)
        if not last:
            return
        if self._break_at == index + 1:
            self._break_off()
            return
        if not self.ask.stream:
            whole = self._format.whole(self.output_tokens, self.finish_reason)
            self._transport.write(whole if self._malformed_at < 0 else BROKEN_BODY)
        self.end("ok" if self._malformed_at < 0 else "malformed")

    def client_gone(self) -> None:
        self.end("stalled" if self._stalled else "client_gone")

    def end(self, outcome: str) -> None:
        if self.over:
            return
        self.over = True
        self.record.outcome = outcome
        self.record.end_s = time.monotonic()
        self._owner.ended(self)

    def _break_off(self) -> None:
        assert self.fault is not None
        match self.fault.name:
            case "stall":
                self._stalled = True
            case "reset":
                reset(self._transport)
                self.end("reset")
            case "truncate":
                self._transport.close()
                self.end("truncated")


def reset(transport: asyncio.Transport) -> None:
    """Close with RST in place of FIN: a linger time of zero discards what is unsent."""
    connection: socket.socket = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
