"""Whether a run was one state: where its warm-up ended, and whether it went on changing.

*Warm-up.* The profile's is the least. MSER-5 (White, 1997) proposes where steady state begins: the cut that makes the
mean of what is left most certain, over means of five requests in the order of issue. On steady data it proposes cuts
too, and they would drop slow spells that belong to the result; so a cut is made only where what it drops differs by
more than :data:`CERTAIN` standard errors from the rest, taken from the rest's own blocks. What changes later than
:data:`LONGEST_WARM_UP` is no warm-up, and a failed request is never dropped.

*Drift* is judged by its effect: by what the window's second half would be judged, had it been the whole run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.effective import BLOCKS, block_of, effective
from harness.evidence import Terms
from harness.judgement import CheckResult, Verdict
from harness.metrics import BoolArray, FloatArray, Judged, Observed, Requests, Window, observe
from harness.objective import Objective
from harness.sla import evaluate
from harness.statistics import nearest_rank, rank_bounds

LONGEST_WARM_UP = 1 / 3
"""Of the window that the profile leaves: a run that settles later is judged as it is, and may have drifted."""
CERTAIN = 5.0
BATCH = 5
FEWEST = 200
"""Requests below which no warm-up is looked for."""
DRIFT_GROWTH = 1.2
"""A second half whose median is this many times the first's is not one state to be judged."""


def warm_up_end_s(requests: Requests, window: Window) -> float:
    """When steady state begins, at least ``window.low_s``; seconds after the run clock's zero."""
    inside = (requests.issued_s >= window.low_s) & (requests.issued_s <= window.high_s)
    rows = np.flatnonzero(inside & requests.ok & np.isfinite(requests.values["e2e"]))
    rows = rows[np.lexsort((requests.values["e2e"][rows], requests.issued_s[rows]))]
    if len(rows) < FEWEST:
        return window.low_s
    issued_s, e2e_s = requests.issued_s[rows], requests.values["e2e"][rows]
    latest_s = window.low_s + LONGEST_WARM_UP * window.length_s
    failures = requests.issued_s[inside & requests.failed]
    if failures.size:
        latest_s = min(latest_s, float(failures.min()))
    cut = BATCH * mser(e2e_s[: len(rows) // BATCH * BATCH].reshape(-1, BATCH).mean(axis=1))
    if cut == 0 or issued_s[cut] > latest_s or not _differs(issued_s, e2e_s, cut, window):
        return window.low_s
    # what was dropped must also have left the server: judged is what was in flight when the warm-up ended
    end_s = max(float(issued_s[cut]), float(requests.end_s[rows[:cut]].max()))
    return end_s if end_s <= latest_s else window.low_s


def mser(means: FloatArray) -> int:
    """How many leading means to drop: the d with the least sum of squares of the rest, over its count squared.

    The second half is not searched: there the statistic is erratic (White, 1997).
    """
    count = len(means)
    if count < 2:
        return 0
    kept = count - np.arange(count)
    total = np.cumsum(means[::-1])[::-1]
    squares = np.cumsum((means**2)[::-1])[::-1]
    spread = np.maximum(squares - total**2 / kept, 0.0) / kept**2
    return int(np.argmin(spread[: count // 2 + 1]))


def _differs(issued_s: FloatArray, values: FloatArray, cut: int, window: Window) -> bool:
    rest = Window(float(issued_s[cut]), window.high_s)
    block = block_of(issued_s[cut:], rest)
    size = np.bincount(block, minlength=BLOCKS)
    means = np.bincount(block, values[cut:], BLOCKS)[size > 0] / size[size > 0]
    dropped_blocks = max((issued_s[cut] - window.low_s) / (rest.length_s / BLOCKS), 1e-9) if rest.length_s else 1e-9
    error = float(means.std(ddof=1)) * np.sqrt(1 / min(dropped_blocks, len(means)) + 1 / len(means))
    return bool(abs(values[:cut].mean() - values[cut:].mean()) > CERTAIN * error)


@dataclass(frozen=True, slots=True)
class Drift:
    """``breaks``: the server's growth broke a check. ``moves``: it grew, and broke nothing yet. Empty: neither."""

    breaks: str = ""
    moves: str = ""


def drift(objectives: Sequence[Objective], judged: Judged, terms: Terms, checks: Sequence[CheckResult]) -> Drift:
    """Compare the window's halves.

    Growth FAILs where the second half alone, at half the level, breaks a check that the first does not. Where it breaks
    none, a median E2E that grew for certain by a factor of :data:`DRIFT_GROWTH` keeps the run from being one state.
    """
    if judged.window is None or any(check.verdict is Verdict.FAIL for check in checks):
        return Drift()
    window, issued_s = judged.window, judged.requests.issued_s
    middle = (window.low_s + window.high_s) / 2
    first = _part(judged, issued_s <= middle, Window(window.low_s, middle))
    second = _part(judged, issued_s > middle, Window(middle, window.high_s))
    halved = replace(terms, looks=2 * terms.looks)
    mine = [each for each in objectives if each.is_latency or each.metric == "error_rate"]
    for objective, early, late in zip(mine, evaluate(mine, first, terms), evaluate(mine, second, halved), strict=True):
        if late.verdict is Verdict.FAIL and early.verdict is not Verdict.FAIL and _grew(early, late):
            return Drift(
                breaks=f"{objective.text} is kept in the first half of the judged window and broken in the second:"
                f" {late.reason}; a longer run would see more"
            )
    return Drift(moves=_median_growth(first, second))


def _part(judged: Judged, rows: BoolArray, window: Window) -> Judged:
    """Without what was worked out for the whole."""
    return replace(judged, rows=judged.rows & rows, window=window, _observed={}, worth={})


def _grew(early: CheckResult, late: CheckResult) -> bool:
    if early.violations is None or late.violations is None or not early.samples or not late.samples:
        return False
    return late.violations / late.samples > early.violations / early.samples


def _median_growth(first: Judged, second: Judged) -> str:
    before, after = _median(first), _median(second)
    if before is None or after is None:
        return ""
    (before_s, _, highest_s), (after_s, lowest_s, _) = before, after
    if lowest_s is None or highest_s is None or lowest_s <= highest_s or after_s <= DRIFT_GROWTH * before_s:
        return ""
    return (
        f"drift: the median e2e grew from {before_s:.3g} s in the first half to {after_s:.3g} s in the second,"
        " so a longer run would see more"
    )


def _median(half: Judged) -> tuple[float, float | None, float | None] | None:
    """Median and its bounds, at 95% each."""
    requests, window = half.requests, half.window
    seen: Observed = observe(requests, half.rows, "e2e")
    if not seen.known or window is None:
        return None
    rows = half.rows & ~requests.unfinished
    values = requests.values["e2e"][rows]
    middle = seen.at_rank(nearest_rank(seen.known, 50))
    worth = effective(requests.issued_s[rows], values >= middle, values, middle, 0.5, window)
    low, high = rank_bounds(seen.known, 0.5, 0.95, worth.share)
    return middle, None if low is None else seen.at_rank(low), None if high is None else seen.at_rank(high)
