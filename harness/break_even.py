"""From which volume own machines cost less than an API: a step function against a straight line.

An API costs c dollars a query. Own machines cost M dollars a month each, idle or not, and each answers Q queries a
month at most, so v queries cost (ceil(v / Q) + spare) M. Within a step of k machines they become the cheaper ones at
v = (k + spare) M / c, and the next step can make them the dearer ones again, until k is large enough: a machine more is
worth its price once (k + spare) M / c <= (k - 1) Q. If M / c >= Q, not even a full machine is worth it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count

MOST_STEPS = 1000
"""Machines beyond which crossings are no longer listed: they lie within a thousandth of each other."""


@dataclass(frozen=True, slots=True)
class Span:
    """Volumes, in queries a month, at which ``machines`` or fewer cost less than the API; ``high`` inf: for good."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class BreakEven:
    usd_per_query: float
    """Of the API."""
    usd_per_month: float
    """Of one machine."""
    queries_per_month: float
    """That one machine can answer."""
    cheaper: tuple[Span, ...]
    """Where own machines cost less, in order: each end is a crossing."""
    spare: int = 0

    @property
    def first(self) -> float | None:
        """The least volume at which own machines cost less; None: at none."""
        return self.cheaper[0].low if self.cheaper else None

    @property
    def for_good(self) -> float | None:
        """The volume beyond which they always do."""
        return self.cheaper[-1].low if self.cheaper and math.isinf(self.cheaper[-1].high) else None

    def own_usd(self, queries: float) -> float:
        """A month of so many queries on own machines, at least one."""
        return own_usd(max(queries, 1), self.queries_per_month, self.usd_per_month, self.spare)


def own_usd(queries: float, queries_per_month: float, usd_per_month: float, spare: int = 0) -> float:
    """A month of so many queries on own machines, the spare ones paid for too."""
    return (math.ceil(queries / queries_per_month) + spare) * usd_per_month


def break_even(usd_per_query: float, usd_per_month: float, queries_per_month: float, spare: int = 0) -> BreakEven:
    """Every volume at which the cheaper one changes.

    Raises
    ------
    ValueError
        When a price or a capacity is not above 0.
    """
    if min(usd_per_query, usd_per_month, queries_per_month) <= 0:
        raise ValueError("a break-even needs prices and a capacity above 0")
    worth = usd_per_month / usd_per_query
    spans: list[Span] = []
    low: float | None = None
    for machines in count(1) if worth < queries_per_month else ():
        start, end = (machines + spare) * worth, machines * queries_per_month
        if low is None and start < end:
            low = start
        if low is None:
            continue
        if (machines + 1) * worth + spare * worth <= end or len(spans) + 1 >= MOST_STEPS:
            # Where the next machine is worth its money at once, a further one takes off the more.
            spans.append(Span(low, math.inf))
            break
        spans.append(Span(low, end))
        low = None
    return BreakEven(usd_per_query, usd_per_month, queries_per_month, tuple(spans), spare)
