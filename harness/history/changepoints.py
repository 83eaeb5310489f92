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
from scipy.stats import rankdata

SHORTEST = 5
"""Values on each side of a change."""
ALPHA = 0.01
"""Chance that a whole series without a change gets one, if its nights are independent."""
_NARROWER = 1 / math.sqrt(2)


def change_points(values: Sequence[float], alpha: float = ALPHA) -> list[int]:
    """Places of the first value of each new level, ascending; NaN is not allowed, infinity is."""
    series = np.asarray(values, dtype=float)
    intervals = list(_seeded(len(series)))
    found: list[int] = []
    _search(series, 0, len(series), intervals, alpha / max(1, len(intervals)), found)
    return sorted(found)


def _search(
    series: NDArray[np.float64],
    low: int,
    high: int,
    intervals: Sequence[tuple[int, int]],
    alpha: float,
    found: list[int],
) -> None:
    inside = [(a, b) for a, b in intervals if low <= a and b <= high]
    if (low, high) not in inside and high - low >= 2 * SHORTEST:
        inside.append((low, high))
    # Narrowest first, so that the first hit is the one wanted; of equals, the earliest.
    for a, b in sorted(inside, key=lambda each: (each[1] - each[0], each[0])):
        place, p_value = pettitt(series[a:b])
        if p_value < alpha:
            change = a + place
            found.append(change)
            _search(series, low, change, inside, alpha, found)
            _search(series, change, high, inside, alpha, found)
            return


def pettitt(values: NDArray[np.float64]) -> tuple[int, float]:
    """Most likely place of one change, at least ``SHORTEST`` from both ends, and its p-value (1 without room)."""
    n = len(values)
    if n < 2 * SHORTEST:
        return 0, 1.0
    before = np.arange(SHORTEST, n - SHORTEST + 1)
    u = np.abs(2 * np.cumsum(rankdata(values))[before - 1] - before * (n + 1))
    best = int(np.argmax(u))
    p_value = 2 * math.exp(-6 * float(u[best]) ** 2 / (n**3 + n**2))
    return int(before[best]), min(1.0, p_value)


def _seeded(n: int) -> Iterator[tuple[int, int]]:
    length = float(n)
    while length >= 2 * SHORTEST:
        count = 2 * math.ceil(n / length) - 1
        step = (n - length) / (count - 1) if count > 1 else 0.0
        for k in range(count):
            yield math.floor(k * step), min(n, math.ceil(k * step + length))
        length *= _NARROWER
