"""The open loop of one worker: every arrival is released at its time, whatever became of those before it.

One greenlet waits for absolute moments, so that no lateness adds up, and spawns one greenlet per arrival.

Connections: an arrival takes the most recently used idle one, as a client library's pool does, else opens its own,
which then counts in its latency. A few spare ones are opened ahead, so that load which grows little by little pays
for no handshake. None is closed before the run's end: a server that stalls gets as many as there are arrivals waiting.
"""

from __future__ import annotations

import resource
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event

from harness.arrivals import TraceArrivals
from harness.cell import Cell
from harness.clients import Client
from harness.dataset import read_trace
from harness.errors import UsageError
from harness.loadgen.alarm import Alarm
from harness.schedule import FloatArray, arrival_times_s, share

_SPARES = 8
_CATCH_UP_S = 1.0
"""At the end, how long arrivals may still be released whose time has come; what is left then never started."""


def schedule_of(cell: Cell) -> FloatArray:
    """Make the whole schedule of a cell; the same in every process.

    Raises
    ------
    UsageError
        When the trace cannot be read, or no arrival falls into the run.
    """
    arrivals = cell.scenario.arrivals
    if arrivals is None:
        raise UsageError("a closed loop has no schedule of arrivals")
    trace = read_trace(arrivals) if isinstance(arrivals, TraceArrivals) else None
    return arrival_times_s(arrivals, cell.timing, cell.scenario.longest_limit_s, cell.seeds()["arrivals"], trace)


@dataclass(frozen=True, slots=True)
class Arrival:
    """``place`` counts in the whole schedule; ``due_s`` is on this process's monotonic clock."""

    place: int
    due_s: float


class OpenLoop:
    """One worker's share of a schedule.

    ``begin(arrival, client)`` is called at the arrival's time and returns what its greenlet does.
    """

    def __init__(
        self,
        schedule: FloatArray,
        new_client: Callable[[], Client],
        begin: Callable[[Arrival, Client], Callable[[], Any]],
    ) -> None:
        self.released = 0
        self.due = 0
        """Arrivals whose time had come when :meth:`finish` was called."""
        self._schedule = schedule
        self._new_client = new_client
        self._begin = begin
        self._until_s = float("inf")
        self._rank, self._workers, self._due_s = 0, 1, schedule[:0]
        self._clients: list[Client] = []
        self._idle: deque[Client] = deque()
        self._short = Event()
        self._busy: set[gevent.Greenlet[..., None]] = set()
        self._releasing: gevent.Greenlet[..., None] | None = None
        _allow_all_open_files()
        self._short.set()
        self._connecting = gevent.spawn(self._keep_spares)

    def start(self, zero_s: float, rank: int, workers: int) -> None:
        """Begin with arrival ``rank``; ``zero_s`` is the run clock's zero on this process's monotonic clock."""
        self._rank, self._workers = rank, workers
        self._due_s = share(self._schedule, rank, workers) + zero_s
        self._releasing = gevent.spawn(self._release)

    def finish(self) -> list[Arrival]:
        """Release nothing more that is due later than now; return what was due and could not be started."""
        self._until_s = monotonic()
        self._connecting.kill()
        if self._releasing is not None:
            if self.released < len(self._due_s) and self._due_s[self.released] <= self._until_s:
                self._releasing.join(_CATCH_UP_S)
            self._releasing.kill()
        left = []
        for place in range(self.released, len(self._due_s)):
            if self._due_s[place] > self._until_s:
                break
            left.append(self._arrival(place))
        self.due = self.released + len(left)
        return left

    def close(self) -> None:
        """End what is still under way and close every connection."""
        gevent.killall(list(self._busy))
        for client in self._clients:
            client.close()

    def _arrival(self, position: int) -> Arrival:
        return Arrival(self._rank + position * self._workers, float(self._due_s[position]))

    def _release(self) -> None:
        alarm = Alarm()
        try:
            for position in range(len(self._due_s)):
                arrival = self._arrival(position)
                if arrival.due_s <= self._until_s:
                    alarm.wait_until(arrival.due_s)  # when late, too: others must get to read and send in between
                if arrival.due_s > self._until_s:  # it may have changed meanwhile
                    return
                client = self._take()
                self._busy.add(gevent.spawn(self._run, self._begin(arrival, client), client))
                self.released += 1
        finally:
            alarm.close()

    def _run(self, work: Callable[[], Any], client: Client) -> None:
        try:
            work()
        finally:
            self._busy.discard(gevent.getcurrent())
        self._idle.append(client)

    def _take(self) -> Client:
        if len(self._idle) <= _SPARES:
            self._short.set()
        return self._idle.pop() if self._idle else self._added()

    def _added(self) -> Client:
        client = self._new_client()
        self._clients.append(client)
        return client

    def _keep_spares(self) -> None:
        while True:
            self._short.wait()
            while len(self._idle) < _SPARES:
                client = self._added()
                client.open()
                self._idle.appendleft(client)  # the last to be taken
            self._short.clear()


def _allow_all_open_files() -> None:
    """One socket per request under way, and how many that becomes is up to the server."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
