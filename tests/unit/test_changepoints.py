"""Changes of level: found where they are, and not where there are none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.history.changepoints import change_points, pettitt


def series(seed: int, *levels: tuple[int, float]) -> list[float]:
    random = np.random.default_rng(seed)
    return [level + float(random.standard_normal()) for count, level in levels for _ in range(count)]


def test_a_step_is_found_where_it_is() -> None:
    for seed in range(20):
        (place,) = change_points(series(seed, (40, 0.0), (25, 4.0)))
        assert abs(place - 40) <= 1


def test_up_and_down_again_is_two_changes() -> None:
    found = change_points(series(1, (60, 0.0), (20, 5.0), (60, 0.0)))
    assert found == pytest.approx([60, 80], abs=1)


def test_series_without_a_change_seldom_get_one() -> None:
    assert sum(bool(change_points(series(seed, (90, 0.0)))) for seed in range(200)) <= 4


def test_single_bad_nights_and_infinite_ones_are_no_change() -> None:
    values = series(3, (60, 0.0))
    values[10], values[30], values[31] = 1e9, math.inf, math.inf
    assert change_points(values) == []


@pytest.mark.parametrize("values", [[], [1.0], [1.0] * 9, [2.0] * 100])
def test_short_and_constant_series_have_none(values: list[float]) -> None:
    assert change_points(values) == []


def test_pettitts_statistic_by_hand() -> None:
    """Ten low and ten high values: U[10] = 2 * 55 - 10 * 21 = -100, p = 2 exp(-6 * 100² / (20³ + 20²))."""
    place, p_value = pettitt(np.arange(20.0))
    assert place == 10
    assert p_value == pytest.approx(2 * math.exp(-60_000 / 8400))
