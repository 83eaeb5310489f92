"""Waking a greenlet at an absolute moment, to a tenth of a millisecond.

``gevent.sleep`` ends up in ``epoll_wait``, whose time-out counts whole milliseconds, rounded up: half of one late
on average. A timerfd is one more descriptor that becomes readable, and the kernel sets it off by its fine clock.
"""

from __future__ import annotations

import ctypes
import os
from time import monotonic

import gevent
from gevent.hub import get_hub

_CLOCK_MONOTONIC = 1
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_ABSOLUTE = 1
_READ = 1

_libc = ctypes.CDLL(None, use_errno=True)


class _Timer(ctypes.Structure):
    """``struct itimerspec``: an interval, here none, and the moment."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


class Alarm:
    """For one greenlet at a time. Python 3.13 has ``os.timerfd_create``; until then, the C library's."""

    def __init__(self) -> None:
        self._fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "no timer could be made")
        self._watcher = get_hub().loop.io(self._fd, _READ)

    def wait_until(self, moment_s: float) -> None:
        """Return at a moment of ``time.monotonic``; when it has passed, after everybody else had a turn."""
        if moment_s <= monotonic():
            gevent.sleep(0)
            return
        seconds, fraction = divmod(moment_s, 1.0)
        timer = _Timer(0, 0, int(seconds), int(fraction * 1e9))
        _libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(timer), None)
        get_hub().wait(self._watcher)
        os.read(self._fd, 8)  # how often it went off, which also silences it

    def close(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        os.close(self._fd)
