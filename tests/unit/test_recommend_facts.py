"""Capacity, cost at the SLA, quality and energy in a recommendation; what binds, headroom and what would flip it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.candidates import Candidate, StackFacts, candidate_of, facts_of
from harness.catalog import load_catalog
from harness.judgement import CostSummary, EnergySummary, Mark, TelemetrySummary, Verdict
from harness.recommend import binding, headroom, with_facts
from tests.unit.recommend_support import candidate, decide, judged


def known(stack: str = "a", **facts: Any) -> Candidate:
    return candidate(stack, facts=StackFacts(**facts))


# --- which cost ----------------------------------------------------------------------------------------------------


def test_a_month_decides_where_it_is_known_of_all() -> None:
    """A query may be dear on the machine whose month is cheap: idle hours and whole machines are in the month."""
    a, b = (
        candidate("a", usd_per_query=0.001, facts=StackFacts(usd_per_month=500.0, usd_per_1000_good=1.0)),
        candidate("b", usd_per_query=0.002, facts=StackFacts(usd_per_month=400.0, usd_per_1000_good=2.0)),
    )
    found = decide(a, b)
    assert found.pick == "b"
    assert "$400.00 a month" in found.sentence
    assert "$400.00 a month" in found.reasons
    assert "If B cost more than $500.00 a month (1.25 times as much), it would be A." in found.flips


def test_a_month_known_of_one_only_is_not_compared() -> None:
    a, b = known("a", usd_per_month=1.0, usd_per_1000_good=3.0), known("b", usd_per_1000_good=2.0)
    assert decide(a, b).pick == "b"
    assert decide(a, candidate("b", usd_per_query=0.0005)).pick == "b"


def test_the_month_of_a_stack_that_fails_is_not_needed() -> None:
    assert (
        decide(known("a", usd_per_month=2.0), known("b", usd_per_month=1.0), candidate("c", Verdict.FAIL)).pick == "b"
    )


def test_good_answers_whose_intervals_overlap_are_a_tie() -> None:
    a = known("a", usd_per_1000_good=1.00, usd_per_1000_good_range=(0.98, 1.04))
    b = known("b", usd_per_1000_good=1.03, usd_per_1000_good_range=(1.01, 1.06))
    c = known("c", usd_per_1000_good=1.09, usd_per_1000_good_range=(1.07, 1.12))
    found = decide(a, b, c)
    assert (found.pick, found.ties) == ("a", ("b",))
    assert "no difference from B is shown: the intervals of what a good answer costs overlap" in found.reasons


def test_energy_breaks_a_draw() -> None:
    a, b = known("a", joules_per_request=20.0), known("b", joules_per_request=15.0)
    found = decide(replace(a, value=0.5), b)
    assert (found.pick, found.ties) == ("b", ("a",))
    assert "15 J of the GPUs' energy a request" in found.reasons


CHRF = "quality(chrf) > 0.45"


def scoring(stack: str, chrf: float, **changes: Any) -> Candidate:
    """A candidate whose answers were measured, and passed by that much."""
    facts = StackFacts(quality_checks={CHRF: chrf}, **changes.pop("facts", {}))
    return candidate(stack, facts=facts, margins=((CHRF, chrf / 0.45 - 1),), **changes)


def test_measured_quality_is_told_and_a_word_alone_is_called_a_claim() -> None:
    told = decide(scoring("a", 0.6)).reasons
    assert "quality measured: quality(chrf) > 0.45: 0.6; claimed: 'good' meets the need, medium" in told
    assert "quality claimed, not measured: 'good' meets the need, medium" in decide(candidate("a")).reasons


def test_the_better_answers_break_a_tie_of_cost() -> None:
    worse, better, claimed = scoring("a", 0.5), scoring("b", 0.6), candidate("c")
    found = decide(worse, better, claimed)
    assert (found.pick, found.runner_up, found.ties) == ("b", "a", ("a", "c"))
    cheaper = replace(worse, usd_per_query=0.0005)
    assert decide(cheaper, better).pick == "a", "a difference of cost decides first"


def test_better_answers_win_where_the_intervals_of_cost_overlap() -> None:
    costs = {"usd_per_1000_good": 1.00, "usd_per_1000_good_range": (0.98, 1.04)}
    more = {"usd_per_1000_good": 1.03, "usd_per_1000_good_range": (1.01, 1.06)}
    found = decide(scoring("a", 0.5, facts=costs), scoring("b", 0.6, facts=more))
    assert (found.pick, found.ties) == ("b", ("a",))


def test_measured_answers_stand_for_a_word_that_nobody_gave() -> None:
    unknown = scoring("a", 0.6, quality=None)
    found = decide(unknown)
    assert (found.pick, "quality measured: quality(chrf) > 0.45: 0.6" in found.reasons) == ("a", True)
    assert decide(replace(unknown, facts=StackFacts())).pick is None
    assert decide(scoring("a", 0.6, quality="limited")).pick is None, "a word below the need is not talked up"


def test_who_fails_a_measured_check_of_answers_is_no_pick() -> None:
    """By the verdict: the cheap stack keeps its latency and answers rubbish."""
    run = judged("a", Verdict.FAIL)
    check = run.checks[0].model_copy(
        update={"text": CHRF, "metric": "chrf", "aggregate": "quality", "comparison": ">", "limit": 0.45, "value": 0.1}
    )
    latency = run.checks[0].model_copy(update={"verdict": Verdict.PASS})
    bad = run.model_copy(update={"checks": (latency, check), "reasons": ("quality(chrf) is 0.1",)})
    found = decide(candidate_of([bad], load_catalog()), candidate("b", usd_per_query=1.0))
    assert (found.pick, found.dropped) == ("b", {"a": "FAIL: quality(chrf) is 0.1"})
    assert facts_of(bad).quality_checks == {CHRF: 0.1}


def test_what_a_judgement_knows_by_itself() -> None:
    energy = EnergySummary(
        joules=100.0, gpus=(0,), source="energy counter", requests=10, output_tokens=100, per_request_j=10.0
    )
    cell = judged(
        "a", cost=CostSummary(usd_per_query=0.002, usd_per_1000_good=2.1), telemetry=TelemetrySummary(energy=energy)
    )
    check = cell.checks[0].model_copy(update={"rate_low": 0.01, "rate_high": 0.04})
    facts = facts_of(cell.model_copy(update={"checks": (check,)}))
    assert facts.usd_per_1000_good == 2.1
    assert facts.usd_per_1000_good_range == (pytest.approx(2 / 0.99), pytest.approx(2 / 0.96))
    assert facts.joules_per_request == 10.0
    assert facts_of(judged("a", cost=None)) == StackFacts()


# --- capacity, what binds, headroom ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "replicas"), [(150, 1), (100, 1), (60, 2), (50, 2), (49, 3), (0, 1), (None, 1)])
def test_a_capacity_asks_for_whole_replicas(low: int | None, replicas: int) -> None:
    found = with_facts(candidate(), StackFacts(capacity_users_low=low, usd_per_month=7.0), users=100)
    assert found.replicas == replicas
    assert found.facts.usd_per_month == 7.0


def test_facts_from_elsewhere_keep_what_the_run_knows() -> None:
    found = with_facts(known(joules_per_request=3.0), StackFacts(usd_per_month=7.0), users=100)
    assert (found.facts.joules_per_request, found.facts.usd_per_month) == (3.0, 7.0)


def test_the_least_room_binds() -> None:
    checks = (("p95(e2e) < 2 s", 0.4), ("error_rate < 2 %", 0.1))
    assert binding(candidate(margins=checks)) == "error_rate < 2 %: 10% of the limit left"
    roomy = candidate(margins=checks, facts=StackFacts(capacity_users_low=200))
    assert binding(roomy, users=100).startswith("error_rate")
    tight = candidate(margins=checks, facts=StackFacts(capacity_users_low=105))
    assert binding(tight, users=100) == "capacity: at least 105 users where 100 are asked"
    missed = candidate(verdict=Verdict.FAIL, margins=(("p95(e2e) < 2 s", -0.25), ("error_rate < 2 %", 0.1)))
    assert decide(missed).binding == "p95(e2e) < 2 s: missed by 25% of the limit"
    assert binding(candidate(margins=(("p95(e2e) < 2 s", -3.5),))) == "p95(e2e) < 2 s: 4.5 times the limit"
    assert binding(candidate(margins=(("p95(e2e) < 2 s", -math.inf),))).endswith(
        "too many requests never got an answer"
    )


@pytest.mark.parametrize(
    ("low", "text"),
    [
        (130, "20% more users (120) fit: the capacity is at least 130."),
        (120, "20% more users (120) fit: the capacity is at least 120."),
        (110, "20% more users (120) are not shown to fit: the capacity is at least 110, which leaves 10%."),
    ],
)
def test_headroom_by_capacity(low: int, text: str) -> None:
    assert headroom(known(capacity_users_low=low), 100) == text


def test_headroom_by_margin_and_growth() -> None:
    """1.5 s x 1.2 = 1.8 s is under 2 s; x 1.4 = 2.1 s is not."""
    assert headroom(candidate(value=1.5, growth=1.2), 100) == (
        "20% more users (120) would still pass by arithmetic: measured 1.5 s x 1.2, the growth that the roofline "
        "predicts, is 1.8 s for p95(e2e) < 2 s."
    )
    assert "would miss the limit" in headroom(candidate(value=1.5, growth=1.4), 100)
    assert "emulated 1.5 s" in headroom(candidate(value=1.5, growth=1.2, marks=(Mark.EMULATED,)), 100)
    goodput = candidate(value=12.0, limit=10.0, unit="req/s", lower_is_better=False, growth=0.9)
    assert "would still pass" in headroom(goodput, 100)
    assert "not known" in headroom(candidate(growth=None), 100)
    assert headroom(candidate(), None) == ""


@pytest.mark.parametrize(("users", "more"), [(100, "(120)"), (5, "(6)"), (1, "(2)"), (1000, "(1,200)")])
def test_a_fifth_more_users_are_whole_ones(users: int, more: str) -> None:
    assert more in headroom(candidate(), users)


# --- limits --------------------------------------------------------------------------------------------------------


def test_a_tighter_limit_flips_at_the_upper_bound() -> None:
    found = decide(candidate("a", value=1.0, bound=1.2), candidate("b", usd_per_query=0.002, value=0.6, bound=0.7))
    assert "If p95(e2e) had to stay under 1.2 s in place of 2 s, it would be B." in found.flips
    alone = decide(candidate("a", value=1.0, bound=1.2), candidate("b", usd_per_query=0.002, value=1.1, bound=1.3))
    assert "If p95(e2e) had to stay under 1.2 s in place of 2 s, it would be none of them." in alone.flips


def test_a_looser_limit_lets_a_cheaper_one_in() -> None:
    slow = candidate(
        "slow", Verdict.FAIL, usd_per_query=0.0001, value=2.5, bound=2.6, margins=(("p95(e2e) < 2 s", -0.25),)
    )
    assert "If p95(e2e) could be 2.6 s, it would be SLOW." in decide(slow, candidate("b")).flips
    slower = replace(slow, stack="slower", title="SLOWER", value=4.0, bound=4.2, usd_per_query=0.00005)
    dearer = replace(slow, stack="dearer", title="DEARER", value=3.0, bound=3.2, usd_per_query=0.0002)
    flips = decide(slow, slower, dearer, candidate("b")).flips
    assert [flip for flip in flips if "(e2e) could be" in flip] == [
        "If p95(e2e) could be 2.6 s, it would be SLOW.",
        "If p95(e2e) could be 4.2 s, it would be SLOWER.",
    ]
    dear = replace(slow, usd_per_query=1.0)
    assert not any("(e2e) could be" in flip for flip in decide(dear, candidate("b")).flips)
    broken = replace(slow, margins=(*slow.margins, ("error_rate < 2 %", -3.0)))
    assert not any("(e2e) could be" in flip for flip in decide(broken, candidate("b")).flips)


# --- properties ----------------------------------------------------------------------------------------------------

PRICED = st.lists(st.floats(1.0, 1e5), min_size=1, max_size=6)


@given(months=PRICED, place=st.integers(0, 5), share=st.floats(0.01, 1.0))
def test_a_lower_price_never_makes_a_stack_lose(months: list[float], place: int, share: float) -> None:
    place %= len(months)
    before = [known(f"s{index}", usd_per_month=month) for index, month in enumerate(months)]
    name = before[place].stack
    if decide(*before).pick == name:
        after = [
            known(each.stack, usd_per_month=month * (share if each.stack == name else 1.0))
            for each, month in zip(before, months, strict=True)
        ]
        assert decide(*after).pick == name


@given(months=PRICED, factor=st.floats(1.001, 3))
def test_the_price_that_flips_a_pick_does(months: list[float], factor: float) -> None:
    """Dearer than the runner-up by more than what counts as the same, and the pick is no longer the pick."""
    field = [known(f"s{index}", usd_per_month=month) for index, month in enumerate(months)]
    found = decide(*field)
    if found.runner_up is None:
        return
    theirs = next(each.facts.usd_per_month for each in field if each.stack == found.runner_up)
    assert theirs is not None
    dearer = [
        replace(each, facts=StackFacts(usd_per_month=theirs * (1.01 * factor))) if each.stack == found.pick else each
        for each in field
    ]
    assert decide(*dearer).pick != found.pick


@given(low=st.integers(1, 500), more=st.integers(0, 500), users=st.integers(1, 400))
def test_more_capacity_never_takes_headroom_away(low: int, more: int, users: int) -> None:
    def fits(capacity: int) -> bool:
        return " fit: " in headroom(known(capacity_users_low=capacity), users)

    assert fits(low + more) or not fits(low)
