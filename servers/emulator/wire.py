"""What the two wire formats share: an ask, an error, the words, and the bytes of HTTP."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

DEFAULT_TOKENS = 256
"""Output tokens of a request that does not say how many."""
CHARACTERS_PER_TOKEN = 4
"""Of English; there is no tokenizer here."""
TEMPLATE_TOKENS = 4
"""What a chat template adds to each message."""

SENTENCE = "This text is emulated : no model wrote it , only the times of its tokens mean anything ."
WORDS = tuple(SENTENCE.split())
TOKENS = (WORDS[0], *(f" {word}" for word in WORDS[1:]), f" {WORDS[0]}")
"""The text of one token each; the first has no leading space, and its spaced twin is last."""


def token_text(index: int) -> str:
    """Text of the token at ``index`` of an answer."""
    return TOKENS[0] if index == 0 else TOKENS[1 + (index - 1) % len(WORDS)]


def whole_text(tokens: int) -> str:
    return "".join(token_text(index) for index in range(tokens))


def estimate_tokens(text: str) -> int:
    """Prompt tokens of a text, from its length."""
    return max(1, round(len(text) / CHARACTERS_PER_TOKEN))


class WireError(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: int, message: str, code: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Ask:
    """What a client asked for, whatever the protocol."""

    prompt_tokens: int
    max_tokens: int
    min_tokens: int
    ignore_eos: bool
    stream: bool
    include_usage: bool
    prompt: str = ""
    """All its texts, one after another; empty where no protocol of ours needs it."""
    cached_tokens: int | None = None
    """Of the prompt's, in the prefix cache; None: there is no cache."""


class Format(Protocol):
    """The bytes of one answer. A streamed one is head, tokens, tail; a plain one is whole."""

    def head(self) -> bytes:
        """Response head, and what precedes the first token."""

    def token(self, index: int) -> bytes:
        """The event of one token."""

    def tail(self, tokens: int, finish_reason: str) -> bytes:
        """Everything after the last token's event, the end of the body included."""

    def whole(self, tokens: int, finish_reason: str) -> bytes:
        """The complete response of a request that does not stream."""


REASONS = {
    200: b"OK",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    413: b"Content Too Large",
    429: b"Too Many Requests",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
}

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"Server: emulator\r\nTransfer-Encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"


def dump(value: object) -> bytes:
    """Compact JSON, as servers write it."""
    return json.dumps(value, separators=(",", ":")).encode()


def event(data: bytes) -> bytes:
    """One server-sent event in one chunk."""
    return b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data)


def response(
    status: int, body: bytes, content_type: str = "application/json", headers: tuple[tuple[str, str], ...] = ()
) -> bytes:
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers).encode()
    return b"HTTP/1.1 %d %b\r\nServer: emulator\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n%b" % (
        status,
        REASONS.get(status, b"Error"),
        content_type.encode(),
        len(body),
        extra,
        body,
    )


def whole_number(body: dict[str, Any], names: tuple[str, ...], default: int, least: int = 1) -> int:
    """Read the first of ``names`` that is there.

    Raises
    ------
    WireError
        When it is no whole number of at least ``least``.
    """
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise WireError(400, f"{name} must be a whole number of at least {least}, got {value!r}")
        return value
    return default
