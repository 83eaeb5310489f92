"""Opening a TCP connection: name lookup, the first address that accepts, and why none did."""

from __future__ import annotations

import _socket
import errno
from typing import Any

import gevent.socket

from harness.clients.exchange import Ending
from harness.records import OUT_OF_RESOURCES

_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}


class ConnectError(Exception):
    """No connection: how it counts, and why."""

    def __init__(self, ending: Ending, reason: str) -> None:
        super().__init__(reason)
        self.ending = ending


def dial(host: str, port: int) -> _socket.socket:
    """Connect to the first address that accepts; gives a plain non-blocking socket.

    ``_socket.socket`` because Locust replaces ``socket.socket`` by gevent's, whose recv in a
    callback of the hub would try to switch to the hub.
    """
    failure: OSError = OSError(errno.EHOSTUNREACH, "the name has no address")
    for family, kind, proto, _, address in _resolve(host, port):
        dialing = gevent.socket.socket(family, kind, proto)
        try:
            dialing.connect(address)
            sock = _socket.socket(family, kind, proto, dialing.detach())
        except OSError as error:
            failure = error
            continue
        finally:
            dialing.close()
        sock.setblocking(False)
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        return sock
    raise failure


def _resolve(host: str, port: int) -> list[Any]:
    try:
        # an address needs no lookup, and so no thread
        return _socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM, 0, _socket.AI_NUMERICHOST)
    except OSError:
        found: list[Any] = gevent.socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM)
        return found


def explain(error: OSError, host: str, port: int) -> str:
    """Say why there is no connection; a fault of this machine must not look like the server's."""
    if error.errno in _OUT_OF_RESOURCES:
        return f"{OUT_OF_RESOURCES}: {error.strerror}"
    return f"cannot connect to {host}:{port}: {error.strerror or error}"
