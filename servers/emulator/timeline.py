"""Things to do at planned moments, on asyncio's clock.

Every plan is absolute: what is late makes nothing after it later. One heap of tuples and one asyncio timer replace
asyncio's own timer objects, which cost a Python-level comparison at every push.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable

Act = Callable[[float], object]
"""Called with the moment it was planned for."""


class Timeline:
    """A schedule on ``CLOCK_MONOTONIC``, in seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Act]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_s = float("inf")
        self._running = False

    @staticmethod
    def now() -> float:
        return time.monotonic()

    def at(self, when_s: float, act: Act) -> None:
        """Call ``act(when_s)`` at ``when_s``, at once after the current callback when that is past."""
        heapq.heappush(self._heap, (when_s, next(self._order), act))
        if not self._running and when_s < self._armed_s:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_s = self._heap[0][0]
        self._timer = self._loop.call_at(self._armed_s, self._run)

    def _run(self) -> None:
        """Do what is due; what falls due meanwhile waits until sockets had their turn."""
        self._running = True
        self._timer = None
        heap = self._heap
        now = time.monotonic()
        try:
            while heap and heap[0][0] <= now:
                when_s, _, act = heapq.heappop(heap)
                act(when_s)
        finally:
            self._running = False
            self._armed_s = float("inf")
            if heap:
                self._arm()
