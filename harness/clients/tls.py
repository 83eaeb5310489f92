"""The same connection over TLS: a plain socket, and ``ssl`` working in memory.

``SSLSocket.recv`` may wait, which a callback of the hub cannot (gevent raises BlockingSwitchOutError).
"""

from __future__ import annotations

import _socket
import ssl
from functools import cache
from typing import Any

from gevent.hub import get_hub

from harness.clients.base import Timeouts
from harness.clients.wire import READ_BYTES, Wire
from harness.errors import UsageError


@cache
def tls_context(ca_file: str | None, verify: bool) -> ssl.SSLContext:
    """Build the process's one context for these settings: loading CAs takes some 50 ms.

    ``ca_file`` replaces the system's CAs.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cafile=ca_file)
    return context


class TlsWire(Wire):
    """A Wire whose bytes go through an ``ssl.SSLObject``."""

    def __init__(self, host: str, port: int, timeouts: Timeouts, ca_file: str | None, verify: bool) -> None:
        super().__init__(host, port, timeouts)
        try:
            self._context = tls_context(ca_file, verify)
        except OSError as error:
            raise UsageError(f"cannot use the CA file {ca_file}: {error}") from None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._unsent = b""
        self._session: ssl.SSLSession | None = None
        self._established = False

    def close(self) -> None:
        # A user that comes back resumes its own session, as a browser would. Users do not share one: the server
        # would then be spared the handshakes that as many real users make.
        if self._tls is not None and self._established:
            self._session = self._tls.session or self._session
        self._tls, self._established = None, False
        super().close()

    def _handshake(self, sock: _socket.socket) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._unsent = b""
        self._tls = self._context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=self.host, session=self._session
        )
        self._recv = self._recv_plain
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush(sock)
                self._wait_readable(sock)
                data = sock.recv(READ_BYTES)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            except ssl.SSLError:
                self._flush(sock)  # the alert that tells the server why
                raise
            else:
                self._flush(sock)
                self._established = True
                return

    def _wait_readable(self, sock: _socket.socket) -> None:
        hub = get_hub()
        watcher: Any = hub.loop.io(sock.fileno(), 1)
        try:
            hub.wait(watcher)
        finally:
            watcher.close()

    def _recv_plain(self, size: int) -> bytes:
        """Receive once and decrypt all of it: a rest left in the BIO would never be announced."""
        sock, tls, incoming = self._sock, self._tls, self._incoming
        assert sock is not None and tls is not None
        data = sock.recv(size)
        if not data:
            incoming.write_eof()
            return self._decrypt(tls, b"")
        incoming.write(data)
        try:
            plain = tls.read(READ_BYTES)
        except (ssl.SSLWantReadError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return self._decrypt(tls, b"")
        # The common case, one whole record, needs no second read to be told by an exception that there is no more.
        if not incoming.pending and not tls.pending() and not self._outgoing.pending and not self._unsent and plain:
            return plain
        return self._decrypt(tls, plain)

    def _decrypt(self, tls: ssl.SSLObject, first: bytes) -> bytes:
        """Read until TLS wants more bytes, and say what it has to say itself (a key update, an alert)."""
        plain = [first] if first else []
        while True:
            try:
                piece = tls.read(READ_BYTES)
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                piece = b""
            if not piece:
                if plain:
                    break  # the end is announced again
                return b""
            plain.append(piece)
        if (self._outgoing.pending or self._unsent) and not self._sending:
            assert self._sock is not None
            self._flush(self._sock)  # never between two pieces of a request
        if not plain:
            raise BlockingIOError
        return plain[0] if len(plain) == 1 else b"".join(plain)

    def _encode(self, data: bytes) -> bytes:
        assert self._tls is not None
        self._tls.write(data)
        unsent, self._unsent = self._unsent, b""
        return unsent + self._outgoing.read()

    def _flush(self, sock: _socket.socket) -> None:
        """Send what TLS itself has to say; it is short, so what does not fit goes with the next send."""
        data = self._unsent + self._outgoing.read()
        self._unsent = b""
        try:
            self._unsent = data[sock.send(data) :] if data else b""
        except BlockingIOError:
            self._unsent = data

    def _explain(self, error: OSError) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the certificate of {self.host} is not trusted: {error.verify_message}"
        if isinstance(error, ssl.SSLError):
            return f"no TLS with {self.host}:{self.port}: {error.reason or error}"
        return super()._explain(error)
