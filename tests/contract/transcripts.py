"""What servers say on the wire, and what a client must make of it: bytes in, facts out.

A protocol adds its transcripts to ``TRANSCRIPTS``; the suites run all of them. Nothing here knows a
client's code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from harness.records import Outcome, TokenSource

End = str
"""What follows the last piece: ``keep``, ``close``, ``reset``; over gRPC also a status such as ``NOT_FOUND: why``."""


@dataclass(frozen=True)
class Transcript:
    """``pieces`` as the server sends them; ``tokens`` are the raw offsets just after each content event."""

    name: str
    protocol: str
    pieces: tuple[bytes, ...]
    facts: dict[str, Any]
    tokens: tuple[int, ...] = ()
    end: End = "keep"
    stream: bool = True

    @property
    def raw(self) -> bytes:
        return b"".join(self.pieces)


@dataclass(frozen=True)
class Event:
    """One SSE event as sent, and whether it brings content."""

    data: bytes
    token: bool = False


@dataclass(frozen=True)
class Answer:
    """A stream before framing."""

    name: str
    events: tuple[Event, ...]
    facts: dict[str, Any] = field(default_factory=dict)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
JSON_HEAD = b"Content-Type: application/json\r\n"


def chunked(protocol: str, answer: Answer, tail: bytes = b"0\r\n\r\n", end: End = "keep") -> Transcript:
    """One HTTP chunk an event, the usual way."""
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    pieces, tokens, length = [head], [], len(head)
    for event in answer.events:
        size_line = b"%x\r\n" % len(event.data)
        if event.token:
            tokens.append(length + len(size_line) + len(event.data))
        pieces.append(size_line + event.data + b"\r\n")
        length += len(pieces[-1])
    if tail:
        pieces.append(tail)
    name = f"{answer.name}, chunked"
    return Transcript(name, protocol, tuple(pieces), answer.facts, tuple(tokens), end)


def plain(protocol: str, answer: Answer, *, counted: bool) -> Transcript:
    """With a Content-Length, or up to the connection's end."""
    length = b"Content-Length: %d\r\n\r\n" % sum(len(event.data) for event in answer.events)
    head = HEAD + (length if counted else b"\r\n")
    tokens, position = [], len(head)
    for event in answer.events:
        position += len(event.data)
        if event.token:
            tokens.append(position)
    pieces = (head, *(event.data for event in answer.events))
    name = f"{answer.name}, {'counted' if counted else 'until close'}"
    end: End = "keep" if counted else "close"
    return Transcript(name, protocol, pieces, answer.facts, tuple(tokens), end)


def rechunked(protocol: str, answer: Answer, size: int) -> Transcript:
    """HTTP chunks that ignore the events' limits, with an extension and a trailer."""
    body = b"".join(event.data for event in answer.events)
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    pieces, raw_offsets, length = [head], [], len(head)
    for start in range(0, len(body), size):
        part = body[start : start + size]
        line = b"%X;name=value\r\n" % len(part)
        raw_offsets += range(length + len(line) + 1, length + len(line) + len(part) + 1)
        pieces.append(line + part + b"\r\n")
        length += len(pieces[-1])
    pieces.append(b"0\r\nServer-Timing: total;dur=1\r\n\r\n")
    tokens, position = [], 0
    for event in answer.events:
        position += len(event.data)
        if event.token:
            tokens.append(raw_offsets[position - 1])
    name = f"{answer.name}, chunks of {size}"
    return Transcript(name, protocol, tuple(pieces), answer.facts, tuple(tokens))


def whole(
    name: str,
    protocol: str,
    status: bytes,
    headers: bytes,
    body: bytes,
    facts: dict[str, Any],
    *,
    stream: bool = True,
    length: int | None = None,
    end: End = "keep",
) -> Transcript:
    """An answer that is no stream."""
    head = b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n" % (status, headers, length or len(body))
    return Transcript(name, protocol, (head, body), facts, (), end, stream)


def with_line_ends(answer: Answer, line_end: bytes, name: str) -> Answer:
    events = tuple(Event(event.data.replace(b"\n", line_end), event.token) for event in answer.events)
    return Answer(f"{answer.name}, {name}", events, answer.facts)


def failure(outcome: Outcome, **facts: Any) -> dict[str, Any]:
    return {"outcome": outcome, **facts}


def shared(protocol: str, answer: Answer) -> list[Transcript]:
    """What every protocol over HTTP and SSE must get right, told with one good answer of its own."""
    one_read = chunked(protocol, answer)
    error = b'{"error": "the model is  \\n out of memory"}'
    text = {"error": "HTTP 500: the model is out of memory"}
    cut = Answer(f"{answer.name} cut off", answer.events[:2], {"outcome": Outcome.TRUNCATED})
    return [
        chunked(protocol, answer),
        Transcript(f"{answer.name}, in one read", protocol, (one_read.raw,), answer.facts, one_read.tokens),
        chunked(protocol, answer, tail=b"0\r\nX-Trailer: 0\r\n\r\n"),
        rechunked(protocol, answer, 7),
        rechunked(protocol, answer, 1000),
        plain(protocol, answer, counted=True),
        plain(protocol, answer, counted=False),
        chunked(protocol, with_line_ends(answer, b"\r\n", "CRLF")),
        chunked(protocol, with_line_ends(answer, b"\r", "CR")),
        chunked(protocol, cut, tail=b"", end="close"),
        chunked(protocol, Answer("half an event", (Event(answer.events[0].data[:-5]),), cut.facts), b"", "close"),
        chunked(protocol, Answer("reset", answer.events[:2], {"outcome": Outcome.RESET}), b"", "reset"),
        whole(
            "429", protocol, b"429 Too Many Requests", b"Retry-After: 7\r\n" + JSON_HEAD, b"{}",
            failure(Outcome.RATE_LIMITED, http_status=429, retry_after_s=7.0),
        ),
        whole("500", protocol, b"500 Oops", JSON_HEAD, error, failure(Outcome.HTTP_ERROR, http_status=500, **text)),
        whole(
            "500 cut off", protocol, b"500 Oops", b"", b"half", failure(Outcome.HTTP_ERROR, http_status=500),
            length=99, end="close",
        ),
        whole(
            "500, then a reset", protocol, b"500 Oops", b"", b"half", failure(Outcome.HTTP_ERROR, http_status=500),
            length=99, end="reset",
        ),
        whole(
            "an error with status 200", protocol, b"200 OK", JSON_HEAD, error,
            failure(Outcome.HTTP_ERROR, error="the model is out of memory"),
        ),
        whole("HTML", protocol, b"200 OK", b"Content-Type: text/html\r\n", b"<html>", failure(Outcome.MALFORMED)),
        whole("no type", protocol, b"200 OK", b"", b"{}", failure(Outcome.MALFORMED)),
        Transcript("no HTTP", protocol, (b"SSH-2.0-OpenSSH_9.2\r\n",), failure(Outcome.MALFORMED)),
        Transcript("half a head", protocol, (HEAD,), failure(Outcome.TRUNCATED), end="close"),
        Transcript(
            "100 first", protocol, (b"HTTP/1.1 100 Continue\r\n\r\n", *one_read.pieces), answer.facts,
            tuple(offset + 25 for offset in one_read.tokens),
        ),
    ]  # fmt: skip


def _openai() -> Iterable[Transcript]:
    protocol = "openai-chat"

    def event(delta: str, finish: str = "null", *, token: bool = False, tail: str = "") -> Event:
        choice = f'{{"index":0,"delta":{delta},"finish_reason":{finish}}}'
        return Event(f'data: {{"id":"1","choices":[{choice}]{tail}}}\n\n'.encode(), token)

    def usage(tokens: int, extra: str = "") -> Event:
        return Event(
            b'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":%d%b}}\n\n' % (tokens, extra.encode())
        )

    role = event('{"role":"assistant","content":""}')
    hello, world = event('{"content":"Hello"}', token=True), event('{"content":" world"}', token=True)
    stop, done = event("{}", '"stop"'), Event(b"data: [DONE]\n\n")
    good = {
        "outcome": Outcome.OK, "http_status": 200, "chunks": 2, "text": "Hello world", "finish_reason": "stop",
        "prompt_tokens": 11, "output_tokens": 5, "token_source": TokenSource.USAGE, "cached_tokens": -1, "error": "",
    }  # fmt: skip
    counted = good | {"prompt_tokens": -1, "output_tokens": 2, "token_source": TokenSource.CHUNKS}
    yield from shared(protocol, Answer("plain", (role, hello, world, stop, usage(5), done), good))
    for name, events, facts in [
        ("no usage", (role, hello, world, stop, done), counted),
        ("no [DONE]", (hello, world, stop), counted),
        ("[DONE] only", (hello, world, done), counted | {"finish_reason": ""}),
        ("neither end mark", (hello, world), {"outcome": Outcome.TRUNCATED, "chunks": 2}),
        ("nothing at all", (), {"outcome": Outcome.TRUNCATED, "chunks": 0}),
        ("role only", (role, done), counted | {"chunks": 0, "text": "", "output_tokens": 0, "finish_reason": ""}),
        (
            "cached tokens",
            (hello, world, stop, usage(5, ',"prompt_tokens_details":{"cached_tokens":8}'), done),
            good | {"cached_tokens": 8},
        ),
        (
            "usage in every chunk",
            (
                event('{"content":"Hello"}', token=True, tail=',"usage":{"prompt_tokens":11,"completion_tokens":3}'),
                event('{"content":" world"}', '"stop"', token=True),
                usage(5),
                done,
            ),
            good,
        ),
        (
            "comments, names, ids, retry, several data lines",
            (
                Event(b": ping\n\n"),
                Event(b"event: message\nid: 1\nretry: 10\n" + hello.data, True),
                Event(b'data:{"choices":[{"delta":\ndata: {"content":" world"}}]}\n\n', True),
                Event(b": ping\n" + stop.data),
                Event(b"data\n\n"),
                done,
            ),
            counted,
        ),
        (
            "a BOM, more blank lines",
            (Event(b"\xef\xbb\xbf" + hello.data, True), Event(b"\n\n"), world, Event(b"\n"), stop, done),
            counted,
        ),
        (
            "U+2028 and U+0085 inside JSON",
            (event('{"content":"a\u2028b\u0085c\x7f\\n"}', token=True), stop, done),
            counted | {"chunks": 1, "output_tokens": 1, "text": "a\u2028b\u0085c\x7f\n"},
        ),
        (
            "reasoning and tool calls count, empty ones do not",
            (
                event('{"reasoning_content":"Hm","content":null}', token=True),
                event('{"reasoning":"so"}', token=True),
                event('{"content":"","reasoning_content":"","tool_calls":[]}'),
                event('{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}', token=True),
                event('{"content":"x"}', '"tool_calls"', token=True),
                done,
            ),
            counted | {"chunks": 4, "output_tokens": 4, "text": "x", "finish_reason": "tool_calls"},
        ),
        (
            "timings of llama.cpp",
            (hello, world, event("{}", '"stop"', tail=',"timings":{"predicted_n":99}'), done),
            counted,
        ),
        (
            "an error event",
            (hello, Event(b'data: {"error":{"message":"CUDA out of memory","code":500}}\n\n'), done),
            {"outcome": Outcome.HTTP_ERROR, "error": "CUDA out of memory", "chunks": 1},
        ),
        (
            "an error of old vLLM",
            (hello, Event(b'data: {"object":"error","message":"too long","code":400}\n\n'), done),
            {"outcome": Outcome.HTTP_ERROR, "error": "too long"},
        ),
        (
            "an event named error",
            (hello, Event(b"event: error\ndata: {}\n\n"), done),
            {"outcome": Outcome.HTTP_ERROR, "error": "{}"},
        ),
        (
            "a malformed event",
            (hello, Event(b'data: {"choices":[{"del\n\n'), world, done),
            {"outcome": Outcome.MALFORMED, "chunks": 1, "text": "Hello"},
        ),
        (
            "two values in one event",
            (hello, Event(b"data: {}{}\n\n"), done),
            {"outcome": Outcome.MALFORMED, "chunks": 1},
        ),
        ("invalid UTF-8", (Event(b'data: {"id":"\xff\xfe"}\n\n'), done), {"outcome": Outcome.OK}),
    ]:
        yield chunked(protocol, Answer(name, events, facts))
    yield chunked(protocol, Answer("[DONE], then cut off", (hello, world, stop, done), counted), b"", "close")
    answer = b'{"choices":[{"message":{"content":"Hello world"},"finish_reason":"stop"}],"usage":{"prompt_tokens":11,'
    answer += b'"completion_tokens":5}}'
    ok = b"200 OK"
    yield whole("not streamed", protocol, ok, JSON_HEAD, answer, good | {"chunks": 0}, stream=False)
    yield whole("no message", protocol, ok, JSON_HEAD, b"{}", failure(Outcome.MALFORMED), stream=False)
    yield whole("no JSON", protocol, ok, JSON_HEAD, b"{", failure(Outcome.MALFORMED), stream=False)
    yield whole(
        "not streamed, cut off", protocol, ok, JSON_HEAD, answer[:-9], failure(Outcome.TRUNCATED),
        stream=False, length=len(answer), end="close",
    )  # fmt: skip


def _triton() -> Iterable[Transcript]:
    protocol = "triton-generate-stream"

    def event(text: str, extra: str = "", *, token: bool = True) -> Event:
        return Event(f'data: {{"model_name":"m","model_version":"1"{extra},"text_output":{text}}}\n\n'.encode(), token)

    hello, world = event('"Hello"'), event('" world"', ',"finish_reason":"stop"')
    good = {
        "outcome": Outcome.OK, "http_status": 200, "chunks": 2, "text": "Hello world", "finish_reason": "stop",
        "prompt_tokens": -1, "output_tokens": 2, "token_source": TokenSource.CHUNKS, "cached_tokens": -1, "error": "",
    }  # fmt: skip
    yield from shared(protocol, Answer("deltas", (hello, world), good))
    for name, events, facts in [
        (
            "all text so far in every event",
            (
                event('"Hel"', ',"finish_reason":"None"'),
                event('"Hello"'),
                event('"Hello"', token=False),
                event('"Hello world"', ',"finish_reason":"stop"'),
            ),
            good | {"chunks": 3, "output_tokens": 3},
        ),
        ("the same delta again", (event('"ha"'), event('"ha"')), good | {"text": "haha", "finish_reason": ""}),
        ("no reason yet", (event('"a"', ',"finish_reason":"None"'),), {"outcome": Outcome.OK, "finish_reason": ""}),
        ("an empty first output", (event('""', token=False), hello, world), good),
        ("a list of beams", (event('["Hello"]'), event('[" world"]', ',"finish_reason":["stop"]')), good),
        (
            "an error event",
            (hello, Event(b'data: {"error":"Request cancelled"}\n\n')),
            {"outcome": Outcome.HTTP_ERROR, "error": "Request cancelled", "chunks": 1},
        ),
        ("a malformed event", (hello, Event(b"data: N/A\n\n"), world), {"outcome": Outcome.MALFORMED, "chunks": 1}),
        ("nothing at all", (), {"outcome": Outcome.TRUNCATED, "chunks": 0}),
    ]:
        yield chunked(protocol, Answer(name, events, facts))
    yield whole(
        "not streamed", protocol, b"200 OK", JSON_HEAD, b'{"model_name":"m","text_output":"Hello world"}',
        {"outcome": Outcome.OK, "text": "Hello world", "output_tokens": -1, "token_source": TokenSource.NONE},
        stream=False,
    )  # fmt: skip
    yield whole(
        "not streamed, no text", protocol, b"200 OK", JSON_HEAD, b"{}", failure(Outcome.MALFORMED), stream=False
    )


TRANSCRIPTS: tuple[Transcript, ...] = (*_openai(), *_triton())
GOOD = {"openai-chat": "plain, chunked", "triton-generate-stream": "deltas, chunked"}
"""Per protocol the transcript of an answer without any fault."""


def good(protocol: str) -> Transcript:
    return next(t for t in TRANSCRIPTS if t.protocol == protocol and t.name == GOOD[protocol])


def ids(transcript: Transcript) -> str:
    return f"{transcript.protocol}: {transcript.name}"
