"""Own machines against an API: every crossing of a staircase and a line."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.break_even import MOST_STEPS, Span, break_even

PRICES = st.floats(1e-4, 1.0)
MONTHS = st.floats(10.0, 10_000.0)
QUERIES = st.floats(10.0, 1e7)


def test_every_crossing_by_hand() -> None:
    """100 $ a month are 2,000 queries at 5 cents; a machine answers 2,500 and each further one costs 2,000 more."""
    found = break_even(0.05, 100.0, 2500.0)
    assert found.cheaper == (Span(2000, 2500), Span(4000, 5000), Span(6000, 7500), Span(8000, math.inf))
    assert (found.first, found.for_good) == (2000, 8000)
    assert found.own_usd(0) == found.own_usd(2500) == 100.0
    assert found.own_usd(2501) == 200.0


def test_a_machine_that_answers_twice_its_worth_is_bought_once() -> None:
    assert break_even(0.05, 100.0, 4000.0).cheaper == (Span(2000, math.inf),)


@pytest.mark.parametrize("queries", [1999.0, 2000.0])
def test_a_full_machine_that_costs_as_much_as_the_api_is_never_cheaper(queries: float) -> None:
    found = break_even(0.05, 100.0, queries)
    assert (found.cheaper, found.first, found.for_good) == ((), None, None)


def test_a_thousand_steps_are_enough() -> None:
    found = break_even(0.05, 100.0, 2000.001)
    assert len(found.cheaper) == MOST_STEPS
    assert found.for_good == pytest.approx(MOST_STEPS * 2000)


@pytest.mark.parametrize("wrong", [(0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0), (-1.0, 1.0, 1.0)])
def test_what_costs_nothing_or_answers_nothing_is_refused(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        break_even(*wrong)


@given(PRICES, MONTHS, QUERIES, st.floats(0.001, 500))
def test_the_spans_are_where_the_staircase_lies_below_the_line(
    usd: float, month: float, queries: float, machines: float
) -> None:
    found = break_even(usd, month, queries)
    volume = machines * queries
    own, api = found.own_usd(volume), usd * volume
    if not math.isclose(own, api, rel_tol=1e-9):
        inside = any(span.low < volume <= span.high * (1 + 1e-12) for span in found.cheaper)
        assert inside == (own < api)


@given(PRICES, MONTHS, QUERIES, st.floats(0.1, 1.0))
def test_a_cheaper_machine_pays_sooner(usd: float, month: float, queries: float, share: float) -> None:
    dear, cheap = break_even(usd, month, queries).first, break_even(usd, month * share, queries).first
    if dear is not None:
        assert cheap is not None
        assert cheap <= dear
