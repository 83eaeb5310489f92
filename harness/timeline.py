"""The run over time in equal bins, and the curves a report draws."""

from __future__ import annotations

import math

import numpy as np

from harness.judgement import Curve, TimelinePoint
from harness.metrics import BoolArray, FloatArray, IntArray, Observed, Requests

BINS = 60
CURVE_POINTS = 200


def timeline(requests: Requests, stopped_s: float | None = None, *, streamed: bool = True) -> tuple[TimelinePoint, ...]:
    """About 60 bins from the first request (spawning included) to the last end.

    Latencies are medians and p95 of the ``ok`` requests *sent* in a bin, so that a slow answer shows where it
    began. A user is counted from its first request to its last end, and on to ``stopped_s`` (when load
    stopped) if it had merely been thinking for no longer than it or others did before.
    """
    placed = ~np.isnan(requests.begin_s) & ~np.isnan(requests.end_s)
    if not placed.any():
        return ()
    begin, end = requests.begin_s[placed], np.maximum(requests.end_s, requests.begin_s)[placed]
    edges = _edges(float(begin.min()), float(end.max()))
    width = edges[1] - edges[0]
    finished = ~requests.unfinished[placed]
    ok = requests.ok[placed]
    sent = _histogram(begin, edges)
    completed = _histogram(end[finished & ok], edges)
    failed = _histogram(end[finished & ~ok], edges)
    busy = (_elapsed(begin, edges) - _elapsed(end, edges)) / width
    ups, downs = _lifetimes(requests.user[placed], begin, end, stopped_s)
    middles = (edges[:-1] + edges[1:]) / 2
    users = np.searchsorted(ups, middles, side="right") - np.searchsorted(downs, middles, side="left")
    ttft = _by_bin(requests.values["ttft"][placed], begin, ok, edges)
    e2e = _by_bin(requests.values["e2e"][placed], begin, ok, edges)
    return tuple(
        TimelinePoint(
            t_s=float(edges[i]),
            users=int(users[i]),
            in_flight=max(0.0, float(busy[i])),
            sent=int(sent[i]),
            completed=int(completed[i]),
            failed=int(failed[i]),
            ttft_p50_s=_percentile(ttft[i], 50) if streamed else None,
            e2e_p50_s=_percentile(e2e[i], 50),
            e2e_p95_s=_percentile(e2e[i], 95),
        )
        for i in range(len(edges) - 1)
    )


def curve(metric: str, observed: Observed) -> Curve:
    """ECDF over the known values, thinned to 200 points; failures never get there, so it may end below 1.

    Times are to the microsecond and shares to a millionth: a drawing needs no more, and a report carries them all.
    """
    count = len(observed.values)
    ranks = sorted({int(rank) for rank in np.linspace(1, count, min(count, CURVE_POINTS)).round()})
    return Curve(
        metric=metric,
        x_s=tuple(round(observed.at_rank(rank), 6) for rank in ranks),
        share=tuple(round(rank / observed.known, 6) for rank in ranks),
    )


def _edges(start: float, stop: float) -> FloatArray:
    """Edges of bins of a round width, at most a few more than 60, aligned to the run clock's zero."""
    span = max(stop - start, 1e-3)
    width = span / BINS
    scale = 10.0 ** math.floor(math.log10(width))
    width = next(scale * step for step in (1, 2, 2.5, 5, 10) if scale * step >= width * 0.999)
    low, high = math.floor(start / width), math.floor(stop / width) + 1
    return np.arange(low, high + 1, dtype=np.float64) * width


def _histogram(times: FloatArray, edges: FloatArray) -> FloatArray:
    return np.asarray(np.histogram(times, edges)[0], dtype=np.float64)


def _elapsed(times: FloatArray, edges: FloatArray) -> FloatArray:
    """Per bin: seconds of the bin that lie after each time, summed over the times."""
    ordered = np.sort(times)
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    passed = np.searchsorted(ordered, edges, side="right")
    return np.asarray(np.diff(passed * edges - sums[passed]), dtype=np.float64)


def _lifetimes(
    user: IntArray, begin: FloatArray, end: FloatArray, stopped_s: float | None
) -> tuple[FloatArray, FloatArray]:
    """Sorted first and last moments of the users."""
    count = int(user.max()) + 1
    up, down = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(up, user, begin)
    np.maximum.at(down, user, end)
    seen = up < np.inf
    up, down = up[seen], down[seen]
    if stopped_s is not None:
        order = np.lexsort((begin, user))
        pause = (begin[order][1:] - end[order][:-1])[user[order][1:] == user[order][:-1]]
        longest = float(pause.max()) if pause.size else 0.0
        down = np.where(down + longest >= stopped_s, np.maximum(down, stopped_s), down)
    return np.sort(up), np.sort(down)


def _by_bin(values: FloatArray, begin: FloatArray, ok: BoolArray, edges: FloatArray) -> list[FloatArray]:
    usable = ok & np.isfinite(values)
    order = np.argsort(begin[usable], kind="stable")
    cuts = np.searchsorted(begin[usable][order], edges[1:-1], side="left")
    return list(np.split(values[usable][order], cuts))


def _percentile(values: FloatArray, percent: int) -> float | None:
    """Nearest rank, as everywhere."""
    if not len(values):
        return None
    rank = max(1, -(-percent * len(values) // 100))
    return float(np.partition(values, rank - 1)[rank - 1])
