"""The search for a capacity against oracles whose truth is known, and its rules as properties."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.capacity import (
    Tried,
    check_settings,
    describe,
    interval_of,
    level_confidence,
    next_load,
    shape_of,
    verdict_of,
)
from harness.capacity_record import Interval, LevelResult, SearchSettings
from harness.errors import UsageError
from harness.evidence import Terms
from harness.judgement import Verdict
from harness.metrics import Requests, judged_part, read_requests
from harness.objective import Objective
from harness.sla import cell_verdict, evaluate
from tests.runs import WORKER, big_table, load

Oracle = Callable[[float], Verdict]
P, F, U, I = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.INVALID  # noqa: E741
SLA = (Objective.parse("p95(e2e) < 2 s"),)
ALLOWED = 0.05
REQUESTS = 800


def users(start: float = 10, most: float = 1000, **changes: object) -> SearchSettings:
    return SearchSettings.model_validate({"start": start, "most": most, "levels_max": 14, **changes})


def searched(settings: SearchSettings, oracle: Oracle) -> list[Tried]:
    tested: list[Tried] = []
    while (found := next_load(settings, tested)) is not None:
        assert found not in [each.load for each in tested], "no level is run twice"
        tested.append(Tried(found, oracle(found)))
        assert len(tested) <= settings.levels_max
    return tested


def cliff(truth: float) -> Oracle:
    return lambda at: P if at <= truth else F


@given(truth=st.floats(10, 900), start=st.integers(1, 60), rate=st.booleans())
def test_a_cliff_is_found_within_five_percent(truth: float, start: int, rate: bool) -> None:
    settings = users(start, kind="rate" if rate else "users", levels_max=20)
    found = interval_of(searched(settings, cliff(truth)))
    assert found.feasible is not None
    assert found.infeasible is not None
    assert found.feasible <= truth < found.infeasible
    assert found.feasible >= truth / 1.05 or (not rate and found.infeasible - found.feasible <= 1)


def test_twelve_levels_are_enough_for_a_cliff_within_a_factor_of_eight() -> None:
    for truth in range(10, 200):
        found = interval_of(searched(users(25, 800, levels_max=12), cliff(truth + 0.5)))
        assert found.feasible is not None
        assert found.feasible >= truth / 1.05 - 1


# The judge's own statistics --------------------------------------------------------------------


class Judge:
    """Draws requests that violate at a known rate and has the project judge them, at the level's confidence."""

    def __init__(self, rate: Callable[[float], float], seed: int, levels_max: int) -> None:
        self._rate, self._rng = rate, np.random.default_rng(seed)
        self._terms = Terms(confidence=level_confidence(0.95, levels_max))
        self._requests = requests()

    def __call__(self, at: float) -> Verdict:
        slow = self._rng.random(REQUESTS) < self._rate(at)
        e2e = np.where(slow, 3.0, 1.0)
        drawn = replace(
            self._requests,
            values={**self._requests.values, "e2e": e2e, "response_time": e2e},
            end_s=self._requests.begin_s + e2e,
        )
        return cell_verdict(evaluate(SLA, judged_part(load(), drawn, 2.0), self._terms))


def requests() -> Requests:
    made = read_requests(big_table(REQUESTS, 1), [WORKER], load())
    times = np.sort(np.linspace(10.5, 99.5, REQUESTS))
    answered = np.ones(REQUESTS, dtype=bool)
    return replace(made, issued_s=times, begin_s=times, scheduled_s=times, ok=answered, unfinished=~answered)


def covers(found: Interval, truth: float) -> bool:
    low, high = found.feasible, found.infeasible
    return (low is None or low <= truth) and (high is None or truth < high)


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_the_interval_of_a_slope_covers_the_truth_in_95_of_100_runs(power: float) -> None:
    truth, settings = 100.0, users(25, 800, levels_max=12)
    covered, found_one = 0, 0
    for seed in range(100):
        judge = Judge(lambda at: min(1.0, ALLOWED * (at / truth) ** power), seed, settings.levels_max)
        found = interval_of(searched(settings, judge))
        covered += covers(found, truth)
        found_one += found.feasible is not None and found.infeasible is not None
    assert covered >= 95
    assert found_one >= 95, "an interval that is never closed would cover everything"


def test_undivided_alpha_would_not_do() -> None:
    """Why the chance of an error is divided: levels at the limit itself, each judged at 95%."""
    wrong = divided = 0
    for seed in range(100):
        plain = Judge(lambda at: ALLOWED, seed, 1)
        verdicts = [plain(0.0) for _ in range(12)]
        wrong += P in verdicts
        careful = Judge(lambda at: ALLOWED, seed, 12)
        divided += P in [careful(0.0) for _ in range(12)]
    assert divided <= 5
    assert wrong >= 10


def test_a_cliff_is_found_with_real_judging() -> None:
    settings = users(10, 400, levels_max=12)
    for seed in range(10):
        found = interval_of(searched(settings, Judge(lambda at: 0.001 if at <= 87 else 0.9, seed, 12)))
        assert found.feasible is not None
        assert found.infeasible is not None
        assert found.feasible <= 87 < found.infeasible
        assert found.feasible >= 87 / 1.05


# Rules -------------------------------------------------------------------------------------------

VERDICTS = st.lists(st.tuples(st.integers(1, 60), st.sampled_from([P, F, U, I])), unique_by=lambda each: each[0])


@given(VERDICTS, st.integers(0, 2**16))
def test_the_interval_does_not_depend_on_the_order(pairs: list[tuple[int, Verdict]], seed: int) -> None:
    tested = [Tried(float(at), verdict) for at, verdict in pairs]
    shuffled = tested.copy()
    random.Random(seed).shuffle(shuffled)
    assert interval_of(shuffled) == interval_of(tested)


@given(VERDICTS)
def test_every_tested_level_up_to_the_capacity_passes(pairs: list[tuple[int, Verdict]]) -> None:
    found = interval_of([Tried(float(at), verdict) for at, verdict in pairs])
    if found.feasible is not None:
        assert all(verdict is P for at, verdict in pairs if at <= found.feasible)
        assert found.infeasible is None or found.feasible < found.infeasible
    else:
        assert not pairs or min(pairs)[1] is not P


@given(st.dictionaries(st.integers(1, 200), st.sampled_from([P, F, U, I])), st.integers(1, 200))
def test_any_oracle_ends_the_search(verdicts: dict[int, Verdict], start: int) -> None:
    tested = searched(users(start, 200), lambda at: verdicts.get(int(at), U))
    assert all(1 <= each.load <= 200 for each in tested)


def test_undecided_levels_stay_inside() -> None:
    oracle = {10: P, 20: P, 40: U, 80: F}
    tested = searched(users(10, 80), lambda at: oracle.get(int(at), P if at < 33 else U if at < 52 else F))
    found = interval_of(tested)
    assert found.feasible is not None
    assert found.infeasible is not None
    assert found.feasible >= 31
    assert found.infeasible <= 54
    assert 40 in found.undecided
    sentence = describe(found, "users", "", "")
    assert "undecided in between: " in sentence


def test_a_pass_above_an_undecided_level_does_not_count() -> None:
    assert interval_of([Tried(10, P), Tried(20, U), Tried(40, P)]) == Interval(feasible=10, undecided=(20, 40))


def test_a_client_at_its_end_is_no_limit_of_the_stack() -> None:
    tested = searched(users(10, 400), lambda at: P if at <= 40 else I)
    found = interval_of(tested)
    assert (found.feasible, found.infeasible, found.invalid) == (40, None, 57)
    assert sum(each.verdict is I for each in tested) == 2, "the second says that the first was no accident"
    assert max(each.load for each in tested) == 80
    assert "the load generator was the bottleneck, so the stack may carry more" in describe(found, "users", "", "")


def test_where_nothing_passes_the_search_goes_down() -> None:
    tested = searched(users(8, 64), lambda at: F)
    assert [each.load for each in tested] == [8, 4, 2, 1]
    found = interval_of(tested)
    assert verdict_of(found) is F
    assert describe(found, "users", "p95 is 3 s", "") == "no capacity: even 1 user fail (p95 is 3 s)"
    assert interval_of(searched(users(8, 64), cliff(3))).feasible == 3


@pytest.mark.parametrize(
    ("tested", "verdict"),
    [
        ([], U),
        ([Tried(1, P), Tried(2, F)], P),
        ([Tried(1, F)], F),
        ([Tried(1, U), Tried(2, F)], U),
        ([Tried(1, I), Tried(2, F)], I),
    ],
)
def test_verdict_of_a_search(tested: list[Tried], verdict: Verdict) -> None:
    assert verdict_of(interval_of(tested)) is verdict


def level(at: float, violating: float | None, verdict: Verdict = P) -> LevelResult:
    return LevelResult(load=at, verdict=verdict, sentence="", run_dir="", violating=violating, allowed=ALLOWED)


@pytest.mark.parametrize(
    ("low", "high", "undecided", "shape"),
    [
        (level(40, 0.0), level(42, 0.9), (), "cliff"),
        (level(40, 0.03), level(42, 0.08), (), "slope"),
        (level(40, 0.01), level(60, 0.9), (), "unknown"),
        (level(40, 0.01), level(60, 0.2), (45, 50), "slope"),
        (level(40, None), level(42, None), (), "unknown"),
        (level(2, 0.0), level(3, 1.0), (), "cliff"),
    ],
)
def test_cliff_or_slope(low: LevelResult, high: LevelResult, undecided: tuple[float, ...], shape: str) -> None:
    interval = Interval(feasible=low.load, infeasible=high.load, undecided=undecided)
    found, text = shape_of([low, high], interval, "users")
    assert found == shape
    assert ("violate at 40 users" in text) == (low.violating is not None and low.load == 40)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (users(0), "--start must be at least 1 users"),
        (users(2.5), "--start must be whole users"),
        (users(10, 9), "--users-max 9 is below the first level of 10 users"),
        (users(10, 9, kind="rate"), "--rate-max 9 is below the first level of 10 requests/s"),
        (users(float("nan")), "--start must be"),
        (users(-1, kind="rate"), "--start must be above 0 requests/s"),
        (users(levels_max=0), "--levels-max must be at least 1"),
        (users(precision=0), "--precision must be between 0 and 1"),
    ],
)
def test_a_search_that_cannot_be_is_refused(settings: SearchSettings, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_settings(settings)
