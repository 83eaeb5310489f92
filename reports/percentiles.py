"""Percentiles of each metric as a table; an infinite one is a failed request's."""

from __future__ import annotations

from collections.abc import Sequence

from harness.judgement import Distribution
from reports import figures
from reports.parts import Column, Item, Table

PERCENTILES = ("p50", "p90", "p95", "p99", "p999", "max")


def table(
    distributions: Sequence[Distribution],
    caption: str = "Percentiles of the judged requests; a failed request counts as infinitely slow",
) -> Table | None:
    if not distributions:
        return None
    columns = (
        Column("Metric"),
        Column("Requests", number=True),
        Column("Failed", number=True),
        Column("Mean of ok", number=True),
        *(Column(figures.percentile_name(name), number=True) for name in PERCENTILES),
    )
    rows = tuple(
        (
            Item(figures.metric_name(spread.metric)),
            Item(figures.count(spread.samples), number=True),
            Item(figures.count(spread.failures), number=True),
            Item(figures.seconds(spread.mean_ok), number=True),
            *(_time(getattr(spread, name)) for name in PERCENTILES),
        )
        for spread in distributions
    )
    return Table(caption, columns, rows)


def _time(value: float | None) -> Item:
    """In a narrow column, whose caption says what an infinite time is."""
    return Item(figures.seconds(value).partition(" (")[0], number=True)
