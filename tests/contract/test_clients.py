"""One suite for every protocol, over TCP and over TLS: real sockets, a server that follows a script.

A protocol supplies its transcripts. Tests that are about HTTP's bytes say so with ``http_only``.
"""

from __future__ import annotations

import math
import os
import select
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent.hub import get_hub

from harness.clients import CLIENTS, Target, Timeouts
from harness.clients.base import RetryPolicy
from harness.clients.streaming import StreamingClient
from harness.records import Message, Outcome, Prompt
from tests.contract.grpc_transcripts import GRPC_TRANSCRIPTS
from tests.contract.grpc_transcripts import PROTOCOL as GRPC
from tests.contract.scripted import CA, Script, ScriptedServer, closing, until
from tests.contract.transcripts import TRANSCRIPTS, Transcript, good, ids

PROMPT = Prompt("p1", (Message("system", "Translate."), Message("user", "Guten Tag")), output_tokens=7)


@pytest.fixture(params=[False, True], ids=["tcp", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=sorted(CLIENTS))
def transcript(request: pytest.FixtureRequest) -> Transcript:
    """A protocol's answer without any fault."""
    marker = request.node.get_closest_marker("http_only")
    if marker is not None and request.param == GRPC:
        pytest.skip(marker.args[0])
    return GRPC_TRANSCRIPTS[0] if request.param == GRPC else good(request.param)


def serve(answer: Transcript, scripts: list[Script], tls: bool = False) -> Any:
    """A protocol's server; gRPC's works only in the process where its tests run."""
    if answer.protocol != GRPC:
        return ScriptedServer(scripts, tls)
    from tests.contract.grpc_server import GrpcServer

    return GrpcServer(scripts, tls)


def client_of(server: Any, protocol: str, retry: RetryPolicy | None = None, **target: Any) -> Any:
    settings = {"model": "m", "ca_file": CA, "timeouts": Timeouts(total_s=20), **target}
    return CLIENTS[protocol](Target(url=server.url, protocol=protocol, **settings), retry)


def seen(client: StreamingClient, count: int) -> Callable[[], None]:
    """Make a server wait until the client has read so many bytes: each piece is a read of its own."""

    def wait() -> None:
        def arrived() -> bool:
            partial = client.partial()
            return partial is not None and partial.bytes >= count

        until(arrived, f"{count} bytes at the client")

    return wait


def test_every_transcript_has_a_protocol() -> None:
    assert {t.protocol for t in (*TRANSCRIPTS, *GRPC_TRANSCRIPTS)} == set(CLIENTS)


@pytest.mark.parametrize("case", [*TRANSCRIPTS, *GRPC_TRANSCRIPTS], ids=ids)
def test_transcript(case: Transcript, tls: bool) -> None:
    with (
        serve(case, [Script(case.pieces, case.end)], tls) as server,
        closing(client_of(server, case.protocol, stream=case.stream)) as client,
    ):
        reply = client.send(PROMPT, "run/0/0/0")
    expected = dict(case.facts)
    assert {name: getattr(reply, name) for name in expected} == expected
    assert reply.sent_s < reply.end_s
    assert not reply.bytes or reply.sent_s < reply.first_byte_s <= reply.end_s
    if case.facts["outcome"] is Outcome.OK:
        assert client.interrupted is None


def test_each_read_has_its_own_time(transcript: Transcript, tls: bool) -> None:
    """A head long before the first token is the first byte, and no token."""
    moments: list[float] = []
    with serve(transcript, [], tls) as server, closing(client_of(server, transcript.protocol)) as client:
        steps: list[Any] = []
        sent = 0
        for piece in transcript.pieces:
            sent += len(piece)
            steps += [lambda: moments.append(monotonic()), piece, seen(client, sent)]
        server.scripts.append(Script(steps[:-1]))  # after the last byte there is no request to look at
        reply = client.send(PROMPT, "run/0/0/0")
    ends = [sum(map(len, transcript.pieces[: k + 1])) for k in range(len(transcript.pieces))]
    first, last = (next(k for k, end in enumerate(ends) if end >= transcript.tokens[which]) for which in (0, -1))
    assert moments[0] <= reply.first_byte_s <= moments[1]
    assert moments[first] <= reply.first_token_s <= moments[first + 1]
    assert moments[last] <= reply.last_token_s <= reply.end_s
    assert sum(reply.gaps_us) == pytest.approx(1e6 * (reply.last_token_s - reply.first_token_s), abs=2)


def test_a_connection_serves_many_requests(transcript: Transcript, tls: bool) -> None:
    script = Script(transcript.pieces)
    with (
        serve(transcript, [script] * 3, tls) as server,
        closing(client_of(server, transcript.protocol)) as client,
    ):
        client.open()
        replies = [client.send(PROMPT, f"run/0/0/{k}") for k in range(3)]
        assert server.accepts == 1
    assert [r.outcome for r in replies] == [Outcome.OK] * 3
    assert [r.connect_s for r in replies] == [0.0] * 3
    assert server.request_ids == [f"run/0/0/{k}" for k in range(3)]


@pytest.mark.http_only("grpcio keeps its connections itself: see test_grpc.py")
def test_a_server_that_closes_an_idle_connection_costs_nothing(transcript: Transcript, tls: bool) -> None:
    script = Script(transcript.pieces, "close")
    with (
        serve(transcript, [script] * 2, tls) as server,
        closing(client_of(server, transcript.protocol)) as client,
    ):
        for count in (1, 2):
            assert client.send(PROMPT, "run/0/0/0").outcome is Outcome.OK
            until(lambda: not client._wire.connected, "the client noticed the close")
            assert server.accepts == count


@pytest.mark.http_only("grpcio keeps its connections itself: see test_grpc.py")
def test_an_idle_connection_stays_open(transcript: Transcript, tls: bool) -> None:
    """TLS sends session tickets when nothing was asked: they are no reason to close."""
    with (
        serve(transcript, [Script(transcript.pieces)], tls) as server,
        closing(client_of(server, transcript.protocol)) as client,
    ):
        client.open()
        until(lambda: server.ready == 1, "the handshake is over")
        until(lambda: not select.select([client._wire._sock], [], [], 0)[0], "what the server sent has been read")
        assert client._wire.connected
        assert client.send(PROMPT, "run/0/0/0").outcome is Outcome.OK
        assert server.accepts == 1


@pytest.mark.http_only("a header of HTTP; gRPC says GOAWAY, which grpcio follows itself")
def test_a_server_may_ask_to_close(transcript: Transcript, tls: bool) -> None:
    """It said so, and keeps the connection open all the same: the client must not use it again."""
    refusal = b"HTTP/1.1 500 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    scripts = [Script([refusal]), Script(transcript.pieces)]
    with serve(transcript, scripts, tls) as server, closing(client_of(server, transcript.protocol)) as client:
        assert client.send(PROMPT, "run/0/0/0").outcome is Outcome.HTTP_ERROR
        assert not client._wire.connected
        assert client.send(PROMPT, "run/0/0/1").outcome is Outcome.OK
        assert server.accepts == 2


@pytest.mark.http_only("bytes between two answers exist only in HTTP/1.1")
def test_bytes_after_the_end_close_the_connection(transcript: Transcript, tls: bool) -> None:
    scripts = [Script((*transcript.pieces[:-1], transcript.pieces[-1] + b"junk")), Script(transcript.pieces)]
    with serve(transcript, scripts, tls) as server, closing(client_of(server, transcript.protocol)) as client:
        reply = client.send(PROMPT, "run/0/0/0")
        assert (reply.outcome, reply.end_s - reply.sent_s < 5) == (Outcome.OK, True)
        assert not client._wire.connected
        assert client.send(PROMPT, "run/0/0/1").outcome is Outcome.OK
        assert server.accepts == 2


def test_an_answer_that_began_is_not_asked_for_again(transcript: Transcript, tls: bool) -> None:
    scripts = [Script(transcript.pieces), Script(transcript.pieces[:2], "close"), Script(transcript.pieces)]
    with serve(transcript, scripts, tls) as server, closing(client_of(server, transcript.protocol)) as client:
        assert client.send(PROMPT, "run/0/0/0").outcome is Outcome.OK
        assert client.send(PROMPT, "run/0/0/1").outcome is Outcome.TRUNCATED
        assert (server.accepts, len(server.requests)) == (1, 2)


@pytest.mark.http_only("grpcio keeps its connections itself: see test_grpc.py")
@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_stale_connection_is_replaced_once(transcript: Transcript, tls: bool, end: Any) -> None:
    scripts = [Script(transcript.pieces), Script((), end), Script(transcript.pieces)]
    with serve(transcript, scripts, tls) as server, closing(client_of(server, transcript.protocol)) as client:
        assert client.send(PROMPT, "run/0/0/0").outcome is Outcome.OK
        reply = client.send(PROMPT, "run/0/0/1")
        assert (server.accepts, len(server.requests)) == (2, 3)
    assert (reply.outcome, reply.retries) == (Outcome.OK, 0)
    assert reply.connect_s > 0


def test_a_fresh_connection_is_not_replaced(transcript: Transcript, tls: bool) -> None:
    scripts = [Script((), "close"), Script(transcript.pieces)]
    with serve(transcript, scripts, tls) as server, closing(client_of(server, transcript.protocol)) as client:
        reply = client.send(PROMPT, "run/0/0/0")
        assert server.accepts == 1
    assert reply.outcome is Outcome.RESET
    assert math.isnan(reply.first_byte_s)


@pytest.mark.parametrize("limit", ["total_s", "idle_s", "first_byte_s"])
def test_time_out(transcript: Transcript, tls: bool, limit: str) -> None:
    steps = () if limit == "first_byte_s" else transcript.pieces[:3]
    timeouts = Timeouts(**{"total_s": 20.0, limit: 0.15})
    scripts = [Script(steps, "stall"), Script(transcript.pieces)]
    with (
        serve(transcript, scripts, tls) as server,
        closing(client_of(server, transcript.protocol, timeouts=timeouts)) as client,
    ):
        reply = client.send(PROMPT, "run/0/0/0")
        assert reply.outcome is Outcome.TIMEOUT
        assert reply.error
        assert 0.14 < reply.end_s - reply.sent_s < 5
        assert math.isnan(reply.first_token_s) == (limit == "first_byte_s")
        assert client.send(PROMPT, "run/0/0/1").outcome is Outcome.OK
        # the stalled answer may still come: its connection is of no use, unless calls share it
        assert server.accepts == (1 if transcript.protocol == GRPC else 2)


def watchers() -> int:
    hub = get_hub()
    gevent.sleep(0)
    return int(hub.loop.activecnt)


@pytest.mark.parametrize("pieces", [0, 3], ids=["before the answer", "inside the stream"])
def test_a_kill_leaves_the_facts(transcript: Transcript, tls: bool, pieces: int) -> None:
    with serve(transcript, [Script(transcript.pieces[:pieces], "stall")], tls) as server:
        client = client_of(server, transcript.protocol)
        user = gevent.spawn(client.send, PROMPT, "run/0/0/0")
        sent = sum(map(len, transcript.pieces[:pieces]))
        until(server.asked.is_set, "the request at the server")
        seen(client, sent)()
        assert client.in_flight_since is not None
        assert client.partial().outcome is Outcome.IN_FLIGHT
        user.kill()
        assert isinstance(user.value, gevent.GreenletExit)
        reply = client.interrupted
        assert (reply.outcome, reply.bytes) == (Outcome.CANCELLED, sent)
        assert reply.sent_s < reply.end_s
        assert client.in_flight_since is None
        assert client.partial() is None
        client.close()


@pytest.mark.http_only("the channels belong to all users: see test_grpc.py")
@pytest.mark.parametrize("pieces", [0, 3], ids=["before the answer", "inside the stream"])
def test_a_kill_leaves_nothing_else(transcript: Transcript, tls: bool, pieces: int) -> None:
    with ScriptedServer([Script(transcript.pieces[:pieces], "stall")], tls) as server:
        client = client_of(server, transcript.protocol)
        gevent.sleep(0)
        descriptors, active = len(os.listdir("/proc/self/fd")), watchers()  # noqa: PTH208
        user = gevent.spawn(client.send, PROMPT, "run/0/0/0")
        until(server.asked.is_set, "the request at the server")
        seen(client, sum(map(len, transcript.pieces[:pieces])))()
        user.kill()
        assert not client._wire.connected
        server.release()
        until(lambda: server.open == 0, "the server's side closed")
        assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208
        assert watchers() == active


@pytest.mark.http_only("grpcio keeps its connections itself: see test_grpc.py")
def test_a_clean_client_leaves_nothing(transcript: Transcript, tls: bool) -> None:
    with serve(transcript, [Script(transcript.pieces)], tls) as server:
        client = client_of(server, transcript.protocol)
        gevent.sleep(0)
        descriptors, active = len(os.listdir("/proc/self/fd")), watchers()  # noqa: PTH208
        assert client.send(PROMPT, "run/0/0/0").outcome is Outcome.OK
        client.close()
        until(lambda: server.open == 0, "the server's side closed")
        assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208
        assert watchers() == active


def test_close_from_outside_ends_the_request(transcript: Transcript, tls: bool) -> None:
    with serve(transcript, [Script(transcript.pieces[:3], "stall")], tls) as server:
        client = client_of(server, transcript.protocol)
        user = gevent.spawn(client.send, PROMPT, "run/0/0/0")
        until(server.asked.is_set, "the request at the server")
        seen(client, sum(map(len, transcript.pieces[:3])))()
        client.close()
        assert user.get(timeout=10).outcome is Outcome.CANCELLED
        assert transcript.protocol == GRPC or not client._wire.connected


def test_a_callers_time_out_passes_through(transcript: Transcript, tls: bool) -> None:
    with (
        serve(transcript, [Script((), "stall")], tls) as server,
        closing(client_of(server, transcript.protocol)) as client,
    ):
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.1):
            client.send(PROMPT, "run/0/0/0")
        assert client.interrupted.outcome is Outcome.CANCELLED


@pytest.mark.http_only("it breaks the wire's own callback; gRPC has none of ours")
def test_an_exception_in_the_callback_reaches_the_user(transcript: Transcript, tls: bool) -> None:
    def broken(_size: int) -> bytes:
        raise ZeroDivisionError

    def breaks() -> None:
        client._wire._recv = broken

    script = Script((transcript.pieces[0], lambda: seen(client, len(transcript.pieces[0]))(), breaks, b"x"), "stall")
    with serve(transcript, [script], tls) as server:
        client = client_of(server, transcript.protocol)
        with pytest.raises(ZeroDivisionError), gevent.Timeout(10):
            client.send(PROMPT, "run/0/0/0")
        assert not client._wire.connected


@pytest.mark.http_only("a refusal written in HTTP; gRPC's is in test_grpc.py")
def test_retries_count_in_the_users_time(transcript: Transcript, tls: bool) -> None:
    busy = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0.2\r\nContent-Length: 0\r\n\r\n"
    scripts = [Script([busy]), Script([busy]), Script(transcript.pieces)]
    retry = RetryPolicy(max_retries=2, base_s=0.001)
    with (
        serve(transcript, scripts, tls) as server,
        closing(client_of(server, transcript.protocol, retry)) as client,
    ):
        reply = client.send(PROMPT, "run/0/0/0")
        assert len(server.requests) == 3
        assert server.requests[0] == server.requests[2]
    assert (reply.outcome, reply.retries) == (Outcome.OK, 2)
    assert 0.4 <= reply.retry_s < reply.first_byte_s - reply.sent_s


@pytest.mark.http_only("a refusal written in HTTP; gRPC's is in test_grpc.py")
def test_no_retry_unless_asked_for(transcript: Transcript) -> None:
    busy = Script([b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"])
    with serve(transcript, [busy] * 2) as server, closing(client_of(server, transcript.protocol)) as client:
        reply = client.send(PROMPT, "run/0/0/0")
        assert len(server.requests) == 1
    assert (reply.outcome, reply.retries, reply.retry_after_s) == (Outcome.HTTP_ERROR, 0, 1.0)


@pytest.mark.http_only("a refusal written in HTTP; gRPC's is in test_grpc.py")
def test_a_kill_between_two_tries_keeps_the_first(transcript: Transcript) -> None:
    busy = Script([b"HTTP/1.1 503 Busy\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n"])
    retry, patient = RetryPolicy(max_retries=1), Timeouts(total_s=300)
    with (
        serve(transcript, [busy]) as server,
        closing(client_of(server, transcript.protocol, retry, timeouts=patient)) as client,
    ):
        user = gevent.spawn(client.send, PROMPT, "run/0/0/0")
        until(lambda: client._wire.current is not None and client._wire.current.ending is not None, "the first answer")
        user.kill()
        assert (client.interrupted.outcome, client.interrupted.http_status) == (Outcome.CANCELLED, 503)


@pytest.mark.parametrize("protocol", sorted(CLIENTS))
def test_refused(protocol: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with closing(CLIENTS[protocol](Target(url=f"http://127.0.0.1:{port}", model="m"))) as client:
        client.open()
        reply = client.send(PROMPT, "run/0/0/0")
    assert reply.outcome is Outcome.REFUSED
    assert reply.error == f"cannot connect to 127.0.0.1:{port}: Connection refused"
    assert reply.sent_s <= reply.end_s


def test_a_long_request_and_a_slow_reader(transcript: Transcript, tls: bool) -> None:
    prompt = Prompt("long", (Message("user", "é" * 3_000_000),), 1)
    with (
        serve(transcript, [Script(transcript.pieces)] * 2, tls) as server,
        closing(client_of(server, transcript.protocol)) as client,
    ):
        assert client.send(prompt, "run/0/0/0").outcome is Outcome.OK
        assert len(server.requests[0]) > 6_000_000
        assert client.send(PROMPT, "run/0/0/1").outcome is Outcome.OK
        assert server.accepts == 1


@pytest.mark.http_only("a refusal written in HTTP, before the request was read")
def test_an_answer_before_the_request_is_out(transcript: Transcript, tls: bool) -> None:
    prompt = Prompt("long", (Message("user", "x" * 30_000_000),), 1)
    large = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"
    scripts = [Script([large], "stall", read_request=False), Script(transcript.pieces)]
    with serve(transcript, scripts, tls) as server, closing(client_of(server, transcript.protocol)) as client:
        reply = client.send(prompt, "run/0/0/0")
        assert (reply.outcome, reply.http_status) == (Outcome.HTTP_ERROR, 413)
        assert client.send(PROMPT, "run/0/0/1").outcome is Outcome.OK
        assert server.accepts == 2
