"""Every transcript, cut into reads in every way, without a socket: same bytes, same facts, right times."""

from __future__ import annotations

import itertools
import math
from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.clients import CLIENTS, Reply, Target, Timeouts
from harness.clients.exchange import Ending, Exchange
from harness.clients.streaming import StreamingClient
from harness.clients.wire import Wire
from tests.contract.transcripts import TRANSCRIPTS, Transcript, ids

CLOSING = {"keep": Ending.COMPLETE, "close": Ending.CLOSED, "reset": Ending.RESET}
KEPT = [t for t in TRANSCRIPTS if t.end == "keep" and t.raw.startswith(b"HTTP/")]


def client_for(transcript: Transcript) -> StreamingClient:
    return CLIENTS[transcript.protocol](Target(url="http://127.0.0.1:1", model="m", stream=transcript.stream))


def read(transcript: Transcript, parts: list[bytes], client: StreamingClient) -> Reply:
    """Part k was read at second k, the first being 1."""
    times = array("d", range(1, len(parts) + 1))
    return client.read(Exchange(0.5, parts, times, CLOSING[transcript.end], len(parts) + 0.5))


def check(reply: Reply, transcript: Transcript, parts: list[bytes]) -> None:
    got = {name: getattr(reply, name) for name in transcript.facts}
    assert got == transcript.facts
    assert reply.bytes == len(transcript.raw)
    assert reply.first_byte_s == 1
    ends = list(itertools.accumulate(map(len, parts)))
    arrived = [next(k for k, end in enumerate(ends, 1) if end >= offset) for offset in transcript.tokens]
    arrived = arrived[: reply.chunks]  # those after a malformed event do not count
    if arrived:
        assert (reply.first_token_s, reply.last_token_s) == (arrived[0], arrived[-1])
    else:
        assert math.isnan(reply.first_token_s)
        assert math.isnan(reply.last_token_s)
    assert reply.gaps_us == tuple(1_000_000 * (b - a) for a, b in itertools.pairwise(arrived))


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place for place in places if 0 < place < len(raw)}), len(raw)]
    return [raw[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=ids)
def test_pieces_as_sent(transcript: Transcript) -> None:
    parts = list(transcript.pieces)
    check(read(transcript, parts, client_for(transcript)), transcript, parts)


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=ids)
def test_two_reads_at_every_byte(transcript: Transcript) -> None:
    client, raw = client_for(transcript), transcript.raw
    for place in range(1, len(raw)):
        parts = [raw[:place], raw[place:]]
        check(read(transcript, parts, client), transcript, parts)


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=ids)
def test_one_byte_a_read(transcript: Transcript) -> None:
    parts = cut(transcript.raw, list(range(len(transcript.raw))))
    check(read(transcript, parts, client_for(transcript)), transcript, parts)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_reads_of_any_size(data: st.DataObject) -> None:
    transcript = data.draw(st.sampled_from(TRANSCRIPTS))
    parts = cut(transcript.raw, data.draw(st.lists(st.integers(1, len(transcript.raw)))))
    check(read(transcript, parts, client_for(transcript)), transcript, parts)


@pytest.mark.skip(reason="gRPC frames messages and hands them over whole: a cut between two reads is grpcio's affair")
def test_reads_of_grpc() -> None: ...


class StubWatcher:
    """Stands in for libev's: only the callback that the wire chose last matters."""

    callback: Any = None

    def stop(self) -> None: ...

    def close(self) -> None: ...


def ends_at(wire: Wire, parts: list[bytes]) -> int | None:
    """Let the wire's own callbacks read ``parts``; tell after which one it called the answer over."""
    exchange = wire.current = Exchange(0.0)
    waiting = list(reversed(parts))
    wire._watcher = StubWatcher()
    wire._begin(exchange, math.inf)
    wire._recv = lambda size: waiting.pop()
    try:
        for number in range(1, len(parts) + 1):
            wire._watcher.callback()
            if exchange.ending is not None:
                assert exchange.ending is Ending.COMPLETE
                assert exchange.parts == parts[:number]
                return number
        return None
    finally:
        wire.close()


@pytest.mark.parametrize("transcript", KEPT, ids=ids)
def test_the_end_is_found_at_every_cut_of_the_last_bytes(transcript: Transcript) -> None:
    """The hot path looks only at reads that may be the last; none may slip by, none may end too soon."""
    wire, raw = Wire("127.0.0.1", 1, Timeouts()), transcript.raw
    for places in itertools.chain.from_iterable(
        itertools.combinations(range(len(raw) - 9, len(raw)), count) for count in range(4)
    ):
        parts = cut(raw, list(places))
        assert ends_at(wire, parts) == len(parts)


@pytest.mark.parametrize("transcript", KEPT, ids=ids)
def test_no_end_before_the_last_byte(transcript: Transcript) -> None:
    wire, raw = Wire("127.0.0.1", 1, Timeouts()), transcript.raw
    for place in range(1, len(raw)):
        assert ends_at(wire, [raw[:place]]) is None
        assert ends_at(wire, [raw[:place], raw[place:]]) == 2
    single = cut(raw, list(range(len(raw))))
    assert ends_at(wire, single) == len(single)


@pytest.mark.parametrize("extra", [b"x", b"\r\n", b"0\r\n\r\n", b"5\r\na\n\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
@pytest.mark.parametrize("transcript", KEPT, ids=ids)
def test_bytes_after_the_end_hide_it_at_no_cut(transcript: Transcript, extra: bytes) -> None:
    """They break the protocol: the answer ends where it does, and its connection serves no other."""
    wire, raw = Wire("127.0.0.1", 1, Timeouts()), transcript.raw
    for places in itertools.chain.from_iterable(
        itertools.combinations(range(len(raw) - 6, len(raw)), count) for count in range(3)
    ):
        parts = cut(raw, list(places))
        parts[-1] += extra
        assert ends_at(wire, parts) == len(parts)
        assert wire._close_after


def test_an_unfinished_answer_is_in_flight() -> None:
    transcript = KEPT[0]
    exchange = Exchange(0.0, list(transcript.pieces[:4]), array("d", [1, 2, 3, 4]))
    reply = client_for(transcript).read(exchange)
    assert (reply.outcome, reply.chunks, reply.first_token_s) == ("in_flight", 2, 3)
