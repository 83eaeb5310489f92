"""How well this process keeps time while it makes load: hub lag at 10 Hz, and CPU."""

from __future__ import annotations

import time
from array import array

import gevent
import numpy as np

_PERIOD_S = 0.1


class Health:
    """Measures how late the gevent hub wakes a timer: the delay that every timestamp of this process may carry."""

    def __init__(self) -> None:
        self._lags = array("d")
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._cpu_start = self._start = 0.0
        self._cpu_share: float | None = None
        self._told = (0, time.process_time(), time.monotonic())
        """Readings, CPU seconds and moment of the last :meth:`recent`."""

    def start(self) -> None:
        self._lags = array("d")
        self._told = (0, *self._told[1:])
        self._cpu_start, self._start = time.process_time(), time.monotonic()
        self._greenlet = gevent.spawn(self._watch)

    def stop(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None
            self._cpu_share = (time.process_time() - self._cpu_start) / (time.monotonic() - self._start)

    def _watch(self) -> None:
        due = time.monotonic() + _PERIOD_S
        while True:
            gevent.sleep(max(0.0, due - time.monotonic()))
            now = time.monotonic()
            # One reading for every moment that was missed: a stall of a second is ten late readings, not one.
            while due <= now:
                self._lags.append(now - due)
                due += _PERIOD_S

    def lag_s(self, percentile: float) -> float | None:
        """Hub lag in seconds at a percentile (0..100); None before the first reading."""
        if not self._lags:
            return None
        return float(np.percentile(self._lags, percentile, method="inverted_cdf"))

    def cpu_share(self) -> float | None:
        """CPU seconds of this process per second between :meth:`start` and :meth:`stop`."""
        return self._cpu_share

    def recent(self) -> tuple[float | None, float]:
        """Hub lag at p99 in seconds, and CPU seconds per second, since the last call; lag only once it is measured."""
        read, cpu_s, at_s = self._told
        self._told = (len(self._lags), time.process_time(), time.monotonic())
        lags = self._lags[read:]
        lag_s = float(np.percentile(lags, 99, method="inverted_cdf")) if lags else None
        return lag_s, (self._told[1] - cpu_s) / max(self._told[2] - at_s, 1e-6)
