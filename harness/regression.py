"""Tonight against the nights before: has a figure changed by more than this cell's own noise explains?

The launch is the unit, never the request: thousands of requests of one launch share its luck (memory layout, clocks,
neighbours), so that their number says nothing of the next launch. A night is the median of its launches.

**Scale.** Latencies, rates, costs and energies are compared as logarithms, so that an effect is a ratio; shares as
they are.

**Noise**, learned from the cell's own history: for nights with independent launch luck of standard deviation ``s`` on
a level that drifts by ``d`` a night, Var(y[t+h] - y[t]) = 2 s² + h d². ``s`` follows from differences of near nights
(``NEAR_LAGS``), ``d`` from what those of far nights (``FAR_LAGS``) have more, each by Rousseeuw and Croux's Qn (J. Am.
Stat. Assoc. 88, 1993, 1273-1283), which half of the differences cannot break. Tonight minus the median of m nights, L
nights ago on average, then has the variance s² (1 + pi/(2m)) + L d² (pi/2 is the median's loss against a mean).

**Bad nights** happen without a change, so one night's noise is Student's t with ``TAIL_DEGREES`` degrees of freedom,
not normal. Two ways lead to a finding, each with half of the chance of error: tonight alone, far out; or at least two
of tonight and the ``MEMORY`` nights before it: of k independent draws that each exceed z with chance p, at least j do
with chance P(Binomial(k, p) >= j) (the distribution of an order statistic).

**Many figures**: Holm's correction over every metric of every cell, for the worse and for the better apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc, stdtr, stdtrit

from harness.errors import ExitCode
from harness.history.rows import METRICS, Cell, Row
from harness.statistics import holm

TAIL_DEGREES = 4.0
MEMORY = 2
FEWEST_NIGHTS = 8
"""Fewer say nothing of a cell's noise."""
LONGEST_MEMORY = 60
"""Nights that the noise is learned from: a cell's noise a year ago was that of another machine."""
NEAR_LAGS, FAR_LAGS = (1, 2, 3), (7, 10, 14)
RATIO_FLOOR = 0.002
"""No figure is believed to repeat better than this, whatever a short history says (0.2%)."""
SHARE_FLOOR = 0.002
"""Failures come in bursts: nights without any are no promise that one in five hundred never fails."""
_QN = 2.2219
"""Qn's factor for normal draws, 1/(sqrt(2) quantile(5/8)) (Rousseeuw and Croux)."""


class Change(StrEnum):
    REGRESSED = "REGRESSED"
    IMPROVED = "IMPROVED"
    UNCHANGED = "UNCHANGED"
    TOO_NOISY = "TOO NOISY"


@dataclass(frozen=True, slots=True)
class Limits:
    """What is worth a finding, and how often a night without a change may have one."""

    min_effect: float = 0.05
    """Ratio: 0.05 is 5%."""
    min_share: float = 0.01
    """Of a share, in absolute terms: 0.01 is one percentage point."""
    false_alarms: float = 0.01
    """At most, per night, over all metrics and cells together."""


@dataclass(frozen=True, slots=True)
class Noise:
    """In the scale of comparison: of logarithms, or of shares."""

    launch: float
    """Standard deviation from night to night without drift."""
    drift: float
    """Standard deviation of the level's step in one night."""
    nights: int

    def of_difference(self, baseline_nights: int, lag_nights: float) -> float:
        """Standard deviation of one night minus the median of a baseline that lies ``lag_nights`` back."""
        return math.sqrt(self.launch**2 * (1 + math.pi / 2 / baseline_nights) + lag_nights * self.drift**2)


@dataclass(frozen=True, slots=True)
class Night:
    """One metric of one cell in one night: the median of its launches."""

    night: int
    value: float
    launches: int
    passed: bool
    """All its launches: what "last good" looks for."""


@dataclass(frozen=True, slots=True)
class Finding:
    cell: Cell
    metric: str
    change: Change
    sentence: str
    tonight: float | None = None
    baseline: float | None = None
    effect: float | None = None
    """tonight / baseline - 1, or the difference of shares; positive is more, which may be better."""
    p_value: float | None = None
    """Of a change for the worse, before Holm's correction."""
    noise: Noise | None = None
    detectable: float | None = None
    """The change that three nights would show in half of all cases, as ``effect``."""


@dataclass(frozen=True, slots=True)
class _Test:
    cell: Cell
    metric: str
    tonight: float
    baseline: float
    effect: float
    """In the scale of comparison, positive is worse."""
    noise: Noise
    spread: float
    worse_p: float
    better_p: float


def qn(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Rousseeuw and Croux's Qn of normal draws' standard deviation; 0 for fewer than two."""
    ordered = np.asarray(values, dtype=float)
    n = len(ordered)
    if n < 2:
        return 0.0
    gaps = np.abs(ordered[:, None] - ordered[None, :])[np.triu_indices(n, 1)]
    h = n // 2 + 1
    k = h * (h - 1) // 2
    return float(_QN * np.partition(gaps, k - 1)[k - 1] * (n / (n + 1.4) if n % 2 else n / (n + 3.8)))


def noise_of(values: Sequence[float], floor: float) -> Noise:
    """Learn the noise from one value a night, oldest first, in the scale of comparison; infinite ones are left out."""
    kept = np.asarray([value for value in values if math.isfinite(value)][-LONGEST_MEMORY:], dtype=float)
    if len(kept) < FEWEST_NIGHTS:
        return Noise(launch=math.inf, drift=0.0, nights=len(kept))
    near, near_lag = _squares(kept, NEAR_LAGS)
    far, far_lag = _squares(kept, [lag for lag in FAR_LAGS if len(kept) >= 3 * lag])
    drift = max(0.0, far - near) / (far_lag - near_lag) if far_lag else 0.0
    launch = max(near - near_lag * drift, 0.0) / 2
    return Noise(launch=max(math.sqrt(launch), floor), drift=math.sqrt(drift), nights=len(kept))


def _squares(values: NDArray[np.float64], lags: Sequence[int]) -> tuple[float, float]:
    """Mean over the lags of the squared spread of differences, and the mean lag; zeros without lags."""
    if not lags:
        return 0.0, 0.0
    squares = [qn(values[lag:] - values[:-lag]) ** 2 for lag in lags]
    return sum(squares) / len(lags), sum(lags) / len(lags)


def nights_of(rows: Iterable[Row], metric: str) -> list[Night]:
    """One value a night, oldest first, of the launches that were valid and have the metric."""
    usable = sorted(
        (row for row in rows if row.verdict != "INVALID" and metric in row.values), key=lambda row: row.started_s
    )
    nights = []
    for night, of_night in groupby(usable, key=lambda row: row.night):
        launches = list(of_night)
        value = median(row.values[metric] for row in launches)
        nights.append(Night(night, value, len(launches), all(row.verdict == "PASS" for row in launches)))
    return nights


def compare(
    tonight: Sequence[Row],
    history: Mapping[Cell, Sequence[Row]],
    *,
    baseline: str = "window:14",
    named: frozenset[str] = frozenset(),
    metrics: Sequence[str] = (),
    limits: Limits = Limits(),
) -> list[Finding]:
    """Weigh every gated metric of every cell of ``tonight``, which may be of many cells and many launches of each.

    Parameters
    ----------
    history
        All rows of a cell; those of tonight, or later, are left out.
    baseline
        ``window:N``: the N nights before; ``last-good``: the last night that passed; else a named baseline.
    named
        Keys of the rows of the named baseline.
    metrics
        Names of ``METRICS``; empty: the gated ones.
    """
    names = metrics or [name for name, metric in METRICS.items() if metric.gated]
    cells = sorted({row.cell for row in tonight})
    outcomes: list[Finding | _Test] = []
    for cell in cells:
        launches = [row for row in tonight if row.cell == cell]
        if all(row.verdict == "INVALID" for row in launches):
            outcomes.append(Finding(cell, "", Change.TOO_NOISY, "no launch of tonight is valid"))
            continue
        own = {row.key for row in launches}
        before = [
            row for row in history.get(cell, ()) if row.key not in own and row.night < max(r.night for r in launches)
        ]
        outcomes.extend(found for name in names if (found := _test(cell, name, launches, before, baseline, named)))
    tests = [each for each in outcomes if isinstance(each, _Test)]
    worse = holm([test.worse_p for test in tests], limits.false_alarms)
    better = holm([test.better_p for test in tests], limits.false_alarms)
    decided = iter(zip(worse, better, strict=True))
    return [
        _finding(each, *next(decided), count=len(tests), limits=limits) if isinstance(each, _Test) else each
        for each in outcomes
    ]


def exit_code(findings: Iterable[Finding], *, strict: bool) -> ExitCode:
    """99 when anything regressed, 98 when ``strict`` and something is too noisy to say, else 0."""
    changes = {finding.change for finding in findings}
    if Change.REGRESSED in changes:
        return ExitCode.FAIL
    return ExitCode.INCONCLUSIVE if strict and Change.TOO_NOISY in changes else ExitCode.PASS


def _test(
    cell: Cell,
    name: str,
    launches: Sequence[Row],
    before: Sequence[Row],
    baseline: str,
    named: frozenset[str],
) -> Finding | _Test | None:
    metric = METRICS[name]
    now = nights_of(launches, name)
    if not now:
        return None
    tonight = now[-1]
    nights = nights_of(before, name)
    recent, old = nights[len(nights) - MEMORY :], nights[: max(0, len(nights) - MEMORY)]
    if baseline.startswith("window:"):
        chosen = old[-int(baseline.removeprefix("window:")) :]
    elif baseline == "last-good":
        chosen = [night for night in old if night.passed][-1:]
    else:
        chosen = nights_of([row for row in before if row.key in named], name)
        recent = [night for night in recent if not chosen or night.night > chosen[-1].night]
    sign = 1.0 if metric.worse == "up" else -1.0
    share = metric.unit == "share"
    level = median(night.value for night in chosen) if chosen else None
    if level is None or not math.isfinite(_scaled(level, share)):
        why = "no night to compare with" if level is None else "most requests of the baseline failed"
        return Finding(cell, name, Change.TOO_NOISY, why, tonight=tonight.value, baseline=level)
    noise = noise_of([_scaled(night.value, share) for night in nights], SHARE_FLOOR if share else RATIO_FLOOR)
    if not math.isfinite(noise.launch):
        why = f"{noise.nights} nights say nothing of this cell's noise yet; {FEWEST_NIGHTS} do"
        return Finding(cell, name, Change.TOO_NOISY, why, tonight=tonight.value, baseline=level)
    lag = tonight.night - sum(night.night for night in chosen) / len(chosen)
    spread = noise.of_difference(len(chosen), lag)
    shifts = [sign * _difference(_scaled(night.value, share), _scaled(level, share)) for night in (*recent, tonight)]
    z = [shift / spread for shift in shifts]
    return _Test(
        cell=cell,
        metric=name,
        tonight=tonight.value,
        baseline=level,
        effect=shifts[-1],
        noise=noise,
        spread=spread,
        worse_p=_p_value(z),
        better_p=_p_value([-each for each in z]),
    )


def _scaled(value: float, share: bool) -> float:
    if share:
        return value
    return math.log(value) if value > 0 else -math.inf


def _difference(value: float, level: float) -> float:
    return 0.0 if value == level else value - level


def _middle(shifts: Sequence[float]) -> float:
    """The value that at least two of two or three reach (of one: itself)."""
    return sorted(shifts)[-min(2, len(shifts))]


def _p_value(z: Sequence[float]) -> float:
    """Chance that tonight alone, or two of the recent nights, lie so far out; twice the smaller of both."""
    alone = _tail(z[-1])
    if len(z) == 1:
        return alone
    together = float(bdtrc(1, len(z), _tail(_middle(z))))
    return min(1.0, 2 * min(alone, together))


def _tail(z: float) -> float:
    return 0.0 if z == math.inf else float(stdtr(TAIL_DEGREES, -z))


def _detectable(test: _Test, count: int, limits: Limits) -> float:
    """The shift whose middle night of three reaches the first of Holm's thresholds in half of all cases."""
    alpha = limits.false_alarms / count / 2
    low, high = 0.0, 0.5
    for _ in range(60):  # 3p² - 2p³ = alpha
        p = (low + high) / 2
        low, high = (p, high) if 3 * p**2 - 2 * p**3 < alpha else (low, p)
    return float(-stdtrit(TAIL_DEGREES, low)) * test.spread


def _finding(test: _Test, worse: bool, better: bool, *, count: int, limits: Limits) -> Finding:
    metric = METRICS[test.metric]
    share = metric.unit == "share"
    least = limits.min_share if share else math.log1p(limits.min_effect)
    detectable = _detectable(test, count, limits)
    effect = _as_effect(test.effect if metric.worse == "up" else -test.effect, share)
    size = _effect_text(effect, share)
    seen = _effect_text(_as_effect(detectable, share), share).lstrip("+")
    if worse and test.effect >= least:
        change, sentence = Change.REGRESSED, f"{size} against the baseline, more than its noise explains"
    elif better and -test.effect >= least:
        change, sentence = Change.IMPROVED, f"{size} against the baseline, more than its noise explains"
    elif detectable > 2 * least:
        change = Change.TOO_NOISY
        sentence = f"{size} against the baseline, but only a change of {seen} or more would be seen"
    else:
        change, sentence = Change.UNCHANGED, f"{size} against the baseline; a lasting change of {seen} would be seen"
    return Finding(
        cell=test.cell,
        metric=test.metric,
        change=change,
        sentence=sentence,
        tonight=test.tonight,
        baseline=test.baseline,
        effect=effect,
        p_value=test.worse_p,
        noise=test.noise,
        detectable=_as_effect(detectable, share),
    )


def _as_effect(shift: float, share: bool) -> float:
    """From the scale of comparison to a ratio minus one; beyond a factor of e^50 it is infinite."""
    if share:
        return shift
    return math.expm1(shift) if shift < 50 else math.inf


def _effect_text(effect: float, share: bool) -> str:
    if math.isinf(effect):
        return "without bound"
    return f"{effect * 100:+.1f} points" if share else f"{effect:+.1%}"
