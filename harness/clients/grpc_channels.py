"""gRPC in a process of gevent's: loaded late, a few channels for all users.

grpcio waits in native threads that :func:`prepare` has to take from gevent's pool, once per process and after
any fork: a fork with gRPC's threads running is broken. That pool has ten threads, a channel in use holds one of
them, and names are looked up in it, too; so there are a few channels, not one per user. It costs 0.5 to
1.4 s to load, which only this protocol pays.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from gevent.monkey import is_module_patched

from harness.clients.base import Target
from harness.errors import LoadError, UsageError

CHANNELS = 4
"""Four connections also stay clear of proxies that allow 100 streams on one."""
SERVICE = "/inference.GRPCInferenceService"


@dataclass(frozen=True, slots=True)
class Grpc:
    """What was loaded."""

    grpc: ModuleType
    messages: ModuleType
    decode_error: type[Exception]
    pid: int


@cache
def _load() -> Grpc:
    if not is_module_patched("threading"):
        raise LoadError("gRPC needs a process that gevent has patched, as Locust's are")
    # Else a child between fork and exec (a judge, a probe) starts gRPC's threads again and may die of it.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    import grpc
    import grpc.experimental.gevent
    from google.protobuf.message import DecodeError
    from tritonclient.grpc import service_pb2

    grpc.experimental.gevent.init_gevent()
    return Grpc(grpc, service_pb2, DecodeError, os.getpid())


def prepare() -> Grpc:
    """Load gRPC and hand it to gevent, on the first call in a process.

    Raises
    ------
    LoadError
        In a process that gevent has not patched, or that was forked after the first call.
    """
    loaded = _load()
    if loaded.pid != os.getpid():
        raise LoadError("this process was forked after gRPC was loaded; it must be loaded in each process anew")
    return loaded


@dataclass(slots=True)
class SharedChannels:
    """The process's channels to one server. Closed with the last of its users."""

    channels: list[Any]
    users: int = 0
    taken: int = 0


@dataclass(slots=True)
class Lease:
    """One user's hold on a channel."""

    channel: Any
    _key: tuple[Any, ...]

    def give_back(self) -> None:
        """Once only; the last one closes the channels."""
        shared = _shared[self._key]
        shared.users -= 1
        if not shared.users:
            del _shared[self._key]
            for channel in shared.channels:
                channel.close()


_shared: dict[tuple[Any, ...], SharedChannels] = {}


def lease(target: Target) -> Lease:
    """Give a user one of the channels, in turn."""
    key = (target.host, target.port, target.tls, target.ca_file, target.timeouts.connect_s)
    shared = _shared.get(key)
    if shared is None:
        shared = _shared[key] = SharedChannels([_channel(target) for _ in range(CHANNELS)])
    shared.users += 1
    shared.taken += 1
    return Lease(shared.channels[shared.taken % CHANNELS], key)


def _channel(target: Target) -> Any:
    grpc = prepare().grpc
    host = f"[{target.host}]" if ":" in target.host else target.host
    address = f"{host}:{target.port}"
    options = (
        ("grpc.use_local_subchannel_pool", 1),  # else all channels would share one connection
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),  # a hidden retry would look like a slow answer
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # despite its name this bounds one attempt to connect
        ("grpc.min_reconnect_backoff_ms", max(1, int(min(target.timeouts.connect_s, 3600.0) * 1000))),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    )
    if not target.tls:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(_roots(target)), options=options)


def _roots(target: Target) -> bytes | None:
    """The CAs to trust: the target's own, else the system's; None leaves grpcio its built-in list."""
    if not target.verify:
        raise UsageError("gRPC cannot leave a certificate unverified; name its CA with --ca-file")
    path = target.ca_file or ssl.get_default_verify_paths().cafile
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot use the CA file {path}: {error}") from None
