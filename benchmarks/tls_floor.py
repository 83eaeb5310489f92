"""What an event costs our client over TLS, beside a loop that does nothing but receive and decrypt it.

The null server of :mod:`benchmarks.client_floor`, with TLS before it, streams 32 tokens to each of 1,000
connections, 20 ms apart. The floor is ``recv`` and an ``ssl.SSLObject`` in memory, which is all that a
callback of gevent's hub may use. Client CPU (user and system) is divided by the events received; that of
opening the connections is shown by itself.

    python -m benchmarks.tls_floor [--connections 1000] [--seconds 6] [--rounds 3]
"""

from __future__ import annotations

import argparse
import contextlib
import select
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from benchmarks.client_floor import CYCLE_S, EVENTS, FIRST, GAP_S, LAST, TICK_S, TOKEN, TOKENS, TTFT_S

CERTS = Path(__file__).parents[1] / "tests/contract/certs"
CA = str(CERTS / "test_only_ca.pem")
RECORD_BYTES = 16384


def serve() -> None:
    """Answer every request on time by a wheel of 1 ms slots; print the port first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTS / "test_only_server.pem", CERTS / "test_only_server.key")
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(listener.getsockname()[1], flush=True)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    peers: dict[int, ssl.SSLSocket] = {}
    slots: deque[list[tuple[int, int]]] = deque([] for _ in range(1024))
    first_ticks, gap_ticks = round(TTFT_S / TICK_S), round(GAP_S / TICK_S)
    due_s = time.monotonic()
    while True:
        for fd, _ in poll.poll(max(0.0, due_s - time.monotonic()), 4096):
            if fd == listener.fileno():
                plain, _address = listener.accept()
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peer = context.wrap_socket(plain, server_side=True)
                peer.setblocking(False)
                peers[peer.fileno()] = peer
                poll.register(peer, select.EPOLLIN)
            else:
                try:
                    if peers[fd].recv(65536):  # the client sends each request at once
                        peers[fd].send(FIRST)
                        slots[first_ticks].append((fd, 0))
                        continue
                except ssl.SSLWantReadError:
                    continue
                except OSError:
                    pass
                poll.unregister(fd)
                peers.pop(fd).close()
        while time.monotonic() >= due_s:
            due_s += TICK_S
            now = slots.popleft()
            slots.append([])
            for fd, sent in now:
                with contextlib.suppress(OSError, KeyError):  # the client has gone
                    peers[fd].send(TOKEN if sent < TOKENS else LAST)
                    if sent < TOKENS:
                        slots[gap_ticks - 1].append((fd, sent + 1))


class Bare:
    """One connection: receive, decrypt, forget; only the end of an answer is looked for."""

    def __init__(self, context: ssl.SSLContext, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.sock.sendall(self.outgoing.read())
                self.incoming.write(self.sock.recv(65536))
        self.sock.sendall(self.outgoing.read())
        self.sock.setblocking(False)

    def request(self) -> None:
        self.tls.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        self.sock.send(self.outgoing.read())

    def read(self) -> int:
        """Count the records, one an event."""
        incoming, events = self.incoming, 0
        incoming.write(self.sock.recv(65536))
        while incoming.pending:
            try:
                plain = self.tls.read(RECORD_BYTES)
            except ssl.SSLWantReadError:  # a session ticket, or half a record
                break
            events += 1
            if plain.endswith(b"0\r\n\r\n"):
                self.request()
        return events


def bare(port: int, connections: int, seconds: float) -> tuple[float, float, float]:
    began_cpu_s = time.process_time()
    context = ssl.create_default_context(cafile=CA)
    peers = [Bare(context, port) for _ in range(connections)]
    opened_cpu_s = time.process_time() - began_cpu_s
    poll = select.epoll()
    readers = {peer.sock.fileno(): peer.read for peer in peers}
    for peer in peers:
        poll.register(peer.sock, select.EPOLLIN)
        peer.request()
        time.sleep(CYCLE_S / connections)
    events = 0
    end_s, began_cpu_s = time.monotonic() + seconds, time.process_time()
    while time.monotonic() < end_s:
        for fd, _ in poll.poll(0.1, 4096):
            events += readers[fd]()
    return events, time.process_time() - began_cpu_s, opened_cpu_s


def ours(port: int, connections: int, seconds: float) -> tuple[float, float, float]:
    """One greenlet and one client per connection, as users under Locust are."""
    import gevent

    from harness.clients import CLIENTS, Target
    from harness.records import Message, Outcome, Prompt

    target = Target(url=f"https://localhost:{port}", model="null", ca_file=CA)
    clients: list[Any] = [CLIENTS[target.protocol](target) for _ in range(connections)]
    prompt = Prompt("0", (Message("user", "translate"),), TOKENS)
    events = 0
    ttfts_s: list[float] = []

    def use(number: int) -> None:
        nonlocal events
        gevent.sleep(number / connections * CYCLE_S)
        while True:
            reply = clients[number].send(prompt, f"bench/0/{number}/0")
            if reply.outcome is not Outcome.OK or reply.chunks != TOKENS:
                sys.exit(f"{reply.outcome}: {reply.error}, {reply.chunks} tokens")
            events += EVENTS
            ttfts_s.append(reply.first_token_s - reply.sent_s)

    began_cpu_s = time.process_time()
    for client in clients:
        client.open()
    opened_cpu_s = time.process_time() - began_cpu_s
    began_cpu_s = time.process_time()
    users = [gevent.spawn(use, number) for number in range(connections)]
    gevent.sleep(seconds)
    cpu_s = time.process_time() - began_cpu_s
    for client in clients:  # answers that are still coming have cost CPU, too
        reply = client.partial()
        events += (reply.chunks + 1 if reply.chunks else reply.bytes > 0) if reply else 0
    p99_ms = 1e3 * statistics.quantiles(ttfts_s, n=100)[98]
    print(f"  ours: TTFT p50 {1e3 * statistics.median(ttfts_s):.1f}, p99 {p99_ms:.1f} ms of 100", file=sys.stderr)
    gevent.killall(users)
    return events, cpu_s, opened_cpu_s


ROLES = {"bare": bare, "ours": ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--role", choices=["server", *ROLES], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "server":
        serve()
    elif options.role:
        print(*ROLES[options.role](options.port, options.connections, options.seconds))
    else:
        compare(options.connections, options.seconds, options.rounds)


def compare(connections: int, seconds: float, rounds: int) -> None:
    me = [sys.executable, "-m", "benchmarks.tls_floor"]
    ratios = []
    for _ in range(rounds):
        us_per_event = {}
        for role in ROLES:
            with subprocess.Popen([*me, "--role", "server"], stdout=subprocess.PIPE, text=True) as server:
                assert server.stdout is not None
                arguments = ["--role", role, "--port", server.stdout.readline().strip()]
                arguments += ["--connections", str(connections), "--seconds", str(seconds)]
                done = subprocess.run([*me, *arguments], check=False, stdout=subprocess.PIPE, text=True)
                server.terminate()
            if done.returncode:
                sys.exit(done.returncode)
            events, cpu_s, opened_cpu_s = map(float, done.stdout.split())
            us_per_event[role] = 1e6 * cpu_s / events
            print(
                f"{role:>5}: {us_per_event[role]:5.2f} us of CPU per event, {events / seconds:7,.0f} events/s,"
                f" {cpu_s / seconds:4.0%} of a core; {1e3 * opened_cpu_s / connections:.2f} ms to open a connection"
            )
        ratios.append(us_per_event["ours"] / us_per_event["bare"])
    print(f"ratio: {statistics.median(ratios):.2f} (median of {rounds})")


if __name__ == "__main__":
    main()
