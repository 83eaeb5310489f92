"""Who is resumed when: the event loop reads for all users before it wakes one.

An answer's end costs a hundred times a read: its greenlet parses, records and sends the next request. Resumed within
the callback of its last read, it would delay the reads that the same look at the sockets found ready, and with them
their timestamps: 30 answers that end together made that 10 ms. Here the greenlet waits until the loop has read
everything, and one is resumed for each look at the sockets. No capacity is lost: what is left of the core besides
reading goes to greenlets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from gevent.hub import get_hub


class Wakeups:
    """The queue of one hub. Its timer is due at once and of the lowest priority: libev runs it after all reads."""

    def __init__(self, hub: Any) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._timer = hub.loop.timer(0.0, priority=hub.loop.MINPRI)

    def add(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` in the hub, in a later turn of its loop."""
        self._waiting.append(wake)
        if len(self._waiting) == 1:
            self._timer.start(self._next)

    def _next(self) -> None:
        wake = self._waiting.popleft()
        try:
            wake()
        finally:
            if self._waiting:
                self._timer.start(self._next)


_queues: WeakKeyDictionary[Any, Wakeups] = WeakKeyDictionary()


def after_reads(wake: Callable[[], None]) -> None:
    """Have ``wake`` called in this thread's hub once it has read what is there to read."""
    hub = get_hub()
    queue = _queues.get(hub)
    if queue is None:
        queue = _queues[hub] = Wakeups(hub)
    queue.add(wake)
