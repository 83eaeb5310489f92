"""Framing of events on bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.sse import parse_events


def parse(body: bytes) -> list[tuple[bytes, int]]:
    events = parse_events(body)
    return list(zip(events.data, events.ends, strict=True))


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
def test_line_ends(end: bytes) -> None:
    body = b"data: a\n\ndata: b\ndata: c\n\n".replace(b"\n", end)
    assert parse(body) == [(b"a", len(b"data: a" + 2 * end)), (b"b\nc", len(body))]


def test_mixed_line_ends() -> None:
    assert parse(b"data: a\r\n\ndata: b\r\rdata: c\n\r\n") == [(b"a", 10), (b"b", 19), (b"c", 29)]


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b"", []),
        (b"\n\n\n", []),
        (b"data: a", []),
        (b"data: a\n", []),
        (b"data: a\n\ndata: b\n", [b"a"]),
        (b"data: a\n\n\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data\n\n", [b""]),
        (b"data: \n\n", [b""]),
        (b": comment\n\n", []),
        (b": comment\ndata: a\nid: 7\nretry: 5\n\n", [b"a"]),
        (b"dataset: a\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"\xef\xbb\xbfdata: a\r\n\r\n", [b"a"]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
        ("data: a\u2028b\u0085c\x0bd\x0ce\n\n".encode(), ["a\u2028b\u0085c\x0bd\x0ce".encode()]),
        (b"data: a\n\ndata: b\n: ping\n\n", [b"a", b"b"]),
        (b"data: data: a\n\n", [b"data: a"]),
    ],
)
def test_events(body: bytes, data: list[bytes]) -> None:
    assert parse_events(body).data == data


def test_names_are_kept_for_the_events_that_have_one() -> None:
    events = parse_events(b"data: a\n\nevent: error\ndata: b\n\nevent: lost\n\ndata: c\n\n")
    assert (events.data, events.names) == ([b"a", b"b", b"c"], {1: b"error"})


payloads = st.binary(min_size=1, max_size=30).filter(lambda p: b"\r" not in p and b"\n" not in p)


@given(st.lists(payloads), st.sampled_from([b"\n", b"\r", b"\r\n"]), st.booleans())
def test_what_was_written_is_read(written: list[bytes], end: bytes, pinged: bool) -> None:
    """The quick way and the general way agree, with the ends at the same events."""
    body, ends = b"", []
    for payload in written:
        body += b"data: " + payload + end + end
        ends.append(len(body))
        body += (b": ping" + end + end) * pinged
    assert parse(body) == list(zip(written, ends, strict=True))
