"""What the judged requests of a run are worth to one check (:mod:`harness.effective`), each worked out once."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from harness.effective import (
    Effective,
    effective,
    effective_errors,
    effective_mean,
    effective_ratio,
    effective_share,
    independent,
    shares,
)
from harness.metrics import BoolArray, FloatArray, IntArray, Judged, gaps_beyond, mean_gap
from harness.objective import Objective


def takes_limit(objective: Objective) -> bool:
    """Whether a value exactly at an upper limit still keeps it."""
    return objective.comparison == "<="


def violates(objective: Objective, values: FloatArray) -> BoolArray:
    """NaN, an undefined value, violates nothing."""
    return np.asarray(values > objective.limit if takes_limit(objective) else values >= objective.limit)


def latency_worth(objective: Objective, judged: Judged) -> Effective:
    """Of a percentile check. An unfinished request takes part once it breaks the limit."""
    find = _gaps if objective.metric == "itl" else _requests
    return _once(judged, (objective.metric, objective.limit, objective.allowed_rate), lambda: find(objective, judged))


def error_worth(judged: Judged) -> Effective:
    def find() -> Effective:
        rows = judged.rows & ~judged.requests.unfinished
        if judged.window is None:
            return independent(int(rows.sum()))
        return effective_errors(judged.requests.issued_s[rows], judged.requests.failed[rows], judged.window)

    return _once(judged, ("error_rate",), find)


def mean_worth(objective: Objective, judged: Judged) -> Effective:
    """Of a mean of finite values; those of ITL are each request's own mean gap, and its gaps count as one."""

    def find() -> Effective:
        requests, rows = judged.requests, judged.rows
        gaps = objective.metric == "itl"
        values = mean_gap(requests) if gaps else requests.values[objective.metric]
        rows = rows & np.isfinite(values)
        count = int(rows.sum())
        if judged.window is None or count == 0:
            return independent(count)
        return effective_mean(requests.issued_s[rows], values[rows], judged.window)

    return _once(judged, ("mean", objective.metric), find)


def rate_worth(judged: Judged, counted: BoolArray, rows: BoolArray) -> Effective:
    """Of the share of ``rows`` that count for a rate."""
    if judged.window is None:
        return independent(int(rows.sum()))
    values = judged.requests.values["e2e"][rows]
    return effective_share(judged.requests.issued_s[rows], counted[rows], values, judged.window)


def _once(judged: Judged, key: tuple[object, ...], find: Callable[[], Effective]) -> Effective:
    if key not in judged.worth:
        judged.worth[key] = find()
    found = judged.worth[key]
    assert isinstance(found, Effective)
    return found


def _requests(objective: Objective, judged: Judged) -> Effective:
    requests, allowed = judged.requests, objective.allowed_rate
    assert allowed is not None
    values = requests.values[objective.metric]
    breaks = violates(objective, values)
    rows = judged.rows & ~np.isnan(values) & (breaks | ~requests.unfinished)
    # The age of what was not over falls with the time of issue, which would look like correlation.
    values = np.where(requests.unfinished, math.inf, values)
    if judged.window is None:
        return independent(int(rows.sum()))
    return effective(requests.issued_s[rows], breaks[rows], values[rows], objective.limit, allowed, judged.window)


def _gaps(objective: Objective, judged: Judged) -> Effective:
    """A failed request has one violating gap for each that the answer asked for would have had."""
    requests, observed, allowed = judged.requests, judged.observe("itl"), objective.allowed_rate
    assert allowed is not None
    beyond, sizes = gaps_beyond(requests, objective.limit, inclusive=takes_limit(objective))
    sizes = np.where(requests.failed, requests.expected_gaps, sizes)
    rows = judged.rows & (sizes > 0)
    if judged.window is None or observed.known == 0:
        return independent(observed.known)

    def of_failed(counted: IntArray) -> IntArray:
        return np.where(requests.failed, requests.expected_gaps, counted)[rows]

    counted = [of_failed(beyond)]
    for share in shares(allowed):
        level = observed.at_rank(observed.known + 1 - math.ceil(share * observed.known))
        if math.isfinite(level):
            counted.append(of_failed(gaps_beyond(requests, level, inclusive=False)[0]))
    values = np.where(requests.failed, math.inf, mean_gap(requests))[rows]
    return effective_ratio(requests.issued_s[rows], counted, sizes[rows], values, allowed, judged.window)
