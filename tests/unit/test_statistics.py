"""Binomial bounds against published tables and against their own definitions."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from harness.statistics import (
    alpha_of,
    holm,
    more_samples,
    nearest_rank,
    p_value_fail,
    p_value_pass,
    rank_bounds,
    rate_lower,
    rate_upper,
    required_samples,
    t_cdf,
    t_quantile,
)

VIOLATIONS = (0, 1, 2, 5, 10)
TABLE = {
    ("90", 0.95): (29, 46, 61, 103, 167),
    ("90", 0.99): (44, 64, 81, 127, 197),
    ("95", 0.95): (59, 93, 124, 208, 336),
    ("95", 0.99): (90, 130, 165, 259, 398),
    ("99", 0.95): (299, 473, 628, 1049, 1693),
    ("99", 0.99): (459, 662, 838, 1307, 2010),
}
"""The fewest samples by which 'p of requests keep the limit' can be stated, with so many violations seen."""


@pytest.mark.parametrize(
    ("percentile", "confidence", "violations", "samples"),
    [
        (percentile, confidence, violations, samples)
        for (percentile, confidence), row in TABLE.items()
        for violations, samples in zip(VIOLATIONS, row, strict=True)
    ],
)
def test_required_samples(percentile: str, confidence: float, violations: int, samples: int) -> None:
    allowed = float((100 - Decimal(percentile)) / 100)
    assert required_samples(violations, allowed, confidence) == samples
    assert rate_upper(violations, samples, confidence) <= allowed
    assert rate_upper(violations, samples - 1, confidence) > allowed


@given(st.integers(1, 5000), st.data(), st.sampled_from([0.9, 0.95, 0.99]))
def test_bounds_are_those_of_clopper_and_pearson(samples: int, data: st.DataObject, confidence: float) -> None:
    violations = data.draw(st.integers(0, samples))
    upper = binomtest(violations, samples, alternative="less").proportion_ci(confidence, "exact").high
    lower = binomtest(violations, samples, alternative="greater").proportion_ci(confidence, "exact").low
    assert rate_upper(violations, samples, confidence) == pytest.approx(upper, abs=1e-12)
    assert rate_lower(violations, samples, confidence) == pytest.approx(lower, abs=1e-12)


@given(st.integers(1, 5000), st.data(), st.floats(0.001, 0.5))
def test_p_values_agree_with_bounds(samples: int, data: st.DataObject, allowed: float) -> None:
    violations = data.draw(st.integers(0, samples))
    upper, lower = rate_upper(violations, samples, 0.95), rate_lower(violations, samples, 0.95)
    if abs(upper - allowed) > 1e-9:
        assert (upper < allowed) == (p_value_pass(violations, samples, allowed) < 0.05)
    if abs(lower - allowed) > 1e-9:
        assert (lower > allowed) == (p_value_fail(violations, samples, allowed) < 0.05)


@given(st.integers(1, 3000), st.data(), st.floats(0.001, 0.5))
def test_more_violations_speak_against_and_never_for(samples: int, data: st.DataObject, allowed: float) -> None:
    violations = data.draw(st.integers(0, samples - 1))
    assert p_value_pass(violations + 1, samples, allowed) >= p_value_pass(violations, samples, allowed)
    assert p_value_fail(violations + 1, samples, allowed) <= p_value_fail(violations, samples, allowed)


def test_without_samples_nothing_is_known() -> None:
    assert p_value_pass(0, 0, 0.05) == p_value_fail(0, 0, 0.05) == 1.0
    assert (rate_lower(0, 0, 0.95), rate_upper(0, 0, 0.95)) == (0.0, 1.0)
    assert more_samples(0, 0, 0.05, pass_alpha=0.05, fail_alpha=0.05) == (59, False)


@given(st.integers(1, 2000), st.data(), st.sampled_from(["50", "90", "95", "99", "99.9"]))
def test_nearest_rank_keeps_a_limit_exactly_when_few_enough_violate(
    samples: int, data: st.DataObject, percentile: str
) -> None:
    violations = data.draw(st.integers(0, samples))
    values = np.sort(np.r_[np.zeros(samples - violations), np.full(violations, 2.0)])
    within = values[nearest_rank(samples, Decimal(percentile)) - 1] < 1
    assert within == (violations * 100 <= (100 - Decimal(percentile)) * samples)


@given(st.integers(1, 100_000))
def test_nearest_rank_is_exact(samples: int) -> None:
    assert nearest_rank(samples, 95) == -(-95 * samples // 100)
    assert nearest_rank(samples, "99.9") == -(-999 * samples // 1000)


@given(st.integers(0, 4000), st.sampled_from([0.5, 0.1, 0.05, 0.01, 0.001]))
def test_rank_bounds_mirror_the_verdict(samples: int, allowed: float) -> None:
    low, high = rank_bounds(samples, allowed, 0.95)
    if high is None:
        assert p_value_pass(0, samples, allowed) > 0.05
    else:  # the upper order statistic keeps the limit exactly when the verdict is PASS
        assert (
            p_value_pass(samples - high, samples, allowed) <= 0.05 < p_value_pass(samples - high + 1, samples, allowed)
        )
    if low is None:
        assert samples == 0 or p_value_fail(samples, samples, allowed) >= 0.05
    else:
        assert p_value_fail(samples - low + 1, samples, allowed) < 0.05 <= p_value_fail(samples - low, samples, allowed)
    if low is not None and high is not None:
        assert low <= high


@given(st.integers(1, 3000), st.data(), st.sampled_from([0.1, 0.05, 0.01]))
def test_more_samples_decide(samples: int, data: st.DataObject, allowed: float) -> None:
    violations = data.draw(st.integers(0, samples))
    more, at_limit = more_samples(violations, samples, allowed, pass_alpha=0.05, fail_alpha=0.01)
    if at_limit:
        assert more is None
        return
    assert more is not None
    total = samples + more
    if violations / samples < allowed:
        assert p_value_pass(math.ceil(violations * total / samples), total, allowed) <= 0.05
    else:
        assert p_value_fail(violations * total // samples, total, allowed) < 0.01


def test_exactly_at_the_limit_no_number_decides() -> None:
    assert more_samples(5, 100, 0.05, pass_alpha=0.05, fail_alpha=0.05) == (None, True)
    assert more_samples(0, 10, 0.05, pass_alpha=0.05, fail_alpha=0.05) == (49, False)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert holm([0.01, 0.02, 0.03], 0.05) == [True, True, True]
    assert holm([0.02, 0.5], 0.05) == [True, False]
    assert holm([0.03, 0.5], 0.05) == [False, False]
    assert holm([], 0.05) == []


def test_student() -> None:
    assert t_quantile(0.95, 9) == pytest.approx(1.8331129)
    assert t_cdf(1.8331129, 9) == pytest.approx(0.95)


def test_one_failure_alone_is_exactly_at_the_bound_and_fails_nothing() -> None:
    """Its p-value is 0.05, and 1 - 0.95 is a little more in binary."""
    assert p_value_fail(1, 1, 0.05) == alpha_of(0.95) == rate_lower(1, 1, 0.95) == 0.05
    assert holm([0.05], 0.05) == [False]
