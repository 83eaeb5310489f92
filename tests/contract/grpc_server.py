"""A real gRPC server that says exactly what a test tells it to: grpcio, and Triton's own service description.

It looks like a :class:`ScriptedServer` to the suites. A script's bytes are responses, sent as they are; its end is a
status, or what happens to the connection, which runs through a relay that counts and cuts. It needs a process
that gevent has patched and whose gRPC was prepared: :mod:`tests.contract.patched`.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import gevent
import gevent.socket
from gevent.event import Event

from harness.clients.grpc_channels import prepare
from tests.contract.scripted import CERTS, Script

WORKERS = 8


@dataclass
class GrpcServer:
    """Serves ``scripts`` in order, over as many connections as the client makes."""

    scripts: list[Script]
    tls: bool = False
    accepts: int = 0
    open: int = 0
    requests: list[bytes] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    asked: Event = field(default_factory=Event)
    """Set while a request has been read whose script is not over."""
    calls: int = 0
    """Calls under way."""
    _released: Event = field(default_factory=Event)
    _links: list[Any] = field(default_factory=list)
    _greenlets: list[Any] = field(default_factory=list)
    _listener: Any = None
    _server: Any = None
    _port: int = 0

    def __enter__(self) -> GrpcServer:
        grpc = prepare().grpc
        from tritonclient.grpc import service_pb2_grpc

        self._server = grpc.server(ThreadPoolExecutor(WORKERS), options=(("grpc.max_receive_message_length", -1),))
        stream = grpc.stream_stream_rpc_method_handler(self._stream)  # no serializers: bytes, malformed ones too
        described = _Described()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_service(), described)
        handlers = described.handlers | {"ModelStreamInfer": stream}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(described.name, handlers),))
        self._port = self._bind(grpc)
        self._server.start()
        self._listener = gevent.socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(16)
        self._greenlets.append(gevent.spawn(self._accept))
        return self

    def __exit__(self, *exc: object) -> None:
        self._released.set()
        self.cut()
        gevent.killall(self._greenlets)
        self._listener.close()
        self._server.stop(0).wait(5)

    @property
    def request_ids(self) -> list[str]:
        return [sent["x-request-id"] for sent in self.metadata]

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://localhost:{self._listener.getsockname()[1]}"

    def release(self) -> None:
        """Let every stalled script end."""
        self._released.set()

    def _bind(self, grpc: Any) -> int:
        if not self.tls:
            return int(self._server.add_insecure_port("127.0.0.1:0"))
        pair = tuple((CERTS / f"test_only_server.{kind}").read_bytes() for kind in ("key", "pem"))
        return int(self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials((pair,))))

    def _stream(self, requests: Any, context: Any) -> Any:
        self.calls += 1
        context.add_callback(self._left)
        for request in requests:
            self.requests.append(request)
            self.metadata.append(dict(context.invocation_metadata()))
            script = self.scripts.pop(0)
            self.asked.set()
            for step in script.steps:
                if callable(step):
                    step()
                else:
                    yield step
            self.asked.clear()
            self._finish(script, context)

    def _left(self) -> None:
        self.calls -= 1

    def _finish(self, script: Script, context: Any) -> None:
        if script.end == "stall":
            self.asked.set()
            self._released.wait()
        elif script.end in ("close", "reset"):
            gevent.sleep(0.05)  # what was sent has passed the relay
            self.cut(reset=script.end == "reset")
        elif script.end != "keep":
            code, _, text = script.end.partition(": ")
            context.abort(getattr(prepare().grpc.StatusCode, code), text)

    # the relay

    def cut(self, *, reset: bool = False) -> None:
        """End every connection, with FIN or RST."""
        for near, far in self._links:
            with contextlib.suppress(OSError):
                if reset:
                    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    near._sock.close()
                else:
                    near.shutdown(socket.SHUT_RDWR)
                far.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            far = gevent.socket.create_connection(("127.0.0.1", self._port))
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.accepts += 1
            self.open += 1
            link = (near, far)
            self._links.append(link)
            up = gevent.spawn(_pump, near, far)
            down = gevent.spawn(_pump, far, near)
            self._greenlets += [up, down, gevent.spawn(self._close_after, link, up, down)]

    def _close_after(self, link: Any, up: Any, down: Any) -> None:
        try:
            gevent.joinall([up, down], count=1)
            gevent.killall([up, down])
        finally:
            self._links.remove(link)
            self.open -= 1
            for sock in link:
                sock.close()


class _Described:
    """Stands in for a server where the generated code registers its methods, so that one can be replaced."""

    name = ""
    handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """The same methods once more."""

    def add_registered_method_handlers(self, name: str, handlers: dict[str, Any]) -> None:
        self.name, self.handlers = name, handlers


def _pump(source: Any, sink: Any) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)


def _service() -> Any:
    """What else of the service a client may ask; ``ModelInfer`` refuses as Triton does for a decoupled model."""
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    class Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc, unused-ignore]
        def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
            return service_pb2.ServerLiveResponse(live=True)

        def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
            return service_pb2.ServerReadyResponse(ready=True)

        def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
            return service_pb2.ModelReadyResponse(ready=True)

        def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
            code = prepare().grpc.StatusCode.UNIMPLEMENTED
            context.abort(code, "ModelInfer RPC doesn't support models with decoupled transaction policy")

    return Service()
