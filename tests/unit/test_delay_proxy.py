"""The delay proxy on real sockets: late by at least its delay, in order, whole, and gone when told or orphaned."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from harness.errors import ServerError
from harness.experiments import Distance, parse_network
from servers.delay_proxy import Turns, distant

RESET = b"reset me"


@contextmanager
def echo() -> Iterator[str]:
    """A server that sends everything back and then its end; one that says so is reset."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:

        def serve(client: socket.socket) -> None:
            with client:
                while data := client.recv(65536):
                    if data == RESET:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                        return
                    client.sendall(data)

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:  # shut down: the test is over
                    return
                threading.Thread(target=serve, args=(client,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def connected(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30)


def refuses(link: socket.socket) -> bool:
    """Whether the other side has closed or reset a connection."""
    try:
        return link.recv(1024) == b""
    except ConnectionResetError:
        return True


def answered(link: socket.socket, data: bytes) -> float:
    """Seconds until all of ``data`` came back."""
    began = time.monotonic()
    link.sendall(data)
    back = b""
    while len(back) < len(data):
        back += link.recv(65536)
    assert back == data
    return time.monotonic() - began


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an echo that is 60 ms away; its proxy leaves nothing behind."""
    folder = tmp_path_factory.mktemp("proxy")
    with echo() as server, distant(server, "far:60ms", folder) as url:
        yield url
    assert not list(folder.iterdir())


def test_what_is_sent_comes_late_both_ways(far: str) -> None:
    with connected(far) as link:
        for word in (b"one", b"two", b"three"):
            assert answered(link, word) >= 0.120


def test_delay_is_no_queue(tmp_path: Path) -> None:
    """Ten pieces on their way at once take one delay, not ten: the last is back before two round trips are over."""
    with echo() as server, distant(server, "far:500ms", tmp_path) as url, connected(url) as link:
        began = time.monotonic()
        for _ in range(10):
            link.sendall(b"piece")
        back = b""
        while len(back) < 50:
            back += link.recv(1024)
        took_s = time.monotonic() - began
    assert back == b"piece" * 10
    assert 1.0 <= took_s < 5.0  # one after another they would take 10 s


def test_many_bytes_come_whole_and_in_order(far: str) -> None:
    """More than the proxy holds, so that it has to make the sender wait."""
    sent = random.Random(1).randbytes(24 * 1024 * 1024)
    with connected(far) as link:

        def send() -> None:
            link.sendall(sent)
            link.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        digest, count = hashlib.sha256(), 0
        while data := link.recv(1 << 20):
            digest.update(data)
            count += len(data)
        sender.join(30)
    assert count == len(sent)
    assert digest.digest() == hashlib.sha256(sent).digest()


def test_the_end_of_one_direction_leaves_the_other_open(far: str) -> None:
    with connected(far) as link:
        link.sendall(b"last words")
        link.shutdown(socket.SHUT_WR)
        back = b""
        while data := link.recv(1024):
            back += data
    assert back == b"last words"


def test_a_reset_is_passed_on(far: str) -> None:
    with connected(far) as link:
        link.sendall(RESET)
        with pytest.raises(ConnectionResetError):
            link.recv(1024)


def test_a_server_that_is_not_there_resets(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with distant(f"http://127.0.0.1:{port}", "far:10ms", tmp_path) as url, connected(url) as link:
        assert refuses(link)


def test_connections_go_to_regions_by_weight(tmp_path: Path) -> None:
    """Two of three are far away; which ones is fixed by their order."""
    with echo() as server, distant(server, "near:0ms+far:150ms:2", tmp_path) as url:
        took_s = []
        for _ in range(6):
            with connected(url) as link:
                took_s.append(answered(link, b"hello"))
    assert sum(each >= 0.3 for each in took_s) == 4


def test_turns_are_spread_evenly() -> None:
    turns = Turns(parse_network("eu:10ms:3+us:45ms:2+asia:110ms"))
    names = [turns.next().name for _ in range(60)]
    assert Counter(names) == {"eu": 30, "us": 20, "asia": 10}
    assert all(Counter(names[start : start + 6]) == {"eu": 3, "us": 2, "asia": 1} for start in range(0, 60, 6))
    assert names[:3] == ["eu", "us", "eu"]


def test_regions_are_read() -> None:
    assert parse_network("") == ()
    assert parse_network("eu:10ms+us:45.5ms:2") == (
        Distance(name="eu", delay_s=0.01),
        Distance(name="us", delay_s=0.0455, weight=2),
    )


@pytest.mark.parametrize("text", ["eu", "eu:10", "eu:10ms:0", "eu:-1ms", "eu:10ms+", ":1ms"])
def test_what_is_no_region_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no region: write NAME:DELAYms"):
        parse_network(text)


def test_it_ends_when_told(tmp_path: Path) -> None:
    with echo() as server, distant(server, "far:10ms", tmp_path) as url:
        port = int(url.rpartition(":")[2])
        link = connected(url)
    with link:
        assert refuses(link)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


HOLDER = """
import sys, time
from pathlib import Path
from servers.delay_proxy import distant
with distant("http://127.0.0.1:9", "far:10ms", Path(sys.argv[1])) as url:
    print(url, flush=True)
    time.sleep(600)
"""


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith("http://127.0.0.1:")
        family = psutil.Process(parent.pid).children(recursive=True)
        assert any("servers.delay_proxy" in each.cmdline() for each in family)
        os.kill(parent.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive


def test_a_proxy_that_cannot_start_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerError, match="the delay proxy ended with exit code 1"),
        distant("http://x:1", "eu", tmp_path),
    ):
        pass
