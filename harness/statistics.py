"""Exact one-sided bounds of a binomial rate, the sample sizes they need, Holm's correction, Student's t.

Counts are real numbers: what requests are worth as independent ones (:mod:`harness.effective`), ``share`` of what was
counted. A rate's p-value and its Clopper-Pearson bound agree: the bound at confidence 1 - alpha
reaches a rate exactly when the p-value at that rate is alpha. PASS takes p <= alpha (the upper bound is at most
the allowed rate), FAIL p < alpha (the lower bound is above it).

Only ``scipy.special`` is imported: ``scipy.stats`` takes a second to load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction

from scipy.special import betainc, betaincinv, stdtr, stdtrit

REASONABLE_FACTOR = 100
"""When more than this many times the samples seen would be needed, a rate is called "at the limit"."""


def alpha_of(confidence: float) -> float:
    """The chance of a wrong verdict; rounded, because 1 - 0.95 is a little more than 0.05 in binary."""
    return round(1.0 - confidence, 12)


def p_value_fail(violations: float, samples: float, allowed: float) -> float:
    """Chance of at least this many violations when the true rate is ``allowed``; small: the rate is above it."""
    if violations <= 0:
        return 1.0
    if violations > samples:
        return 0.0
    return float(betainc(violations, samples - violations + 1, allowed))


def p_value_pass(violations: float, samples: float, allowed: float) -> float:
    """Chance of at most this many violations when the true rate is ``allowed``; small: the rate is below it."""
    if violations >= samples:
        return 1.0
    return float(betainc(samples - violations, violations + 1, 1.0 - allowed))


def rate_lower(violations: float, samples: float, confidence: float) -> float:
    """One-sided Clopper-Pearson lower bound of the violation rate."""
    if violations <= 0:
        return 0.0
    return float(betaincinv(violations, samples - violations + 1, alpha_of(confidence)))


def rate_upper(violations: float, samples: float, confidence: float) -> float:
    """One-sided Clopper-Pearson upper bound of the violation rate; 1 without samples."""
    if violations >= samples:
        return 1.0
    return float(betaincinv(violations + 1, samples - violations, confidence))


def required_samples(violations: int, allowed: float, confidence: float) -> int:
    """The fewest samples that PASS with this many violations (p95 at 95%: 59 with none, 93 with one)."""
    alpha = alpha_of(confidence)
    return _first(lambda n: p_value_pass(violations, n, allowed) <= alpha, violations + 1)


def more_samples(
    violations: int, samples: int, allowed: float, *, pass_alpha: float, fail_alpha: float, share: float = 1.0
) -> tuple[int | None, bool]:
    """How many more samples, each worth ``share``, would decide at the rate seen, and whether the rate is at the limit.

    Returns ``(None, True)`` when no reasonable number would: the true rate cannot be told from ``allowed``.
    """
    if samples == 0:
        return required_samples(0, allowed, 1.0 - pass_alpha), False
    rate = Fraction(violations, samples)

    def decides(n: int) -> bool:
        if rate < allowed:
            return p_value_pass(share * math.ceil(rate * n), share * n, allowed) <= pass_alpha
        return p_value_fail(share * math.floor(rate * n), share * n, allowed) < fail_alpha

    cap = samples * REASONABLE_FACTOR if violations else max(samples * REASONABLE_FACTOR, 100_000)
    if rate == allowed or not decides(cap):
        return None, True
    return _first(decides, samples + 1) - samples, False


def nearest_rank(samples: int, percentile: Decimal | int | str) -> int:
    """Rank (from 1) of a percentile's order statistic: ceil(p n / 100), in integers.

    The value at that rank keeps a limit exactly when at most floor((1 - p) n) samples violate it.
    """
    return max(1, math.ceil(Fraction(percentile) * samples / 100))


def rank_bounds(samples: int, allowed: float, confidence: float, share: float = 1.0) -> tuple[int | None, int | None]:
    """Ranks whose order statistics bound a percentile from below and above, each at ``confidence``.

    Each sample is worth ``share`` of an independent one.

    They mirror the verdict: the upper one keeps a limit exactly when the check PASSes, the lower one
    breaks it exactly when the check, alone, FAILs. None where there are too few samples for a bound.
    """
    alpha = alpha_of(confidence)
    low = high = None
    worth = share * samples
    if samples and p_value_pass(0, worth, allowed) <= alpha:
        most = _first(lambda v: p_value_pass(share * v, worth, allowed) > alpha, 0) - 1
        high = samples - most
    if samples and p_value_fail(worth, worth, allowed) < alpha:
        least = _first(lambda v: p_value_fail(share * v, worth, allowed) < alpha, 0)
        low = samples - least + 1
    return low, high


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses are rejected, with the chance of any wrong rejection at most ``alpha`` (Holm, 1979)."""
    rejected = [False] * len(p_values)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for place, index in enumerate(order):
        if p_values[index] >= alpha / (len(p_values) - place):
            break
        rejected[index] = True
    return rejected


def t_cdf(statistic: float, degrees: float) -> float:
    """Student's t: chance of a value at or below ``statistic``."""
    return float(stdtr(degrees, statistic))


def t_quantile(confidence: float, degrees: float) -> float:
    return float(stdtrit(degrees, confidence))


def _first(holds: Callable[[int], bool], start: int) -> int:
    """The smallest integer from ``start`` at which ``holds``, by doubling and bisection.

    For a predicate that is not quite monotone (counts are whole numbers) the result holds, and lies near
    the smallest. The caller sees to it that there is one.
    """
    if holds(start):
        return start
    below, step = start, 1
    while not holds(below + step):
        below += step
        step *= 2
    above = below + step
    while above - below > 1:
        middle = (below + above) // 2
        if holds(middle):
            above = middle
        else:
            below = middle
    return above
