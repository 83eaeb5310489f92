"""The rule of the recommendation, by hand."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest

from harness.candidates import quality_rank
from harness.judgement import Mark, Verdict
from harness.ranking import SAME_COST
from harness.recommend import Recommendation
from harness.spec import QualityNeed, Word
from tests.unit.recommend_support import candidate, decide


def test_the_scale_orders_the_words() -> None:
    words = ["limited", "simple sentences only", "acceptable", "good", "high", "Superior "]
    assert [quality_rank(word) for word in words] == [0, 1, 2, 3, 4, 5]
    assert quality_rank("sufficient") == quality_rank("acceptable") == quality_rank("medium")
    assert quality_rank("good") == quality_rank("medium-high")
    assert quality_rank("superior") == quality_rank("excellent")
    assert quality_rank("great") is quality_rank(None) is None
    assert all(quality_rank(need) is not None for need in get_args(QualityNeed))


@pytest.mark.parametrize(("cost", "pick"), [("high", "cheap"), ("medium", "cheap"), ("low", "fine")])
def test_cost_decides_where_it_matters_and_quality_where_it_does_not(cost: Word, pick: str) -> None:
    cheap, fine = candidate("cheap", quality="good"), candidate("fine", quality="superior", usd_per_query=0.01)
    found = decide(fine, cheap, cost=cost)
    assert found.pick == pick
    assert found.runner_up == ({"cheap", "fine"} - {pick}).pop()
    assert found.ties == ()


def test_the_other_criterion_breaks_a_draw() -> None:
    better = candidate("z", quality="superior", usd_per_query=0.001 * (1 + SAME_COST / 2))
    assert decide(candidate("a"), better, cost="high").pick == "z"
    assert decide(candidate("a", usd_per_query=0.002), candidate("z"), cost="low").pick == "z"


def test_ties_are_named() -> None:
    found = decide(candidate("a"), candidate("b", usd_per_query=0.001001), candidate("c", usd_per_query=0.002))
    assert (found.pick, found.ties, found.runner_up) == ("a", ("b",), "b")
    assert "level with B" in found.sentence


def test_a_tie_goes_to_the_one_with_more_headroom() -> None:
    assert decide(candidate("a", value=1.5), candidate("b", value=0.5)).pick == "b"


def test_an_unknown_cost_is_not_a_low_one() -> None:
    free = candidate("free", usd_per_query=None)
    assert decide(free, candidate("paid")).pick == "paid"
    assert "cost not known" in decide(free).sentence


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"verdict": Verdict.FAIL, "reason": "too slow"}, "FAIL: too slow"),
        ({"verdict": Verdict.INCONCLUSIVE}, "INCONCLUSIVE"),
        (
            {"verdict": Verdict.INVALID, "reason": "the client was the bottleneck"},
            "INVALID: the client was the bottleneck",
        ),
        ({"verdict": Verdict.NOT_MEASURED}, "NOT MEASURED"),
        ({"quality": "limited"}, "quality 'limited' is below the need, medium"),
        ({"quality": None}, "its quality is not known"),
        ({"quality": "great"}, "its quality is not known ('great' is not on the scale)"),
        ({"marks": (Mark.REDUCED,)}, "it passed under a reduced load, which says nothing about the scenario's"),
        ({"marks": (Mark.OTHER_GPU,)}, "it passed on another GPU than its own, which says nothing about its own"),
    ],
)
def test_why_a_stack_is_dropped(changes: dict[str, Any], why: str) -> None:
    found = decide(candidate("a", **changes), candidate("b", usd_per_query=1.0))
    assert found.dropped == {"a": why}
    assert found.pick == "b"
    assert decide(candidate("a", **changes)).pick is None


def test_inconclusive_is_never_picked_but_would_be_named() -> None:
    found = decide(candidate("a", Verdict.INCONCLUSIVE, usd_per_query=0.0001), candidate("b"))
    assert found.pick == "b"
    assert "If A, which is INCONCLUSIVE, passed, it would be the pick." in found.flips
    dearer = decide(candidate("a", Verdict.INCONCLUSIVE, usd_per_query=0.1), candidate("b"))
    assert not any("INCONCLUSIVE" in flip for flip in dearer.flips)


def test_what_a_pick_rests_on_is_said() -> None:
    replayed = decide(candidate(marks=(Mark.EMULATED, Mark.CLAIM_REPLAYED)))
    assert (replayed.rests_on_claim, replayed.rests_on_emulation) == (True, True)
    assert "rests on a claim" in replayed.sentence
    emulated = decide(candidate(marks=(Mark.EMULATED,)))
    assert (emulated.rests_on_claim, emulated.rests_on_emulation) == (False, True)
    assert "emulated" in emulated.sentence
    measured = decide(candidate())
    assert not measured.rests_on_claim
    assert not measured.rests_on_emulation
    assert measured.reasons == (
        "p95(e2e) < 2 s: 1 s, 50% of the limit left",
        "quality claimed, not measured: 'good' meets the need, medium",
        "$0.00100 a query",
    )


def test_when_none_passes_the_nearest_is_named_with_its_gap() -> None:
    found = decide(
        candidate("far", Verdict.FAIL, value=8.0),
        candidate("near", Verdict.FAIL, value=2.5),
        candidate("poor", Verdict.FAIL, value=2.1, quality="limited"),
        variants=("a-variant",),
    )
    assert found.pick is None
    assert (found.nearest, found.gap) == ("near", "2.5 s for p95(e2e) < 2 s, 1.25 times the limit")
    assert found.variants == ("a-variant",)
    assert found.sentence == (
        "chatbot: no recommendation. Nearest is NEAR: 2.5 s for p95(e2e) < 2 s, 1.25 times the limit. "
        "Physics allows a-variant, not judged yet."
    )


@pytest.mark.parametrize(
    ("changes", "gap"),
    [
        ({"value": math.inf, "reason": "timeouts"}, "too many of its requests never got an answer for p95(e2e) < 2 s"),
        ({"value": 1.0, "reason": "errors"}, "FAIL: errors"),
        ({"value": None, "limit": None, "reason": "does not fit"}, "FAIL: does not fit"),
        ({"verdict": Verdict.PASS, "quality": "limited"}, "quality 'limited' is below the need, medium"),
        (
            {"value": 0.03, "limit": 0.01, "unit": "%", "check": "error_rate < 1 %"},
            "3 % for error_rate < 1 %, 3 times the limit",
        ),
        ({"value": 30.0, "limit": 10.0, "unit": "req/s", "check": "x"}, "30 req/s for x, 3 times the limit"),
        (
            {"value": 5.0, "limit": 10.0, "unit": "req/s", "check": "x", "lower_is_better": False},
            "5 req/s for x, 50% short of it",
        ),
        ({"value": 0.9, "limit": 0.5, "check": "x"}, "900 ms for x, 1.8 times the limit"),
    ],
)
def test_gaps_of_every_kind(changes: dict[str, Any], gap: str) -> None:
    assert decide(candidate(**({"verdict": Verdict.FAIL} | changes))).gap == gap


def test_no_valid_result_gives_no_recommendation() -> None:
    for found in (decide(), decide(candidate(verdict=Verdict.INVALID))):
        assert (found.pick, found.nearest) == (None, None)
        assert "no stack has a valid result" in found.sentence


def test_a_recommendation_survives_json() -> None:
    found = decide(candidate("a"), candidate("b", Verdict.FAIL, value=math.inf))
    assert Recommendation.model_validate_json(found.model_dump_json()) == found
