"""Which choices are worth a look: those that none other beats in everything."""

from __future__ import annotations

from collections.abc import Sequence


def frontier(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Indices of the points on the Pareto frontier where less is better in both, by the first value, then the second.

    A point is off it when another is at most as large in both values and less in one. Equal points are all on it.
    """
    order = sorted(range(len(points)), key=lambda index: points[index])
    found: list[int] = []
    for index in order:
        if not found or points[index][1] < points[found[-1]][1] or points[index] == points[found[-1]]:
            found.append(index)
    return tuple(found)
