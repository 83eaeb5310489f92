"""One request's bytes and times, and how they become a Reply: HTTP first, then the protocol. No socket.

How an ending becomes an outcome:

==========================================  ===========================================
the connection could not be made            refused
any time-out                                timeout
ECONNRESET or EPIPE, before or after bytes  reset, unless an error status had come
orderly close before the first byte         reset
orderly close inside an answer of 200       truncated, unless the protocol saw its own end
status 429                                  rate_limited
any other status from 300 on                http_error, even when its body was cut off
not HTTP, not JSON, not the asked type      malformed
==========================================  ===========================================
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from operator import sub
from typing import Any, Protocol

import msgspec

from harness.clients.base import Reply, shorten
from harness.http1 import Body, Head, Http1Error, arrivals, dechunk, parse_head, plain_body
from harness.records import Outcome, TokenSource
from harness.sse import Events, parse_events

_LIMIT = re.compile(rb"\r\nx-ratelimit-limit-(requests|tokens):[ \t]*(\d+)[ \t]*(?=\r\n)", re.IGNORECASE)


class Ending(Enum):
    """How the wire's part of a request ended."""

    COMPLETE = "complete"
    """The answer's framing said so."""
    CLOSED = "closed"
    RESET = "reset"
    TIMED_OUT = "timed out"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    BROKEN = "broken"
    """The bytes were no HTTP."""


@dataclass(slots=True)
class Exchange:
    """Raw facts of one request on one connection; ``ending`` is None while it is in flight."""

    sent_s: float
    parts: list[bytes] = field(default_factory=list)
    times: array[float] = field(default_factory=lambda: array("d"))
    ending: Ending | None = None
    end_s: float = math.nan
    error: str = ""
    reused: bool = False
    """Sent on a connection that had served a request before."""
    connect_s: float = 0.0


class Reader(Protocol):
    """A protocol's half of reading; both fill the Reply and set its outcome if it is not ok."""

    def read_events(self, reply: Reply, events: Events, times: Sequence[float], whole: bool) -> None:
        """``whole`` says that the HTTP body was not cut off."""

    def read_body(self, reply: Reply, data: bytes) -> None:
        """Read the answer of a request without streaming."""


IF_UNFINISHED = {
    None: Outcome.IN_FLIGHT,
    Ending.TIMED_OUT: Outcome.TIMEOUT,
    Ending.REFUSED: Outcome.REFUSED,
    Ending.RESET: Outcome.RESET,
    Ending.CANCELLED: Outcome.CANCELLED,
    Ending.BROKEN: Outcome.MALFORMED,
}


def read_reply(exchange: Exchange, reader: Reader, *, stream: bool, secrets: tuple[str, ...] = ()) -> Reply:
    """Read an exchange once it is over, or as far as it is."""
    raw = b"".join(exchange.parts)
    reply = Reply(
        sent_s=exchange.sent_s,
        end_s=exchange.end_s,
        bytes=len(raw),
        connect_s=exchange.connect_s,
    )
    if raw:
        reply.first_byte_s = exchange.times[0]
    try:
        head = parse_head(raw)
        if head is not None:
            body = (
                dechunk(raw, head.body_start) if head.chunked else plain_body(raw, head.body_start, head.content_length)
            )
            _read_answer(reply, exchange, head, body, reader, stream)
        elif exchange.ending is Ending.CLOSED:
            reply.outcome = Outcome.TRUNCATED if raw else Outcome.RESET
            reply.error = "closed inside the answer's head" if raw else "closed without an answer"
    except Http1Error as error:
        reply.outcome = Outcome.MALFORMED
        reply.error = str(error)
    unfinished = IF_UNFINISHED.get(exchange.ending)
    answered = exchange.ending is Ending.RESET and reply.http_status >= 300
    if unfinished is not None and not answered:
        reply.outcome = unfinished
        reply.error = exchange.error or reply.error
    if reply.outcome is not Outcome.OK:
        reply.error = shorten(reply.error or exchange.error, secrets)
    return reply


def _read_answer(reply: Reply, exchange: Exchange, head: Head, body: Body, reader: Reader, stream: bool) -> None:
    reply.http_status = head.status
    reply.outcome = Outcome.OK
    if head.retry_after:
        reply.retry_after_s = retry_after_s(head.retry_after)
    if head.status == 101 or head.status >= 300:
        limited = head.status == 429
        reply.outcome = Outcome.RATE_LIMITED if limited else Outcome.HTTP_ERROR
        named = limits_named(b"".join(exchange.parts)[: head.body_start]) if limited else ""
        reply.error = f"HTTP {head.status}{named}: {error_text(body.data)}"
        return
    until_close = head.content_length is None and not head.chunked
    whole = body.complete or (until_close and exchange.ending is Ending.CLOSED)
    if stream and head.content_type == "text/event-stream":
        events = parse_events(body.data)
        times = arrivals(body, events.ends, exchange.parts, exchange.times)
        reader.read_events(reply, events, times, whole)
    else:
        _read_plain(reply, head, body, whole, reader, stream)


def limits_named(head: bytes) -> str:
    """The rate limits that the head of a 429 names, in brackets; empty: none."""
    said = {name.lower().decode(): value.decode("latin-1") for name, value in _LIMIT.findall(head)}
    found = [f"{said[name]} {name}/min" for name in ("requests", "tokens") if name in said]
    return f" (limit {', '.join(found)})" if found else ""


def _read_plain(reply: Reply, head: Head, body: Body, whole: bool, reader: Reader, stream: bool) -> None:
    error = find_error(body.data)
    if error:
        reply.outcome = Outcome.HTTP_ERROR
        reply.error = error
    elif stream or head.content_type != "application/json":
        wanted = "text/event-stream" if stream else "application/json"
        reply.outcome = Outcome.MALFORMED
        reply.error = f"answered {head.content_type or 'no content type'}, not {wanted}"
    elif not whole:
        reply.outcome = Outcome.TRUNCATED
        reply.error = "closed inside the body"
    else:
        reader.read_body(reply, body.data)


def fill_tokens(reply: Reply, times: list[float]) -> None:
    """Set what follows from the arrival times of the events with content."""
    reply.chunks = len(times)
    reply.token_source = TokenSource.CHUNKS
    reply.output_tokens = len(times)
    if times:
        reply.first_token_s = times[0]
        reply.last_token_s = times[-1]
        # rounding each moment, not each gap, keeps the gaps' sum exact
        moments_us = [int(moment * 1e6 + 0.5) for moment in times]
        reply.gaps_us = tuple(map(sub, moments_us[1:], moments_us))


def find_error(data: bytes) -> str:
    """Give the error text of a JSON object that is an error, else an empty text.

    Known forms: ``{"error": "text"}``, ``{"error": {"message": ...}}``, and vLLM's older
    ``{"object": "error", "message": ...}``.
    """
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    if not isinstance(value, dict):
        return ""
    if value.get("error"):
        return _describe(value["error"])
    if value.get("object") == "error":
        return _describe(value)
    return ""


def error_text(data: bytes) -> str:
    """Give the best short text for the body of an error status."""
    found = find_error(data)
    if found:
        return found
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data[:500].decode("utf-8", "replace") or "(empty body)"
    return _describe(value)


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        for key in ("message", "detail", "error", "type"):
            if value.get(key):
                return _describe(value[key])
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def retry_after_s(value: str) -> float:
    """Read a Retry-After, seconds or an HTTP date; NaN when it is neither."""
    try:
        return max(0.0, float(value)) if value[:1].isdigit() else _seconds_until(value)
    except (ValueError, TypeError):
        return math.nan


def _seconds_until(http_date: str) -> float:
    due = parsedate_to_datetime(http_date)
    if due.tzinfo is None:
        due = due.replace(tzinfo=UTC)
    return max(0.0, (due - datetime.now(UTC)).total_seconds())
