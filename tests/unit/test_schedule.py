"""Think times, first delays and looks keep what their docstrings promise."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.schedule import first_delay_s, look_times_s, think_time_sampler
from harness.spec import ThinkTime

UNHURRIED = settings(deadline=None)
"""A machine that is busy with load makes no property false."""
DRAWS = 20_000
SHARES = st.lists(st.floats(0.01, 0.99), max_size=6).map(tuple)


def think(distribution: str, mean_s: float, sigma: float | None = None) -> ThinkTime:
    return ThinkTime.model_validate({"distribution": distribution, "mean_s": mean_s, "sigma": sigma, "reason": "test"})


def draws(spec: ThinkTime, seed: int, count: int = DRAWS) -> list[float]:
    draw = think_time_sampler(spec, random.Random(seed))
    return [draw() for _ in range(count)]


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("mean_s", "sigma"), [(15.0, 0.5), (5.0, 0.4), (0.8, 1.0)])
def test_lognormal_mean_is_the_stated_one(mean_s: float, sigma: float, seed: int) -> None:
    """Within 5 standard errors; taking the mean for the median would miss by exp(sigma^2 / 2): 8% at least."""
    standard_error = mean_s * math.sqrt(math.expm1(sigma**2)) / math.sqrt(DRAWS)
    found = math.fsum(draws(think("lognormal", mean_s, sigma), seed)) / DRAWS
    assert abs(found - mean_s) < 5 * standard_error
    assert mean_s * (math.exp(sigma**2 / 2) - 1) > 5 * standard_error, "the test could not tell mean from median"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sigma_is_the_standard_deviation_of_the_logarithm(seed: int) -> None:
    logs = [math.log(value) for value in draws(think("lognormal", 10, 0.5), seed)]
    mean = math.fsum(logs) / DRAWS
    sigma = math.sqrt(math.fsum((value - mean) ** 2 for value in logs) / DRAWS)
    assert sigma == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(2 * DRAWS))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_exponential_mean_is_the_stated_one(seed: int) -> None:
    found = math.fsum(draws(think("exponential", 4.0), seed)) / DRAWS
    assert abs(found - 4.0) < 5 * 4.0 / math.sqrt(DRAWS)


def test_constant_never_varies() -> None:
    assert set(draws(think("constant", 2.5), 1, 100)) == {2.5}


@pytest.mark.parametrize(("distribution", "sigma"), [("constant", None), ("exponential", None), ("lognormal", 0.5)])
def test_no_think_time_means_none_in_any_distribution(distribution: str, sigma: float | None) -> None:
    spec = think(distribution, 0, sigma)
    assert set(draws(spec, 1, 10)) == {0.0}


@UNHURRIED
@given(seed=st.integers(0, 2**32), mean_s=st.floats(0.01, 1000), sigma=st.floats(0.01, 2))
def test_think_times_are_positive_finite_and_repeatable(seed: int, mean_s: float, sigma: float) -> None:
    spec = think("lognormal", mean_s, sigma)
    first = draws(spec, seed, 20)
    assert all(0 < value < math.inf for value in first)
    assert draws(spec, seed, 20) == first
    assert draws(spec, seed + 1, 20) != first


@UNHURRIED
@given(seed=st.integers(0, 2**32), mean_s=st.floats(0, 1000))
def test_a_users_first_request_comes_within_one_mean_think_time_or_a_second(seed: int, mean_s: float) -> None:
    assert 0 <= first_delay_s(think("constant", mean_s), random.Random(seed)) <= max(mean_s, 1.0)


def test_users_without_think_time_do_not_start_in_step() -> None:
    rng = random.Random(7)
    delays = [first_delay_s(think("constant", 0), rng) for _ in range(1000)]
    assert (min(delays), max(delays)) == (pytest.approx(0, abs=0.01), pytest.approx(1, abs=0.01))


def test_first_delays_spread_over_the_whole_think_time() -> None:
    rng = random.Random(7)
    delays = [first_delay_s(think("constant", 10), rng) for _ in range(1000)]
    assert min(delays) < 0.5
    assert max(delays) > 9.5
    assert math.fsum(delays) / 1000 == pytest.approx(5, abs=5 * 10 / math.sqrt(12 * 1000))


@UNHURRIED
@given(
    shares=SHARES,
    warm_up_s=st.floats(0, 100),
    judged_s=st.floats(0.1, 2000),
    longest_limit_s=st.floats(0, 60),
)
def test_looks_are_ordered_inside_the_run_and_censor_nothing(
    shares: tuple[float, ...], warm_up_s: float, judged_s: float, longest_limit_s: float
) -> None:
    run_time_s = warm_up_s + judged_s
    looks = look_times_s(shares, warm_up_s, run_time_s, longest_limit_s)
    assert all(earlier <= later for earlier, later in pairwise(looks))
    assert all(warm_up_s < look <= run_time_s for look in looks)
    # Something is judged at each, and all of it is old enough to have ended or violated.
    assert all(look - longest_limit_s > warm_up_s for look in looks)


@UNHURRIED
@given(shares=SHARES, warm_up_s=st.floats(0, 100), judged_s=st.floats(1, 2000), longest_limit_s=st.floats(0, 60))
def test_only_looks_that_could_judge_nothing_are_left_out(
    shares: tuple[float, ...], warm_up_s: float, judged_s: float, longest_limit_s: float
) -> None:
    looks = look_times_s(shares, warm_up_s, warm_up_s + judged_s, longest_limit_s)
    useful = sum(share * judged_s > longest_limit_s + 1e-6 for share in shares)
    possible = sum(share * judged_s > longest_limit_s - 1e-6 for share in shares)
    assert useful <= len(looks) <= possible


def test_looks_stand_at_shares_of_the_judged_time() -> None:
    assert look_times_s((0.75, 0.25, 0.5), 20, 120, 10) == [45, 70, 95]
    assert look_times_s((0.25, 0.5), 10, 30, 6) == [20]
    assert look_times_s((), 10, 30, 6) == []
