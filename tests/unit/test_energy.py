"""Energy over a window: exact for power that is linear, the same however it is cut, never from what was not seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.energy import LARGEST_GAP_S, counted_j, integrated_j

WATTS = st.lists(st.floats(0, 1000), min_size=2, max_size=60)
SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1))


def window(times: np.ndarray, shares: tuple[float, float]) -> tuple[float, float]:
    low, high = sorted(times[0] + share * (times[-1] - times[0]) for share in shares)
    assume(high - low > 1e-6)
    return low, high


@given(st.integers(2, 50), st.floats(0, 100), st.floats(0, 10), SHARES)
def test_power_that_grows_evenly_has_a_known_integral(
    count: int, start: float, slope: float, shares: tuple[float, float]
) -> None:
    times = np.arange(float(count))
    low, high = window(times, shares)
    truth = start * (high - low) + slope * (high**2 - low**2) / 2
    assert integrated_j(times, start + slope * times, low, high) == pytest.approx(truth, rel=1e-9, abs=1e-9)


@given(WATTS, SHARES, st.floats(0, 1))
def test_two_parts_are_the_whole_and_the_mean_power_is_among_the_readings(
    watts: list[float], shares: tuple[float, float], cut: float
) -> None:
    times, power = np.arange(float(len(watts))), np.array(watts)
    low, high = window(times, shares)
    whole = integrated_j(times, power, low, high)
    assert whole is not None
    assert power.min() * (high - low) - 1e-6 <= whole <= power.max() * (high - low) + 1e-6
    middle = low + cut * (high - low)
    if low < middle < high:
        parts = integrated_j(times, power, low, middle), integrated_j(times, power, middle, high)
        assert None not in parts
        assert sum(part for part in parts if part is not None) == pytest.approx(whole, rel=1e-9, abs=1e-6)


@given(WATTS, SHARES)
def test_a_counter_of_the_same_power_agrees_with_the_integral_between_readings(
    watts: list[float], shares: tuple[float, float]
) -> None:
    times, power = np.arange(float(len(watts))), np.array(watts)
    joules = np.concatenate(([0.0], np.cumsum((power[1:] + power[:-1]) / 2)))
    low, high = sorted(round(share * (len(watts) - 1)) for share in shares)
    assume(low < high)
    found = counted_j(times, joules + 1e4, float(low), float(high))
    assert found == pytest.approx(integrated_j(times, power, float(low), float(high)), abs=1e-6)


def test_a_window_may_end_a_little_after_the_last_reading() -> None:
    times = np.array([0.0, 1.0, 2.0])
    assert integrated_j(times, np.array([10.0, 10.0, 10.0]), 0.5, 4.0) == pytest.approx(35)
    assert counted_j(times, np.array([0.0, 10.0, 20.0]), -1.0, 4.0) == pytest.approx(50)


@pytest.mark.parametrize(
    ("times", "low", "high"),
    [
        ([], 0, 1),
        ([0, 1, 2], 0, 2 + LARGEST_GAP_S + 0.1),
        ([10, 11], 0, 11),
        ([0, 1, 20, 21], 0.5, 20.5),
        ([0, 1], 50, 60),
        ([0, 1], 1, 1),
    ],
)
def test_what_was_not_seen_is_not_guessed(times: list[float], low: float, high: float) -> None:
    readings = np.array(times, dtype=float)
    assert integrated_j(readings, np.ones(len(times)), low, high) is None
    assert counted_j(readings, np.arange(float(len(times))), low, high) is None


def test_a_gap_outside_the_window_does_no_harm() -> None:
    assert integrated_j(np.array([-100.0, 0, 1, 2]), np.full(4, 5.0), 0.5, 1.5) == pytest.approx(5)


def test_a_counter_that_ran_backwards_is_not_believed() -> None:
    assert counted_j(np.array([0.0, 1, 2]), np.array([5.0, 9, 1]), 0.0, 2.0) is None
    assert counted_j(np.array([0.0]), np.array([5.0]), 0.0, 1.0) is None
