"""What Triton says over gRPC, written out in protobuf's own bytes: responses in, facts out."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from harness.records import Outcome, TokenSource
from tests.contract.transcripts import Transcript

PROTOCOL = "triton-grpc"


def field(number: int, data: bytes) -> bytes:
    """A protobuf field of variable length; these are all shorter than 16 KiB."""
    length = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
    return bytes([number << 3 | 2]) + length + data


def tensor(name: str, datatype: str = "BYTES", contents: bytes = b"") -> bytes:
    """InferOutputTensor: name, datatype, shape [1] and, where given, typed contents."""
    return field(5, field(1, name.encode()) + field(2, datatype.encode()) + field(3, b"\x01") + contents)


def raw(data: bytes) -> bytes:
    return field(6, len(data).to_bytes(4, "little") + data)


def response(text: str | None, reason: str = "", extra: bytes = b"") -> bytes:
    """ModelStreamInferResponse with the texts in raw contents, as Triton sends them; None: no output at all."""
    answer = field(1, b"m") + field(2, b"1")
    if text is not None:
        answer += tensor("text_output") + (tensor("finish_reason") if reason else b"")
        answer += raw(text.encode()) + (raw(reason.encode()) if reason else b"")
    return field(2, answer + extra)


def typed(text: str) -> bytes:
    """The same in typed contents, beside a raw tensor of numbers that comes first."""
    contents = field(5, field(8, text.encode()))
    answer = tensor("first_token_time_ns", "INT64") + tensor("text_output", contents=contents)
    return field(2, answer + field(6, b"\x01" * 8))


def error(text: str) -> bytes:
    return field(1, text.encode())


def _transcript(
    name: str, pieces: tuple[bytes, ...], facts: dict[str, Any], *, silent: tuple[int, ...] = (), **changes: Any
) -> Transcript:
    """``silent`` are the pieces that bring no content."""
    ends = tuple(end for number, end in enumerate(accumulate(map(len, pieces))) if number not in silent)
    return Transcript(name, PROTOCOL, pieces, facts, ends, **changes)


def _all() -> Iterable[Transcript]:
    hello, world = response("Hello"), response(" world", "stop")
    good = {
        "outcome": Outcome.OK, "http_status": 200, "chunks": 2, "text": "Hello world", "finish_reason": "stop",
        "prompt_tokens": -1, "output_tokens": 2, "token_source": TokenSource.CHUNKS, "cached_tokens": -1, "error": "",
    }  # fmt: skip
    yield _transcript("deltas", (hello, world), good)
    yield _transcript(
        "all text so far in every response",
        (response("Hel", "None"), response("Hello"), response("Hello"), response("Hello world", "stop")),
        good | {"chunks": 3, "output_tokens": 3},
        silent=(2,),
    )
    yield _transcript("the same delta again", (response("ha"),) * 2, good | {"text": "haha", "finish_reason": ""})
    yield _transcript("an empty first output", (response(""), hello, world), good, silent=(0,))
    yield _transcript("an empty final response", (hello, world, response(None)), good, silent=(2,))
    yield _transcript("typed contents", (typed("Hello"), typed(" world")), good | {"finish_reason": ""})
    yield _transcript(
        "text beyond ASCII",
        (response("é\u2028"), response("\U0001f600")),
        {"outcome": Outcome.OK, "text": "é\u2028\U0001f600"},
    )
    yield _transcript(
        "an error response", (hello, error("Request cancelled"), world),
        {"outcome": Outcome.HTTP_ERROR, "error": "Request cancelled", "chunks": 1},
    )  # fmt: skip
    yield _transcript(
        "a malformed response",
        (hello, b"\xff\xff", world),
        {"outcome": Outcome.MALFORMED, "chunks": 1, "text": "Hello"},
    )
    short = field(2, tensor("text_output") + field(6, b"\x63\0\0\0Hi"))
    yield _transcript("a tensor shorter than it says", (hello, short), {"outcome": Outcome.MALFORMED, "chunks": 1})
    yield _transcript("nothing at all", (), {"outcome": Outcome.TRUNCATED, "chunks": 0})
    for code, status, outcome in [
        ("RESOURCE_EXHAUSTED", 429, Outcome.RATE_LIMITED),
        ("NOT_FOUND", 404, Outcome.HTTP_ERROR),
        ("UNAVAILABLE", 503, Outcome.HTTP_ERROR),
        ("CANCELLED", 499, Outcome.HTTP_ERROR),
        ("DEADLINE_EXCEEDED", 504, Outcome.HTTP_ERROR),
    ]:
        facts = {"outcome": outcome, "http_status": status, "error": f"gRPC {code}: Exceeds the queue"}
        yield _transcript(code, (), facts, end=f"{code}: Exceeds the queue")
    facts = {"outcome": Outcome.HTTP_ERROR, "http_status": 500, "chunks": 1, "text": "Hello"}
    yield _transcript("a status after a token", (hello,), facts, end="INTERNAL: out of memory")
    yield _transcript("cut off", (hello,), {"outcome": Outcome.TRUNCATED, "chunks": 1}, end="close")
    yield _transcript("reset", (hello,), {"outcome": Outcome.RESET, "chunks": 1}, end="reset")
    yield _transcript("closed without an answer", (), {"outcome": Outcome.RESET}, end="close")
    yield _transcript(
        "not streamed", (response("Hello world", "stop"),),
        good | {"chunks": 0, "output_tokens": -1, "token_source": TokenSource.NONE}, stream=False,
    )  # fmt: skip
    yield _transcript("not streamed, nothing", (), {"outcome": Outcome.TRUNCATED}, stream=False)


GRPC_TRANSCRIPTS: tuple[Transcript, ...] = tuple(_all())
