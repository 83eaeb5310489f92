"""What requests are worth as independent ones: properties, edges, and how often a verdict at the limit is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.queues import MODELS, Runs, limit_at
from harness.effective import (
    BLOCKS,
    discounted,
    effective,
    effective_errors,
    effective_ratio,
    independent,
    rank_correlation,
    rank_weight,
    shares,
)
from harness.metrics import FloatArray, Window
from harness.statistics import p_value_fail, p_value_pass, rate_lower, rate_upper

WINDOW = Window(0.0, 100.0)


def even(count: int) -> FloatArray:
    return np.asarray((np.arange(count) + 0.5) * 100.0 / count)


def slow_spells(count: int, length: int, seed: int = 1) -> FloatArray:
    """Latencies around 1 s in which every ``length`` neighbours are slow or fast together."""
    rng = np.random.default_rng(seed)
    spell = np.repeat(rng.lognormal(0, 0.5, count // length + 1), length)[:count]
    return np.asarray(spell * rng.lognormal(0, 0.05, count))


def test_a_design_effect_of_one_counts_every_request() -> None:
    """Then bounds and p-values are those of Clopper and Pearson: the binomial minima."""
    assert independent(299).share == 1.0
    for allowed, least in ((0.1, 29), (0.05, 59), (0.01, 299)):
        share = independent(least).share
        assert p_value_pass(0, share * least, allowed) <= 0.05 < p_value_pass(0, share * (least - 1), allowed)
        assert rate_upper(0, share * least, 0.95) <= allowed
        assert rate_lower(least * share, share * least, 0.95) > allowed


def test_independent_requests_lose_some_of_their_worth() -> None:
    rng = np.random.default_rng(2)
    values = rng.lognormal(0, 0.5, 5000)
    found = effective(even(5000), values > 2.0, values, 2.0, 0.05, WINDOW)
    assert 1 <= found.design_effect < 2.5
    assert 0.3 < found.share < 0.8
    assert found.needed_s == 0
    assert discounted(5000, 1.0) == pytest.approx(0.767 * 5000, rel=0.01)


def test_the_design_effect_of_slow_spells_is_found() -> None:
    """Spells of 20: a violation comes with nineteen others."""
    values = slow_spells(20_000, 20)
    limit = float(np.quantile(values, 0.95))
    found = effective(even(20_000), values > limit, values, limit, 0.05, WINDOW)
    assert 12 < found.design_effect < 50
    assert found.correlation_time_s == pytest.approx(10 * 100 / 20_000, rel=0.6)


def test_without_violations_the_samples_own_quantiles_tell() -> None:
    values = slow_spells(20_000, 20)
    limit = float(values.max()) * 1.01
    found = effective(even(20_000), values > limit, values, limit, 0.05, WINDOW)
    assert found.design_effect > 8


def test_a_limit_out_of_reach_needs_no_correlation() -> None:
    values = 0.3 + 0.0001 * np.sin(np.arange(2000) / 200) ** 2  # seconds; as smooth as can be
    near = effective(even(2000), values > 0.30012, values, 0.30012, 0.05, WINDOW)
    far = effective(even(2000), values > 2.0, values, 2.0, 0.05, WINDOW)
    assert near.design_effect > 20
    assert far.design_effect == 1.0
    assert far.needed_s == 0


def test_long_correlation_asks_for_a_longer_window() -> None:
    values = slow_spells(2000, 400)
    limit = float(values.max()) + 0.01
    found = effective(even(2000), values > limit, values, limit, 0.05, WINDOW)
    assert found.needed_s > WINDOW.length_s
    assert found.samples < 59


def test_errors_count_as_independent_until_there_is_one() -> None:
    none = np.zeros(1000, dtype=bool)
    assert effective_errors(even(1000), none, WINDOW).samples == 1000
    burst = none.copy()
    burst[500:540] = True
    assert effective_errors(even(1000), burst, WINDOW).design_effect > 20
    assert effective_errors(even(1000), np.ones(1000, dtype=bool), WINDOW).samples == pytest.approx(767, rel=0.01)


def test_gaps_of_a_request_stand_or_fall_together() -> None:
    sizes = np.full(1000, 50, dtype=np.int64)
    rng = np.random.default_rng(3)
    beyond = np.where(rng.random(1000) < 0.05, 50, 0)
    found = effective_ratio(even(1000), [beyond], sizes, rng.random(1000), 0.05, WINDOW)
    assert found.observed == 50_000
    assert found.design_effect == pytest.approx(50, rel=0.6)


@pytest.mark.parametrize(
    ("times", "values"),
    [
        ([], []),
        ([5.0], [1.0]),
        ([5.0] * 100, [1.0] * 100),
        ([5.0] * 100, [math.inf] * 100),
        (list(np.linspace(0, 100, 100)), [math.inf] * 100),
        (list(np.linspace(-1e6, 1e6, 100)), [1.0, 3.0] * 50),
        ([0.0] * 50 + [100.0] * 50, [1.0] * 50 + [3.0] * 50),
    ],
    ids=["none", "one", "all at once", "all failed at once", "all failed", "clocks that jumped", "two moments"],
)
def test_edges(times: list[float], values: list[float]) -> None:
    array = np.array(values)
    for allowed in (0.5, 0.05, 0.001):
        for window in (WINDOW, Window(5.0, 5.0)):
            found = effective(np.array(times), array > 2.0, array, 2.0, allowed, window)
            assert 0 <= found.samples <= len(values)
            assert math.isfinite(found.design_effect)
            assert found.design_effect >= 1


latencies = st.lists(st.floats(0.01, 10), min_size=40, max_size=400)


@given(latencies, st.randoms(use_true_random=False), st.sampled_from([0.1, 0.05, 0.01]))
def test_permuting_pairs_of_blocks_changes_nothing(values: list[float], rng: object, allowed: float) -> None:
    pairs = BLOCKS // 2
    size = len(values) // pairs
    array = np.array(values[: size * pairs]).reshape(pairs, size)
    order = np.random.default_rng(rng.randrange(2**32)).permutation(pairs)  # type: ignore[attr-defined]
    times = even(size * pairs)
    one, other = (
        effective(times, flat > 2.0, flat, 2.0, allowed, WINDOW) for flat in (array.ravel(), array[order].ravel())
    )
    assert one.samples == pytest.approx(other.samples, rel=1e-6)
    assert one.correlation_time_s == pytest.approx(other.correlation_time_s)


@given(latencies, st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(values: list[float], rng: object) -> None:
    array, times = np.array(values), even(len(values))
    order = np.random.default_rng(rng.randrange(2**32)).permutation(len(values))  # type: ignore[attr-defined]
    one = effective(times, array > 2.0, array, 2.0, 0.05, WINDOW)
    assert effective(times[order], array[order] > 2.0, array[order], 2.0, 0.05, WINDOW) == one


@given(st.integers(1, 10_000), st.floats(1, 100), st.floats(1, 10))
def test_more_correlation_is_worth_less(count: int, design: float, factor: float) -> None:
    assert discounted(count, design * factor) <= discounted(count, design) <= count


def test_quantiles_and_their_weight() -> None:
    assert shares(0.05) == [0.05, 0.1, 0.2, 0.4]
    assert shares(0.5) == [0.5]
    assert rank_weight(0.05) == rank_weight(0.2) == 1.25
    assert 0 < rank_weight(0.001) < rank_weight(0.01) < 1.25


def test_ranks_of_noise_and_of_a_trend() -> None:
    block = np.repeat(np.arange(BLOCKS), 50)
    noise = np.random.default_rng(5).random(1000)
    assert rank_correlation(even(1000), noise, block)[0] < 1.6
    assert rank_correlation(even(1000), even(1000), block)[0] > 100
    assert rank_correlation(even(1000), np.ones(1000), block) == (1.0, 0.0)


def wrong_verdicts(runs: Runs, violating: float, allowed: float = 0.05) -> tuple[float, float]:
    """Shares of runs that PASS and that FAIL, when the share ``violating`` truly violates."""
    limit = limit_at(runs, violating)
    passed = failed = 0
    for issued_s, values in runs:
        window = Window(float(issued_s[0]), float(issued_s[-1]))
        found = effective(issued_s, values > limit, values, limit, allowed, window)
        bad = found.share * int((values > limit).sum())
        passed += not found.needed_s and p_value_pass(bad, found.samples, allowed) <= 0.05
        failed += p_value_fail(bad, found.samples, allowed) < 0.05
    return passed / len(runs), failed / len(runs)


@pytest.mark.parametrize(
    ("model", "runs", "requests"),
    [
        ("independent", 300, 500),
        ("closed", 100, 500),
        ("mm8-80", 200, 1000),
        ("mg8-80", 200, 2000),
        ("mm8-90", 100, 500),
        ("engine", 60, 300),
    ],
)
def test_at_the_limit_verdicts_are_rarely_wrong(model: str, runs: int, requests: int) -> None:
    """The truth is exactly at the limit, the runs are seeded; `make simulate` has 2,000 of each and more models."""
    wrong_pass, wrong_fail = wrong_verdicts(MODELS[model](runs, requests, seed=7), 0.05)
    assert wrong_pass <= 0.06
    assert wrong_fail <= 0.06


@pytest.mark.parametrize(("violating", "verdict"), [(0.01, 0), (0.12, 1)])
def test_clear_cases_are_decided(violating: float, verdict: int) -> None:
    assert wrong_verdicts(MODELS["mm8-50"](100, 2000, seed=8), violating)[verdict] >= 0.95


def test_counting_requests_as_independent_would_pass_at_the_limit() -> None:
    """What the procedure is for: the plain bound passes falsely far too often in the same runs."""
    runs = MODELS["mg8-80"](200, 2000, seed=7)
    limit = limit_at(runs, 0.05)
    plain = sum(p_value_pass(int((values > limit).sum()), len(values), 0.05) <= 0.05 for _, values in runs)
    assert plain / len(runs) > 0.3
