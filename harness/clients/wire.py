"""One keep-alive connection, read by a callback of gevent's hub.

Per read the callback takes the time, receives and appends: no greenlet switch, no parsing. Only at a read
that may be the last does it look closer, and only at the end does it wake the waiting greenlet.
The watcher stays started between requests, which saves two epoll calls a request and notices a
server that closes while idle.
"""

from __future__ import annotations

import _socket
import errno
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent import getcurrent
from gevent.hub import get_hub

from harness.clients.base import Timeouts
from harness.clients.dial import ConnectError, dial, explain
from harness.clients.exchange import Ending, Exchange
from harness.clients.wakeups import after_reads
from harness.http1 import ChunkScanner, Http1Error, parse_head

READ_BYTES = 4096
"""Holds a dozen events. ``recv`` allocates this much and gives back what is over. The holes which that leaves between
what is kept made the process grow by 5 kB a request at 64 KiB; at 4 KiB they are filled again."""
_READ, _WRITE = 1, 2
_LONGEST_TIMER_S = 3600.0


class Wire:
    """A connection to one host and port; it connects when it has to.

    ``exchange`` may be called by one greenlet at a time. After anything but a clean end, the
    connection is closed and the next request opens a fresh one.
    """

    def __init__(self, host: str, port: int, timeouts: Timeouts) -> None:
        self.host = host
        self.port = port
        self.timeouts = timeouts
        self.current: Exchange | None = None
        self._sock: _socket.socket | None = None
        self._watcher: Any = None
        self._timer: Any = None
        self._waiting: Any = None
        self._failure: Exception | None = None
        self._deadline_s = 0.0
        self._goal = 0
        self._scanner = ChunkScanner()
        self._scanned = 0
        self._close_after = False
        self._sending = False
        # bound once per connection or request, because looking them up costs at every read
        self._recv: Callable[[int], bytes] = _no_connection
        self._add_part: Callable[[bytes], None] = _ignore
        self._add_time: Callable[[float], None] = _ignore

    @property
    def connected(self) -> bool:
        return self._sock is not None

    def connect(self, deadline_s: float) -> None:
        """Open the connection, TLS included; raise ConnectError if that fails."""
        allowed_s = min(self.timeouts.connect_s, deadline_s - monotonic(), _LONGEST_TIMER_S)
        limit = gevent.Timeout(max(allowed_s, 0.001))
        limit.start()
        try:
            self._sock = dial(self.host, self.port)
            self._handshake(self._sock)
        except gevent.Timeout as expired:
            self.close()
            if expired is not limit:
                raise
            raise ConnectError(Ending.TIMED_OUT, f"no connection in {allowed_s:.3g} s") from None
        except OSError as error:
            self.close()
            raise ConnectError(Ending.REFUSED, self._explain(error)) from None
        except BaseException:
            self.close()
            raise
        finally:
            limit.close()
        self._watcher = get_hub().loop.io(self._sock.fileno(), _READ)
        self._watcher.start(self._on_idle)

    def exchange(self, request: bytes, deadline_s: float) -> Exchange:
        """Send ``request`` and collect its answer; connect first where needed.

        Whatever interrupts it (a kill, a Timeout of the caller) ends the exchange as cancelled,
        leaves it in ``current``, and is raised on.
        """
        now = monotonic()
        exchange = self.current = Exchange(sent_s=now, reused=self.connected)
        try:
            if self._sock is None:
                self.connect(deadline_s)
                exchange.connect_s = monotonic() - now
            self._begin(exchange, deadline_s)
            self._send(request)
            while exchange.ending is None:
                self._pause()
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
        except ConnectError as error:
            exchange.ending, exchange.error = error.ending, str(error)
            exchange.end_s = monotonic()
        except BaseException:
            if exchange.ending is None:
                exchange.ending, exchange.end_s = Ending.CANCELLED, monotonic()
            self.close()
            raise
        else:
            if exchange.ending is not Ending.COMPLETE or self._close_after or self._sending:
                self.close()
        return exchange

    def cancel(self) -> None:
        """Close; whoever waits for an answer gets what there is of it, as cancelled, and closes then."""
        if self.current is not None and self.current.ending is None:
            self._finish(Ending.CANCELLED, "the client was closed")
        else:
            self.close()

    def close(self) -> None:
        """Let go of the watcher, then of the descriptor: libev must never watch a closed one."""
        for name in ("_watcher", "_timer"):
            watcher = getattr(self, name)
            if watcher is not None:
                setattr(self, name, None)
                watcher.stop()
                watcher.close()
        sock, self._sock = self._sock, None
        self._recv = _no_connection
        if sock is not None:
            sock.close()

    # what TLS does differently

    def _handshake(self, sock: _socket.socket) -> None:
        self._recv = sock.recv

    def _encode(self, data: bytes) -> bytes:
        return data

    def _explain(self, error: OSError) -> str:
        return explain(error, self.host, self.port)

    # one request

    def _begin(self, exchange: Exchange, deadline_s: float) -> None:
        self._failure = None
        self._close_after = False
        self._deadline_s = deadline_s
        self._add_part = exchange.parts.append
        self._add_time = exchange.times.append
        self._watcher.callback = self._on_head
        self._arm(self._due_s(exchange) - monotonic())

    def _send(self, request: bytes) -> None:
        exchange, sock = self.current, self._sock
        assert exchange is not None and sock is not None
        self._sending = True
        try:
            unsent = memoryview(self._encode(request))
        except OSError as error:
            self._finish(Ending.RESET, error.strerror or str(error))
            return
        while exchange.ending is None:
            try:
                unsent = unsent[sock.send(unsent) :]
            except BlockingIOError:
                self._wait_until_writable(sock)
                continue
            except OSError:
                return  # reading tells how it ended: the server may have answered before it closed
            if not unsent:
                self._sending = False
                return

    def _wait_until_writable(self, sock: _socket.socket) -> None:
        watcher = get_hub().loop.io(sock.fileno(), _WRITE)
        try:
            watcher.start(self._wake)
            self._pause()
        finally:
            watcher.stop()
            watcher.close()

    def _pause(self) -> None:
        self._waiting = getcurrent()
        try:
            get_hub().switch()
        finally:
            self._waiting = None

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.switch()

    def _finish(self, ending: Ending, error: str = "") -> None:
        exchange = self.current
        if exchange is None or exchange.ending is not None:
            return
        exchange.ending = ending
        exchange.error = error
        if ending is Ending.COMPLETE and exchange.times:
            exchange.end_s = exchange.times[-1]
        else:
            exchange.end_s = monotonic()
        if self._watcher is not None:
            self._watcher.callback = self._on_idle
        self._disarm()
        after_reads(self._wake)

    # reading: one of these is the watcher's callback

    def _on_idle(self) -> None:
        try:
            self._recv(READ_BYTES)
        except BlockingIOError:
            return  # TLS has something to say between answers: its session tickets
        except OSError:
            pass
        # an idle server has nothing else to say: this is its close, or an error before its close
        self.close()

    def _on_head(self) -> None:
        data = self._receive()
        if not data:
            return
        exchange = self.current
        assert exchange is not None
        try:
            over = self._read_head(data if len(exchange.parts) == 1 else b"".join(exchange.parts))
        except Exception as failure:
            self._fail(failure)
            return
        if over:
            self._finish(Ending.COMPLETE)

    def _read_head(self, raw: bytes) -> bool:
        """Choose how to read on; True when the answer is over already."""
        head = parse_head(raw)
        if head is None:
            return False
        self._close_after = head.close
        if head.chunked:
            self._scanner = ChunkScanner()
            self._watcher.callback = self._on_chunked
            assert self.current is not None
            self._scanned = len(self.current.parts)
            return self._scan(raw[head.body_start :])
        if head.content_length is None:
            self._watcher.callback = self._on_rest
            return False
        self._watcher.callback = self._on_counted
        self._goal = head.body_start + head.content_length
        return self._count(len(raw))

    def _on_chunked(self) -> None:
        # Called once per event of every user. A callable kept in an attribute is called through a local,
        # which Python 3.11 specialises: 220 instead of 280 ns in all.
        now = monotonic()
        try:
            recv = self._recv
            data = recv(READ_BYTES)
        except BlockingIOError:
            return
        except Exception as failure:
            self._fail(failure)
            return
        if data:
            add_time, add_part = self._add_time, self._add_part
            add_time(now)
            add_part(data)
            # The body ends with an empty line, after "0" or trailers. The read that brings its last byte holds
            # all of CRLF CRLF, whatever a broken server sends after it, or starts inside it.
            if data[0] < 14 or b"\r\n\r\n" in data:
                self._scan_new_parts()
        else:
            self._finish(Ending.CLOSED, "closed inside the stream")

    def _on_counted(self) -> None:
        data = self._receive()
        if data and self._count(len(data)):
            self._finish(Ending.COMPLETE)

    def _on_rest(self) -> None:
        self._receive()

    def _receive(self) -> bytes:
        """Receive and append, with every exception ending the exchange; empty when there is nothing."""
        now = monotonic()
        try:
            data = self._recv(READ_BYTES)
        except BlockingIOError:
            return b""
        except Exception as failure:
            self._fail(failure)
            return b""
        if data:
            self._add_time(now)
            self._add_part(data)
        else:
            self._finish(Ending.CLOSED)
        return data

    def _count(self, received: int) -> bool:
        self._goal -= received
        self._close_after = self._close_after or self._goal < 0
        return self._goal <= 0

    def _scan_new_parts(self) -> None:
        exchange = self.current
        assert exchange is not None
        parts = exchange.parts[self._scanned :]
        self._scanned += len(parts)
        try:
            over = self._scan(b"".join(parts))
        except Exception as failure:
            self._fail(failure)
            return
        if over:
            self._finish(Ending.COMPLETE)

    def _scan(self, piece: bytes) -> bool:
        over = self._scanner.feed(piece)
        self._close_after = self._close_after or self._scanner.extra > 0
        return over

    def _fail(self, failure: Exception) -> None:
        """End the exchange by an exception met in a callback, which has no caller of its own."""
        if isinstance(failure, Http1Error):
            self._finish(Ending.BROKEN, str(failure))
        elif isinstance(failure, OSError):
            self._finish(Ending.RESET, failure.strerror or str(failure))
        else:
            self._failure = failure
            self._finish(Ending.BROKEN, type(failure).__name__)

    # time-outs: one timer a request, which looks at the times only when one may be due

    def _on_timer(self) -> None:
        self._disarm()
        exchange = self.current
        if exchange is None or exchange.ending is not None:
            return
        left_s = self._due_s(exchange) - monotonic()
        if left_s > 0:
            self._arm(left_s)
        else:
            self._finish(Ending.TIMED_OUT, self._name_timeout(exchange))

    def _due_s(self, exchange: Exchange) -> float:
        times, limits = exchange.times, self.timeouts
        if times:
            return min(self._deadline_s, times[-1] + limits.idle_s)
        return min(self._deadline_s, exchange.sent_s + exchange.connect_s + limits.first_byte_s)

    def _name_timeout(self, exchange: Exchange) -> str:
        if monotonic() >= self._deadline_s:
            return f"not over after {self.timeouts.total_s:g} s"
        if exchange.times:
            return f"silent for {self.timeouts.idle_s:g} s"
        return f"no answer in {self.timeouts.first_byte_s:g} s"

    def _arm(self, seconds: float) -> None:
        # Silence can begin at any read, so look at least once per idle_s. And libev reckons from the
        # loop's own clock, which may lag: never busy-wait for the rest.
        seconds = min(seconds, self.timeouts.idle_s, _LONGEST_TIMER_S)
        self._timer = get_hub().loop.timer(max(seconds, 0.001))
        self._timer.start(self._on_timer)

    def _disarm(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()


def _no_connection(_size: int) -> bytes:
    raise OSError(errno.ENOTCONN, "not connected")


def _ignore(_value: object) -> None:
    return None
