"""Heads and chunked framing, the malformed ones above all."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.http1 import (
    MAX_HEAD_BYTES,
    ChunkScanner,
    Http1Error,
    _walk_chunks,
    arrivals,
    chunk_size,
    dechunk,
    parse_head,
    plain_body,
    regular_chunks,
)

OK = b"HTTP/1.1 200 OK\r\n"


def test_a_head_is_none_until_it_is_whole() -> None:
    raw = OK + b"Content-Length: 3\r\n\r\n"
    for stop in range(len(raw)):
        assert parse_head(raw[:stop]) is None
    head = parse_head(raw + b"abc")
    assert head is not None
    assert (head.status, head.content_length, head.chunked, head.close, head.body_start) == (
        200, 3, False, False, len(raw),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "length", "chunked", "close"),
    [
        (b"Content-Length: 0\r\n", 0, False, False),
        (b"content-length:  12 \r\nCONNECTION: Close\r\n", 12, False, True),
        (b"Transfer-Encoding: chunked\r\n", None, True, False),
        (b"Transfer-Encoding: gzip, Chunked\r\nContent-Length: 9\r\n", None, True, False),
        (b"", None, False, True),
    ],
)
def test_how_a_body_is_framed(lines: bytes, length: int | None, chunked: bool, close: bool) -> None:
    head = parse_head(OK + lines + b"\r\n")
    assert head is not None
    assert (head.content_length, head.chunked, head.close) == (length, chunked, close)


def test_old_and_bodiless_answers() -> None:
    old = parse_head(b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n")
    kept = parse_head(b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n")
    empty = parse_head(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert old is not None
    assert kept is not None
    assert empty is not None
    assert (old.close, kept.close) == (True, False)
    assert (empty.content_length, empty.close) == (0, False)


def test_interim_answers_are_skipped() -> None:
    raw = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    assert parse_head(raw) is None
    head = parse_head(raw + OK + b"Content-Type: Text/Event-Stream; charset=utf-8\r\nRetry-After: 5\r\n\r\n")
    assert head is not None
    assert (head.status, head.content_type, head.retry_after) == (200, "text/event-stream", "5")


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 20\r\n\r\n",
        OK + b"no colon\r\n\r\n",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        OK + b"X: " + b"y" * MAX_HEAD_BYTES,
    ],
)
def test_what_is_no_head(raw: bytes) -> None:
    with pytest.raises(Http1Error):
        parse_head(raw)


@pytest.mark.parametrize(("line", "size"), [(b"0", 0), (b"1a", 26), (b"FF \r", 255), (b"5;name=value", 5)])
def test_chunk_size(line: bytes, size: int) -> None:
    assert chunk_size(line) == size


@pytest.mark.parametrize("line", [b"", b"0x1", b"-1", b"+1", b"1_0", b" 1", b"g", b";x", b"1" * 16])
def test_what_is_no_chunk_size(line: bytes) -> None:
    with pytest.raises(Http1Error):
        chunk_size(line)


def encode(chunks: list[bytes], trailers: bytes = b"") -> bytes:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return framed + b"0\r\n" + trailers + b"\r\n"


framing_lookalikes = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"0", b"1", b"a"]), min_size=1, max_size=8).map(
    b"".join
)
chunk_lists = st.lists(st.binary(min_size=1, max_size=40) | framing_lookalikes, max_size=6)


@given(chunk_lists, st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC: 0\r\n"]))
def test_dechunk_gives_the_body_and_where_it_was(chunks: list[bytes], trailers: bytes) -> None:
    raw = b"head" + encode(chunks, trailers)
    body = dechunk(raw, 4)
    assert (body.data, body.complete) == (b"".join(chunks), True)
    position = 0
    for end, shift in zip(body.ends, body.shifts, strict=True):
        assert raw[position + shift : end + shift] == body.data[position:end]
        position = end


@given(framing_lookalikes | chunk_lists.map(encode))
def test_taking_apart_in_one_go_agrees_with_walking(framed: bytes) -> None:
    parts = regular_chunks(framed)
    if parts is not None:
        assert (
            encode(parts[1])
            == b"".join(
                b"%b\r\n%b\r\n" % (b"%x" % chunk_size(line), data) for line, data in zip(*parts[:2], strict=True)
            )
            + b"0\r\n\r\n"
        )
        walked = _walk_chunks(framed, 0)
        assert (walked, True) == (dechunk(framed, 0), walked.complete)


def test_most_streams_are_regular() -> None:
    parts = regular_chunks(encode([b"data: 1\n\n", b"data: 2\n\n"]))
    assert parts == ([b"9", b"9"], [b"data: 1\n\n", b"data: 2\n\n"], [9, 9])
    assert regular_chunks(encode([b"data: 1\r\n\r\n"])) is None


@given(chunk_lists, st.sampled_from([b"", b"A: b\r\n"]), st.data())
def test_the_scanner_ends_with_the_last_byte(chunks: list[bytes], trailers: bytes, data: st.DataObject) -> None:
    raw = encode(chunks, trailers)
    cuts = data.draw(st.lists(st.integers(0, len(raw))))
    edges = [0, *sorted(cuts), len(raw)]
    scanner = ChunkScanner()
    for start, stop in itertools.pairwise(edges):
        assert scanner.feed(raw[start:stop]) == (stop == len(raw))
        assert dechunk(raw[:stop], 0).complete == scanner.done
    assert scanner.extra == 0
    scanner.feed(b"more")
    assert scanner.extra == 4


def test_a_cut_off_body_gives_what_is_there() -> None:
    raw = encode([b"hello", b"world"])
    for stop in range(len(raw)):
        body = dechunk(raw[:stop], 0)
        assert not body.complete
        assert b"helloworld".startswith(body.data)
    assert dechunk(raw[: len(raw) - 5], 0).data == b"helloworld"


@pytest.mark.parametrize("raw", [b"5\r\nhello!\r\n0\r\n\r\n", b"x\r\n"])
def test_what_is_no_chunked_body(raw: bytes) -> None:
    with pytest.raises(Http1Error):
        dechunk(raw, 0)


def test_a_size_line_that_does_not_end() -> None:
    with pytest.raises(Http1Error):
        ChunkScanner().feed(b"1" * 5000)


def test_plain_bodies() -> None:
    assert plain_body(b"headbody", 4, 4).complete
    assert not plain_body(b"headbod", 4, 4).complete
    assert not plain_body(b"headbody", 4, None).complete
    assert plain_body(b"headbodyextra", 4, 4).data == b"body"


def test_arrivals_follow_the_last_byte() -> None:
    chunks = [b"aaaa", b"bb"]
    raw = encode(chunks)
    body = dechunk(raw, 0)
    # "4\r\naa" | "aa\r\n2\r\nb" | "b\r\n0\r\n\r\n"
    parts = [raw[:5], raw[5:13], raw[13:]]
    assert arrivals(body, [1, 2, 3, 4, 5, 6], parts, [0.1, 0.2, 0.3]) == [0.1, 0.1, 0.2, 0.2, 0.2, 0.3]
    assert arrivals(body, [], parts, [0.1, 0.2, 0.3]) == []
