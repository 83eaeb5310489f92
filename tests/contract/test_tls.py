"""Trust: whose certificate is accepted, and what a user reads when it is not."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest

from harness.clients import CLIENTS, Target, Timeouts
from harness.clients.tls import tls_context
from harness.errors import UsageError
from harness.records import Message, Outcome, Prompt
from tests.contract.scripted import CA, OTHER_CA, Script, ScriptedServer, closing, until
from tests.contract.transcripts import good

PROMPT = Prompt("p1", (Message("user", "Guten Tag"),), output_tokens=7)
ANSWER = good("openai-chat")


def send(url: str, **target: Any) -> Any:
    with closing(CLIENTS["openai-chat"](Target(url=url, model="m", **target))) as client:
        return client.send(PROMPT, "run/0/0/0")


@pytest.mark.parametrize("ca_file", [None, OTHER_CA], ids=["the system's CAs", "another CA"])
def test_an_unknown_ca_is_refused(ca_file: str | None) -> None:
    with ScriptedServer([Script(ANSWER.pieces)], tls=True) as server:
        reply = send(server.url, ca_file=ca_file)
        assert not server.requests
    assert reply.outcome is Outcome.REFUSED
    assert reply.error.startswith("the certificate of localhost is not trusted: ")


def test_a_name_that_the_certificate_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer([Script(ANSWER.pieces)], tls=True) as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address)]
        monkeypatch.setattr("gevent.socket.getaddrinfo", lambda *_: found)
        reply = send(server.url.replace("localhost", "other.test"), ca_file=CA)
        assert not server.requests
    assert reply.outcome is Outcome.REFUSED
    assert "Hostname mismatch" in reply.error


def test_an_address_of_the_certificate_is_accepted() -> None:
    with ScriptedServer([Script(ANSWER.pieces)], tls=True) as server:
        assert send(server.url.replace("localhost", "127.0.0.1"), ca_file=CA).outcome is Outcome.OK


def test_verification_can_be_switched_off() -> None:
    with ScriptedServer([Script(ANSWER.pieces)], tls=True) as server:
        assert send(server.url, verify=False).outcome is Outcome.OK


def test_a_server_without_tls_is_refused() -> None:
    with ScriptedServer([Script([b"HTTP/1.1 400 Bad\r\n\r\n"], "close", read_request=False)]) as server:
        reply = send(server.url.replace("http:", "https:"), ca_file=CA)
    assert reply.outcome is Outcome.REFUSED
    assert reply.error.startswith("no TLS with localhost:")


def test_a_silent_handshake_times_out() -> None:
    with gevent.socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        reply = send(url, ca_file=CA, timeouts=Timeouts(connect_s=0.1))
    assert reply.outcome is Outcome.TIMEOUT
    assert reply.error == "no connection in 0.1 s"


def test_a_user_that_comes_back_resumes_its_own_session_only() -> None:
    with ScriptedServer([Script(ANSWER.pieces, "close")] * 2 + [Script(ANSWER.pieces)], tls=True) as server:
        for _ in range(2):
            with closing(CLIENTS["openai-chat"](Target(url=server.url, model="m", ca_file=CA))) as client:
                resumed = []
                while server.scripts and len(resumed) < 2:
                    client.open()
                    resumed.append(client._wire._tls.session_reused)
                    assert client.send(PROMPT, "run/0/0/0").outcome is Outcome.OK
                    until(lambda: not (server.scripts and client._wire.connected), "the client noticed the close")
                assert resumed[0] is False
                assert resumed[1:] in ([True], [])


@pytest.mark.parametrize("size", [1, 5, 100, 1 << 20], ids=["byte by byte", "in fives", "in hundreds", "in one read"])
def test_records_split_and_merged(size: int) -> None:
    """One record over many reads, and many records in one: nothing is lost."""
    with ScriptedServer([Script(ANSWER.pieces)], tls=True) as server, relay(server.url, size) as url:
        reply = send(url, ca_file=CA)
    assert {name: getattr(reply, name) for name in ANSWER.facts} == ANSWER.facts
    if size == 1 << 20:
        assert reply.first_byte_s == reply.last_token_s  # it all came in one read
    else:
        assert reply.first_byte_s <= reply.first_token_s <= reply.last_token_s


@contextlib.contextmanager
def relay(url: str, size: int) -> Iterator[str]:
    """Pass a server's bytes on in pieces of ``size``; large ones first wait for what else the server says."""
    sockets: list[Any] = [gevent.socket.socket()]

    def pump(source: Any, sink: Any, size: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                if size > 1000:
                    gevent.sleep(0.1)
                    with gevent.Timeout(0.01, False):
                        data += source.recv(1 << 20)
                for start in range(0, len(data), size):
                    sink.sendall(data[start : start + size])
                    gevent.sleep(0)

    def accept() -> None:
        near, _ = sockets[0].accept()
        far = gevent.socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets.extend([near, far])
        greenlets.extend([gevent.spawn(pump, near, far, 1000), gevent.spawn(pump, far, near, size)])

    sockets[0].bind(("127.0.0.1", 0))
    sockets[0].listen()
    greenlets = [gevent.spawn(accept)]
    try:
        yield f"https://localhost:{sockets[0].getsockname()[1]}"
    finally:
        gevent.killall(greenlets)
        for sock in sockets:
            sock.close()


def test_one_context_for_all_users() -> None:
    assert tls_context(CA, True) is tls_context(CA, True)
    assert tls_context(CA, True) is not tls_context(CA, False)


def test_a_missing_ca_file_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.pem"):
        send("https://localhost", ca_file=str(tmp_path / "missing.pem"))


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_with_everything_patched_as_locust_does(tls: bool) -> None:
    """Locust replaces socket and ssl by gevent's before anything of ours is imported."""
    program = f"""
import gevent.monkey; gevent.monkey.patch_all()
from tests.contract.scripted import *
from tests.contract.test_tls import ANSWER, send
with ScriptedServer([Script(ANSWER.pieces)], tls={tls}) as server:
    reply = send(server.url, ca_file=CA)
print(reply.outcome, reply.error, reply.text)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("ok  Hello world\n", "")
