"""Energy from power readings or from a counter, over a window that rarely begins or ends on a reading."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

LARGEST_GAP_S = 5.0
"""Between two readings, or a reading and the window's edge: beyond it, what happened in between is unknown."""


def integrated_j(times_s: FloatArray, watts: FloatArray, low_s: float, high_s: float) -> float | None:
    """Integrate power over [low, high] by trapezoids, its value at an edge interpolated; joules.

    A window may begin or end up to :data:`LARGEST_GAP_S` outside the readings; power is taken as constant there.
    None where the readings do not cover the window.
    """
    if not _covered(times_s, low_s, high_s):
        return None
    inside = (times_s > low_s) & (times_s < high_s)
    at = np.concatenate(([low_s], times_s[inside], [high_s]))
    return float(np.trapezoid(np.interp(at, times_s, watts), at))


def counted_j(times_s: FloatArray, joules: FloatArray, low_s: float, high_s: float) -> float | None:
    """Difference of a counter between the window's ends, interpolated there; joules.

    Beyond its first or last reading it is extended at the slope beside it, for up to :data:`LARGEST_GAP_S`. None where
    the readings do not cover the window, or the counter ran backwards (the driver was loaded anew).
    """
    if len(times_s) < 2 or not _covered(times_s, low_s, high_s) or (np.diff(joules) < 0).any():
        return None
    return _at(times_s, joules, high_s) - _at(times_s, joules, low_s)


def _at(times_s: FloatArray, values: FloatArray, moment_s: float) -> float:
    if moment_s < times_s[0]:
        first, second = 0, 1
    elif moment_s > times_s[-1]:
        first, second = -2, -1
    else:
        return float(np.interp(moment_s, times_s, values))
    slope = (values[second] - values[first]) / (times_s[second] - times_s[first])
    return float(values[first] + slope * (moment_s - times_s[first]))


def _covered(times_s: FloatArray, low_s: float, high_s: float) -> bool:
    if not len(times_s) or not high_s > low_s:
        return False
    first, last = np.searchsorted(times_s, low_s, side="right") - 1, np.searchsorted(times_s, high_s)
    seen = times_s[max(first, 0) : last + 1]
    if not len(seen):
        return False
    gaps = np.diff(np.concatenate(([min(low_s, seen[0])], seen, [max(high_s, seen[-1])])))
    return bool((gaps <= LARGEST_GAP_S).all())
