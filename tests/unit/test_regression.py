"""The gate against simulated nights whose truth is known, and its rules one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from harness.errors import ExitCode
from harness.history.rows import METRICS, Row
from harness.regression import Change, Finding, Limits, compare, exit_code, nights_of, noise_of, qn
from tests.unit.histories import CELL, LEVELS, history, row


def changes(rows: Sequence[Row], night: int, **options: object) -> dict[str, Change]:
    found = compare([rows[night]], {CELL: rows}, **options)  # type: ignore[arg-type]
    return {each.metric: each.change for each in found}


def test_without_a_change_at_most_one_night_in_a_hundred_has_a_finding() -> None:
    """200 histories; their launches have luck in common, bad nights and drift. Seeds are fixed: this cannot flake."""
    nights = alarms = 0
    for seed in range(200):
        noise, length = (0.01, 0.015, 0.02, 0.03)[seed % 4], (20, 30, 60)[seed % 3]
        rows = history(seed, length, noise)
        for night in (length - 7, length - 4, length - 1):
            nights += 1
            alarms += bool({Change.REGRESSED, Change.IMPROVED} & set(changes(rows, night).values()))
    assert nights == 600
    assert alarms <= 6


@pytest.mark.parametrize(("noise", "least"), [(0.01, 0.98), (0.015, 0.9)])
def test_a_shift_of_a_tenth_is_found_within_three_nights(noise: float, least: float) -> None:
    found = 0
    for seed in range(50):
        rows = history(5000 + seed, 33, noise, shift=0.1, since=30)
        found += any(Change.REGRESSED in changes(rows, night).values() for night in (30, 31, 32))
    assert found / 50 >= least


def test_an_improvement_is_no_regression() -> None:
    rows = history(3, 33, 0.01, shift=-0.12, since=30)
    found = changes(rows, 32)
    assert found["e2e_p95_s"] == Change.IMPROVED
    assert found["goodput_rps"] == Change.IMPROVED
    assert Change.REGRESSED not in found.values()


def test_a_noisy_history_says_too_noisy() -> None:
    rows = history(4, 40, 0.1)
    latencies = {name: change for name, change in changes(rows, 39).items() if name.endswith("_s")}
    assert set(latencies.values()) == {Change.TOO_NOISY}
    assert Change.UNCHANGED in changes(rows, 39, limits=Limits(min_effect=2.0)).values()


def test_a_short_history_says_too_noisy_and_how_many_nights_it_needs() -> None:
    rows = history(5, 8, 0.01)
    found = compare([rows[-1]], {CELL: rows})
    assert {each.change for each in found} == {Change.TOO_NOISY}
    assert "7 nights say nothing" in found[0].sentence
    assert "no night to compare with" in compare([rows[0]], {CELL: rows})[0].sentence
    assert compare([rows[0]], {})[0].change == Change.TOO_NOISY


def test_one_bad_night_is_not_a_regression_but_a_collapse_is() -> None:
    rows = history(6, 31, 0.01)
    bad = np.full(len(LEVELS), math.log(1.06))
    collapsed = np.full(len(LEVELS), math.log(3.0))
    assert changes([*rows[:30], row(30, bad)], 30)["e2e_p95_s"] == Change.UNCHANGED
    assert changes([*rows[:30], row(30, collapsed)], 30)["e2e_p95_s"] == Change.REGRESSED
    twice = [*rows[:29], row(29, np.full(len(LEVELS), math.log(1.1))), row(30, np.full(len(LEVELS), math.log(1.1)))]
    assert changes(twice, 30)["e2e_p95_s"] == Change.REGRESSED


def test_a_change_that_is_real_but_small_is_left_alone() -> None:
    rows = history(7, 33, 0.002, shift=0.03, since=30)
    assert changes(rows, 32)["e2e_p50_s"] == Change.UNCHANGED
    assert changes(rows, 32, limits=Limits(min_effect=0.02))["e2e_p50_s"] == Change.REGRESSED


def test_failures_are_infinite_and_regress() -> None:
    rows = history(8, 31, 0.01)
    failed = replace(rows[30], values=rows[30].values | {"e2e_p95_s": math.inf, "goodput_rps": 0.0})
    found = {each.metric: each for each in compare([failed], {CELL: rows})}
    assert found["e2e_p95_s"].change == found["goodput_rps"].change == Change.REGRESSED
    assert found["e2e_p95_s"].effect == math.inf
    healed = [*rows[:14], *(replace(r, values=r.values | {"e2e_p95_s": math.inf}) for r in rows[14:30]), rows[30]]
    again = {each.metric: each for each in compare([rows[30]], {CELL: healed})}["e2e_p95_s"]
    assert (again.change, again.sentence) == (Change.TOO_NOISY, "most requests of the baseline failed")


def test_invalid_launches_count_nowhere() -> None:
    rows = history(9, 31, 0.01)
    wild = [replace(row(n, np.full(len(LEVELS), 2.0), launch=1), verdict="INVALID") for n in range(31)]
    assert compare([rows[30]], {CELL: [*rows, *wild]}) == compare([rows[30]], {CELL: rows})
    (only,) = compare([wild[30]], {CELL: rows})
    assert (only.change, only.metric) == (Change.TOO_NOISY, "")


def test_a_night_is_the_median_of_its_launches() -> None:
    launches = [row(3, np.full(len(LEVELS), shift), launch=n) for n, shift in enumerate((0.0, 0.5, 0.01))]
    (night,) = nights_of(launches, "e2e_p50_s")
    assert night.launches == 3
    assert night.value == pytest.approx(0.9 * math.exp(0.01))


def test_baselines() -> None:
    rows = history(10, 40, 0.01, shift=0.1, since=20)
    names = ["e2e_p50_s"]
    old = frozenset(each.key for each in rows[:10])
    assert changes(rows, 39, metrics=names)["e2e_p50_s"] == Change.UNCHANGED
    named = compare([rows[39]], {CELL: rows}, baseline="spring", named=old, metrics=names)[0]
    assert named.baseline == pytest.approx(0.9, rel=0.02)
    failing = [replace(each, verdict="FAIL") if each.night > rows[15].night else each for each in rows]
    last_good = compare([rows[39]], {CELL: failing}, baseline="last-good", metrics=names)[0]
    assert last_good.baseline == rows[15].values["e2e_p50_s"]


def test_later_nights_and_tonight_itself_are_no_history() -> None:
    rows = history(11, 40, 0.01)
    assert compare([rows[30]], {CELL: rows}) == compare([rows[30]], {CELL: rows[:30]})


def test_qn_is_the_deviation_of_normal_draws_and_ignores_a_fifth_of_wild_ones() -> None:
    many = np.random.default_rng(1).standard_normal((200, 30))
    assert np.mean([qn(draws) for draws in many]) == pytest.approx(1.0, abs=0.05)
    many[:, :6] = 1e6
    assert np.mean([qn(draws) for draws in many]) < 2.0
    assert qn([1.0]) == 0.0


def test_noise_is_split_into_launch_luck_and_drift() -> None:
    random = np.random.default_rng(2)
    luck = noise_of((0.02 * random.standard_normal(60)).tolist(), 0.001)
    assert luck.launch == pytest.approx(0.02, rel=0.3)
    walk = noise_of(np.cumsum(0.02 * random.standard_normal(60)).tolist(), 0.001)
    assert walk.drift == pytest.approx(0.02, rel=0.5)
    assert walk.drift > 2 * luck.drift
    assert noise_of([0.0] * 20, 0.003).launch == 0.003


def test_exit_codes() -> None:
    def code(*found: Change, strict: bool = False) -> ExitCode:
        return exit_code([Finding(CELL, "e2e_p50_s", change, "") for change in found], strict=strict)

    assert code(Change.UNCHANGED, Change.REGRESSED, Change.TOO_NOISY, strict=True) == ExitCode.FAIL
    assert code(Change.IMPROVED, Change.TOO_NOISY) == ExitCode.PASS
    assert code(Change.IMPROVED, Change.TOO_NOISY, strict=True) == ExitCode.INCONCLUSIVE
    assert code(Change.UNCHANGED, strict=True) == ExitCode.PASS


def test_every_gated_figure_has_a_simulated_one() -> None:
    gated = {name for name, metric in METRICS.items() if metric.gated}
    assert gated - {"response_time_p50_s", "response_time_p95_s"} == set(LEVELS)
