"""A TCP relay that holds every byte for a while, each way: distance, for a kernel that has no netem.

    relay.py ADDRESS TARGET_PORT [CLIENT=SECONDS ...]

Listens on a free port of ADDRESS, prints it, and connects each client to TARGET_PORT of 127.0.0.1. Clients that are
named by their address are that many seconds away.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys


async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay_s: float) -> None:
    """Pass on what arrives, in order, each piece ``delay_s`` after it came; the end of it too."""
    clock = asyncio.get_running_loop().time
    held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def pass_on() -> None:
        while True:
            due_s, piece = await held.get()
            await asyncio.sleep(max(0.0, due_s - clock()))
            if not piece:
                return
            sink.write(piece)
            await sink.drain()

    passing = asyncio.create_task(pass_on())
    with contextlib.suppress(OSError):
        while piece := await source.read(65536):
            held.put_nowait((clock() + delay_s, piece))
    held.put_nowait((clock() + delay_s, b""))
    with contextlib.suppress(OSError):
        await passing
    with contextlib.suppress(OSError):
        sink.close()


async def main(address: str, target_port: int, delays: dict[str, float]) -> None:
    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        delay_s = delays.get(writer.get_extra_info("peername")[0], 0.0)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", target_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(carry(reader, back, delay_s), carry(there, writer, delay_s))

    server = await asyncio.start_server(connect, address, 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    _, _address, _port, *_named = sys.argv
    _delays = {client: float(seconds) for client, _, seconds in (name.partition("=") for name in _named)}
    asyncio.run(main(_address, int(_port), _delays))
