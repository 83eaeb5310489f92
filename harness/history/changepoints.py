"""Where a series of nightly figures moved to another level, for the eye; the gate is :mod:`harness.regression`.

The test is Pettitt's (Applied Statistics 28, 1979, 126-135): with r[i] the ranks of n values and
U[t] = 2 (r[1] + ... + r[t]) - t (n + 1), a level that changed once makes max|U| large, and
P(max|U| >= k) is about 2 exp(-6 k² / (n³ + n²)). Ranks make single bad nights harmless and infinite latencies ordinary.
Several changes, also up and down again, are found by Kovács, Li, Bühlmann and Munk's seeded binary segmentation
(Biometrika 110, 2023, 249-256): the test is made on intervals of every length, each shifted by half of itself; of those
that are significant after Bonferroni's correction, the narrowest has one change only (Baranowski, Chen and Fryzlewicz,
J. R. Stat. Soc. B 81, 2019, 649-672), and both sides of it are searched again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

SHORTEST = 5
"""Values on each side of a change."""
ALPHA = 0.01
"""Chance that a whole series without a change gets one, if its nights are independent."""
_NARROWER = 1 / math.sqrt(2)

Tested = tuple[int, int, int, float]
"""An interval from and to, the place of its change within it, and the p-value."""


def change_points(values: Sequence[float], alpha: float = ALPHA) -> list[int]:
    """Places of the first value of each new level, ascending; NaN is not allowed, infinity is."""
    series = np.asarray(values, dtype=float)
    intervals = set(_seeded(len(series)))
    # Narrowest first, so that the first hit is the one wanted; of equals, the earliest.
    ordered = sorted(intervals, key=lambda each: (each[1] - each[0], each[0]))
    tested = [(low, high, *pettitt(series[low:high])) for low, high in ordered]
    found: list[int] = []
    _search(series, 0, len(series), tested, alpha / max(1, len(intervals)), found)
    return _refined(series, sorted(found))


def _search(
    series: NDArray[np.float64], low: int, high: int, tested: Sequence[Tested], alpha: float, found: list[int]
) -> None:
    inside = [each for each in tested if low <= each[0] and each[1] <= high]
    for a, _, place, p_value in (*inside, (low, high, *pettitt(series[low:high]))):
        if p_value < alpha:
            change = a + place
            found.append(change)
            _search(series, low, change, inside, alpha, found)
            _search(series, change, high, inside, alpha, found)
            return


def _refined(series: NDArray[np.float64], places: list[int]) -> list[int]:
    """Place each change again by all values between its neighbours, by the largest Mann-Whitney statistic.

    A narrow interval places a change roughly, and max|U| leans to the middle: the variance of U[t] is largest there, in
    proportion to t (n - t).
    """
    edges = [0, *places, len(series)]
    for k in range(1, len(edges) - 1):
        values = series[edges[k - 1] : edges[k + 1]]
        before, u = _rank_sums(values)
        edges[k] = edges[k - 1] + int(before[np.argmax(u / np.sqrt(before * (len(values) - before)))])
    return edges[1:-1]


def pettitt(values: NDArray[np.float64]) -> tuple[int, float]:
    """Most likely place of one change, at least ``SHORTEST`` from both ends, and its p-value (1 without room)."""
    n = len(values)
    if n < 2 * SHORTEST:
        return 0, 1.0
    before, u = _rank_sums(values)
    best = int(np.argmax(u))
    p_value = 2 * math.exp(-6 * float(u[best]) ** 2 / (n**3 + n**2))
    return int(before[best]), min(1.0, p_value)


def _rank_sums(values: NDArray[np.float64]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Every t with room on both sides, and its |U[t]|."""
    before = np.arange(SHORTEST, len(values) - SHORTEST + 1)
    ordered = np.sort(values)
    # Equal values share the mean of their ranks.
    twice_ranks = ordered.searchsorted(values, "left") + ordered.searchsorted(values, "right") + 1
    return before, np.abs(np.cumsum(twice_ranks)[before - 1] - before * (len(values) + 1))


def _seeded(n: int) -> Iterator[tuple[int, int]]:
    length = float(n)
    while length >= 2 * SHORTEST:
        count = 2 * math.ceil(n / length) - 1
        step = (n - length) / (count - 1) if count > 1 else 0.0
        for k in range(count):
            yield math.floor(k * step), min(n, math.ceil(k * step + length))
        length *= _NARROWER
