"""The null server over gRPC: Triton's service at known times, logging what it truly did.

As :mod:`servers.null_server` in all else, its command line and log included. gRPC costs some 80 us a response in
Python on this side alone, so one of these keeps up with some 10,000 events/s, which is about what one client
process reaches. The log holds when a response was handed to gRPC: gRPC's own delay counts as the client's error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import struct
import sys
from array import array
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2

from servers.null_server import MODEL, NAN, Truth, write_truth

SERVICE = "inference.GRPCInferenceService"
TOKEN = " token"


class NullService:
    """``--tokens`` responses a request, the first after ``--ttft``; one with all of them where it wants no stream."""

    def __init__(self, ttft_s: float, gap_s: float, tokens: int) -> None:
        self.truth = Truth([], array("d"), array("d"), array("d"))
        self._ttft_s, self._gap_s, self._tokens = ttft_s, gap_s, tokens
        self._token, self._whole = response(TOKEN), response(TOKEN * tokens)

    def handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "ServerLive": grpc.unary_unary_rpc_method_handler(self._live),
                "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._infer),
            },
        )

    async def _live(self, _request: bytes, _context: Any) -> bytes:
        return bytes(service_pb2.ServerLiveResponse(live=True).SerializeToString())

    async def _infer(self, requests: AsyncIterator[bytes], context: Any) -> None:
        async for data in requests:
            received_s = monotonic()
            request = service_pb2.ModelInferRequest.FromString(data)
            truth, place = self.truth, len(self.truth.ids)
            truth.ids.append(request.id)
            for column, value in zip(truth[1:], (received_s, NAN, NAN), strict=True):
                column.append(value)
            if streams(request):
                await self._stream(context, place, received_s)
            else:
                await _until(received_s + self._ttft_s + (self._tokens - 1) * self._gap_s)
                truth.first_s[place] = truth.last_s[place] = monotonic()
                await context.write(self._whole)

    async def _stream(self, context: Any, place: int, received_s: float) -> None:
        truth, last = self.truth, self._tokens - 1
        for number in range(self._tokens):
            await _until(received_s + self._ttft_s + number * self._gap_s)
            if number in (0, last):
                now = monotonic()
                if number == 0:
                    truth.first_s[place] = now
                if number == last:
                    truth.last_s[place] = now
            await context.write(self._token)


async def _until(due_s: float) -> None:
    await asyncio.sleep(max(0.0, due_s - monotonic()))


def streams(request: Any) -> bool:
    """What the tensor ``streaming`` says; True without one."""
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=False):
        if tensor.name == "streaming":
            return bool(struct.unpack("<?", raw)[0])
    return True


def response(text: str) -> bytes:
    data = text.encode()
    answer = service_pb2.ModelInferResponse(model_name=MODEL, model_version="1")
    answer.outputs.add(name="text_output", datatype="BYTES", shape=[1])
    answer.raw_output_contents.append(struct.pack("<I", len(data)) + data)
    return bytes(service_pb2.ModelStreamInferResponse(infer_response=answer).SerializeToString())


async def serve(service: NullService, pem: Path | None, say: Callable[[str], object]) -> None:
    """Serve until TERM or Ctrl-C."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((service.handlers(),))
    if pem is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        both = pem.read_bytes()
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(both, both)]))
    await server.start()
    say(json.dumps({"ready": True, "port": port, "model": MODEL}) + "\n")
    await ended.wait()
    await server.stop(None)


def main() -> None:
    parser = argparse.ArgumentParser(description="A gRPC server of known timing.")
    parser.add_argument("--ttft", type=float, required=True, help="seconds from request to first token")
    parser.add_argument("--gap", type=float, required=True, help="seconds between tokens")
    parser.add_argument("--tokens", type=int, required=True, help="tokens of every answer")
    parser.add_argument("--log", type=Path, required=True, help="where to write what happened, at TERM")
    parser.add_argument("--tls", type=Path, default=None, help="PEM file with certificate and key")
    options = parser.parse_args()
    service = NullService(options.ttft, options.gap, options.tokens)

    def say(line: str) -> None:
        sys.stdout.write(line)
        sys.stdout.flush()

    asyncio.run(serve(service, options.tls, say))
    write_truth(options.log, service.truth)


if __name__ == "__main__":
    main()
