"""What an event costs our client, beside a loop that does nothing but receive it.

A null server in a process of its own streams 32 tokens to each of 1,000 connections, 20 ms apart after
a TTFT of 100 ms (some 50,000 events/s). Client CPU (user and system) is divided by the events received.
The ratio of the two is what the project promises: at most 2.5.

    python -m benchmarks.client_floor [--connections 1000] [--seconds 6] [--rounds 3]
"""

from __future__ import annotations

import argparse
import contextlib
import select
import socket
import statistics
import subprocess
import sys
import time
from collections import deque

TOKENS = 32
TTFT_S = 0.100
GAP_S = 0.020
TICK_S = 0.001
# Users start spread over one answer's length, or all 1,000 would stay in step.
CYCLE_S = TTFT_S + TOKENS * GAP_S


def _chunk(payload: bytes) -> bytes:
    data = b"data: " + payload + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


_FRAME = (
    b'{"id":"chatcmpl-8d0f8a2c1e6b4a7f9c3d5e7f1a2b3c4d","object":"chat.completion.chunk",'
    b'"created":1764000000,"model":"null-server","choices":[{"index":0,"delta":%b,'
    b'"logprobs":null,"finish_reason":%b}]}'
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FIRST = HEAD + _chunk(_FRAME % (b'{"role":"assistant","content":""}', b"null"))
TOKEN = _chunk(_FRAME % (b'{"content":" token"}', b"null"))
LAST = (
    _chunk(_FRAME % (b"{}", b'"stop"'))
    + _chunk(b'{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":%d}}' % TOKENS)
    + _chunk(b"[DONE]")
    + b"0\r\n\r\n"
)
# the head, the tokens, the end: what one request makes the client receive
EVENTS = TOKENS + 2


def serve() -> None:
    """Answer every request on time by a wheel of 1 ms slots; print the port first."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(listener.getsockname()[1], flush=True)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    peers: dict[int, socket.socket] = {}
    slots: deque[list[tuple[int, int]]] = deque([] for _ in range(1024))
    first_ticks, gap_ticks = round(TTFT_S / TICK_S), round(GAP_S / TICK_S)
    due_s = time.monotonic()
    while True:
        for fd, _ in poll.poll(max(0.0, due_s - time.monotonic()), 4096):
            if fd == listener.fileno():
                peer, _address = listener.accept()
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peers[peer.fileno()] = peer
                poll.register(peer, select.EPOLLIN)
            else:
                with contextlib.suppress(OSError):
                    if peers[fd].recv(65536):  # the client sends each request at once
                        peers[fd].send(FIRST)
                        slots[first_ticks].append((fd, 0))
                        continue
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


def bare(port: int, connections: int, seconds: float) -> tuple[int, float]:
    """Receive and forget; only the end of an answer is looked for, to send the next request."""
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    poll = select.epoll()
    receivers, senders = {}, {}
    for _ in range(connections):
        peer = socket.create_connection(("127.0.0.1", port))
        peer.setblocking(False)
        poll.register(peer, select.EPOLLIN)
        receivers[peer.fileno()], senders[peer.fileno()] = peer.recv, peer.send
        peer.send(request)
        time.sleep(CYCLE_S / connections)
    reads = 0
    end_s, began_cpu_s = time.monotonic() + seconds, time.process_time()
    while time.monotonic() < end_s:
        for fd, _ in poll.poll(0.1, 4096):
            reads += 1
            if receivers[fd](65536).endswith(b"0\r\n\r\n"):
                senders[fd](request)
    return reads, time.process_time() - began_cpu_s


def ours(port: int, connections: int, seconds: float) -> tuple[int, float]:
    """One greenlet and one client per connection, as users under Locust are."""
    import gevent

    from harness.clients import CLIENTS, Target
    from harness.records import Message, Outcome, Prompt

    target = Target(url=f"http://127.0.0.1:{port}", model="null")
    clients = [CLIENTS[target.protocol](target) for _ in range(connections)]
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

    for client in clients:
        client.open()
    began_cpu_s = time.process_time()
    users = [gevent.spawn(use, number) for number in range(connections)]
    gevent.sleep(seconds)
    cpu_s = time.process_time() - began_cpu_s
    # answers that are still coming have cost CPU, too
    for client in clients:
        reply = client.partial()
        events += (reply.chunks + 1 if reply.chunks else reply.bytes > 0) if reply else 0
    p99_ms = 1e3 * statistics.quantiles(ttfts_s, n=100)[98]
    print(f"  ours: TTFT p50 {1e3 * statistics.median(ttfts_s):.1f}, p99 {p99_ms:.1f} ms of 100", file=sys.stderr)
    gevent.killall(users)
    return events, cpu_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--role", choices=["server", "bare", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "server":
        serve()
    elif options.role:
        role = {"bare": bare, "ours": ours}[options.role]
        events, cpu_s = role(options.port, options.connections, options.seconds)
        print(events, cpu_s)
    else:
        compare(options.connections, options.seconds, options.rounds)


def compare(connections: int, seconds: float, rounds: int) -> None:
    me = [sys.executable, "-m", "benchmarks.client_floor"]
    ratios = []
    for _ in range(rounds):
        us_per_event = {}
        for role in ("bare", "ours"):
            with subprocess.Popen([*me, "--role", "server"], stdout=subprocess.PIPE, text=True) as server:
                assert server.stdout is not None
                arguments = ["--role", role, "--port", server.stdout.readline().strip()]
                arguments += ["--connections", str(connections), "--seconds", str(seconds)]
                done = subprocess.run([*me, *arguments], check=False, stdout=subprocess.PIPE, text=True)
                server.terminate()
            if done.returncode:
                sys.exit(done.returncode)
            events, cpu_s = map(float, done.stdout.split())
            us_per_event[role] = 1e6 * cpu_s / events
            print(
                f"{role:>5}: {us_per_event[role]:5.2f} us of CPU per event, "
                f"{events / seconds:7,.0f} events/s, {cpu_s / seconds:4.0%} of a core"
            )
        ratios.append(us_per_event["ours"] / us_per_event["bare"])
    print(f"ratio: {statistics.median(ratios):.2f} (median of {rounds})")


if __name__ == "__main__":
    main()
