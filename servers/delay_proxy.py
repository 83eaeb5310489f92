"""A TCP proxy that is far away: every byte is held for a while, each way, in order. ``python -m servers.delay_proxy``.

Stands between users and a server to show what distance costs where the kernel has no netem, or nobody may use it.
Each new connection is given to a region, in turn and by weight, and stays in it. What is passed on later is what is
read earlier: order, ends of streams and half-closed connections are kept, and so are resets.

Not shown of a real network: the handshake (the proxy accepts at once, and a keep-alive connection pays it once),
loss, jitter and limited bandwidth.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from typing_extensions import override

from harness.errors import ServerError
from harness.experiments import Distance, parse_network
from servers.emulator.answer import reset
from servers.process import ServerProcess, describe_exit

MOST_HELD_BYTES = 8 * 1024 * 1024
"""Of one direction of one connection; beyond it the sender waits."""
READY_S = 20.0
_POLL_S = 0.02


class Turns:
    """Gives connections to regions so that, at any moment, each has its share of them (smooth weighted round robin)."""

    def __init__(self, regions: Sequence[Distance]) -> None:
        self._regions = tuple(regions)
        self._credit = [0] * len(self._regions)

    def next(self) -> Distance:
        for place, region in enumerate(self._regions):
            self._credit[place] += region.weight
        chosen = max(range(len(self._regions)), key=self._credit.__getitem__)
        self._credit[chosen] -= sum(region.weight for region in self._regions)
        return self._regions[chosen]


class _Held:
    """One direction: pieces on their way, each due ``delay_s`` after it was read.

    An empty piece is the stream's end, and None a reset.
    """

    def __init__(self, delay_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self._delay_s = delay_s
        self._loop = loop
        self._pieces: deque[tuple[float, bytes | None]] = deque()
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sink: asyncio.Transport | None = None
        self.source: asyncio.Transport | None = None
        self.ended = False
        """The stream's end was passed on."""
        self.opposite: _Held | None = None

    def add(self, piece: bytes | None) -> None:
        self._pieces.append((self._loop.time() + self._delay_s, piece))
        self._bytes += len(piece or b"")
        if self._bytes > MOST_HELD_BYTES and self.source is not None:
            self.source.pause_reading()
        self._plan()

    def connect(self, sink: asyncio.Transport) -> None:
        self._sink = sink
        self._plan()

    def drop(self) -> None:
        self._pieces.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _plan(self) -> None:
        if self._timer is None and self._pieces and self._sink is not None:
            self._timer = self._loop.call_at(self._pieces[0][0], self._release)

    def _release(self) -> None:
        self._timer = None
        sink, now = self._sink, self._loop.time()
        # Never a moment early: the loop fires a timer up to its clock's resolution before its time.
        while sink is not None and self._pieces and self._pieces[0][0] <= now:
            _, piece = self._pieces.popleft()
            self._bytes -= len(piece or b"")
            if sink.is_closing():
                continue
            if piece is None:
                reset(sink)
            elif piece:
                sink.write(piece)
            else:
                sink.write_eof()
                self.ended = True
                self._close_if_over(sink)
        if self._bytes <= MOST_HELD_BYTES and self.source is not None and not self.source.is_closing():
            self.source.resume_reading()
        self._plan()

    def _close_if_over(self, sink: asyncio.Transport) -> None:
        """Close both ends once both directions have ended; what is still in their buffers is sent first."""
        back = self.opposite
        if back is not None and back.ended:
            sink.close()
            if self.source is not None:
                self.source.close()


class _End(asyncio.Protocol):
    """One end of a connection: what it reads goes into ``out``, what comes out of ``into`` is written to it."""

    def __init__(self, out: _Held, into: _Held) -> None:
        self._out, self._into = out, into
        self.transport: asyncio.Transport | None = None
        self._ended = False

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = self._out.source = transport
        self._into.connect(transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._out.add(data)

    @override
    def eof_received(self) -> bool:
        self._ended = True
        self._out.add(b"")
        return True  # the other direction goes on

    @override
    def connection_lost(self, error: Exception | None) -> None:
        self._into.drop()
        if error is not None or not self._ended:
            self._out.add(None)


class DelayProxy:
    """Listens on a free port of 127.0.0.1 and connects each client to the target."""

    def __init__(self, host: str, port: int, regions: Sequence[Distance]) -> None:
        self._host, self._port = host, port
        self._turns = Turns(regions)
        self._dialling: set[asyncio.Task[None]] = set()

    async def listen(self) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(self._client, "127.0.0.1", 0, backlog=2048)

    def _client(self) -> _End:
        loop = asyncio.get_running_loop()
        delay_s = self._turns.next().delay_s
        there, back = _Held(delay_s, loop), _Held(delay_s, loop)
        there.opposite, back.opposite = back, there
        client, server = _End(there, back), _End(back, there)
        task = loop.create_task(self._dial(server, back))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)
        return client

    async def _dial(self, server: _End, back: _Held) -> None:
        """A client that is gone before its connection stands has left its end, or its reset, on the way."""
        try:
            await asyncio.get_running_loop().create_connection(lambda: server, self._host, self._port)
        except OSError:
            back.add(None)


async def serve(host: str, port: int, regions: Sequence[Distance], announce: Callable[[int], None]) -> None:
    """Serve for ever; ``announce`` is told the port."""
    server = await DelayProxy(host, port, regions).listen()
    announce(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


@contextmanager
def distant(url: str, network: str, work_dir: Path) -> Iterator[str]:
    """The URL of a server as users of ``network`` reach it: through a proxy in a process of its own.

    The proxy ends with the ``with`` block, and with this process.

    Raises
    ------
    ServerError
        When the proxy does not start.
    """
    parts = urlsplit(url)
    target = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
    said, log = work_dir / "delay-proxy.stdout", work_dir / "delay-proxy.log"
    command = [sys.executable, "-m", "servers.delay_proxy", "--target", target, "--network", network]
    root = Path(__file__).resolve().parents[1]  # -m looks in the working directory
    process = ServerProcess(command, log_file=log, stdout_file=said, directory=root)
    try:
        port = _announced(process, said)
        yield f"{parts.scheme}://127.0.0.1:{port}"
    finally:
        process.stop()
        for file in (said, log):
            file.unlink(missing_ok=True)


def _announced(process: ServerProcess, said: Path) -> int:
    deadline = time.monotonic() + READY_S
    while True:
        text = said.read_text(encoding="utf-8")
        if text.endswith("\n"):
            return int(json.loads(text)["port"])
        code = process.poll()
        if code is not None or time.monotonic() >= deadline:
            why = describe_exit(code) if code is not None else f"did not listen within {READY_S:g} s"
            raise ServerError("\n".join([f"the delay proxy {why}", *process.tail()]))
        time.sleep(_POLL_S)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m servers.delay_proxy")
    parser.add_argument("--target", required=True, help="host:port")
    parser.add_argument("--network", required=True, help="NAME:DELAYms[:WEIGHT], joined by +")
    options = parser.parse_args()
    host, _, port = options.target.rpartition(":")

    def announce(listening: int) -> None:
        sys.stdout.write(json.dumps({"ready": True, "port": listening}) + "\n")
        sys.stdout.flush()

    asyncio.run(serve(host, int(port), parse_network(options.network), announce))


if __name__ == "__main__":
    main()
