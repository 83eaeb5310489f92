"""The recommendation: the rule by hand, by property, on the claims and on judged cells."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.candidates import QUALITY_SCALE, Candidate, candidates_from_claims, quality_rank
from harness.catalog import Catalog, load_catalog
from harness.judgement import CheckResult, ClientHealth, CostSummary, Judgement, LoadSummary, Mark, Verdict
from harness.objective import Objective
from harness.ranking import SAME_COST
from harness.recommend import Recommendation, possible_variants, recommend, recommendations
from harness.spec import QualityNeed, Word


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def candidate(stack: str = "a", verdict: Verdict = Verdict.PASS, **changes: Any) -> Candidate:
    values: dict[str, Any] = {
        "quality": "good",
        "usd_per_query": 0.001,
        "check": "p95(e2e) < 2 s",
        "value": 1.0,
        "limit": 2.0,
    }
    return Candidate(stack=stack, title=stack.upper(), verdict=verdict, **(values | changes))


def decide(
    *candidates: Candidate, cost: Word = "medium", quality: QualityNeed = "medium", **more: Any
) -> Recommendation:
    return recommend("chatbot", candidates, cost_sensitivity=cost, quality_need=quality, **more)


# --- the scenario analysis -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "pick", "replicas"),
    [("chatbot", "vllm-7b-t4", 2), ("content", "openai-gpt4", 1), ("translation", "trtllm-13b-2xa100", 1)],
)
def test_the_claims_give_the_recommendations_of_the_scenario_analysis(
    catalog: Catalog, scenario: str, pick: str, replicas: int
) -> None:
    spec = catalog.scenario(scenario)
    candidates = candidates_from_claims(catalog, spec)
    assert len(candidates) == 3
    found = recommend(scenario, candidates, cost_sensitivity=spec.cost_sensitivity, quality_need=spec.quality_need)
    assert (found.pick, found.replicas) == (pick, replicas)
    assert found.rests_on_claim
    assert "rests on a claim" in found.sentence


def test_claims_at_or_over_the_limit_fail(catalog: Catalog) -> None:
    claims = {
        name: {each.stack: each for each in candidates_from_claims(catalog, catalog.scenario(name))}
        for name in ("chatbot", "translation")
    }
    assert claims["chatbot"]["openai-gpt4"].verdict is Verdict.FAIL
    assert claims["chatbot"]["openai-gpt4"].reason == "claimed '~2s for 200 tokens', required p95(e2e) < 2 s"
    too_slow = claims["translation"]["openai-gpt4"]
    assert (too_slow.verdict, too_slow.value) == (Verdict.FAIL, 2.0)


def test_the_chatbots_runner_up_and_what_would_change_the_pick(catalog: Catalog) -> None:
    spec = catalog.scenario("chatbot")
    found = decide(*candidates_from_claims(catalog, spec), cost="medium", quality="medium")
    assert found.runner_up == "vllm-13b-a100"
    assert list(found.dropped) == ["openai-gpt4"]
    assert found.flips == (
        "If 7B on one T4, vLLM failed, it would be 13B on one A100, vLLM.",
        "If a query on 7B on one T4, vLLM cost more than $0.000500 (2.5 times as much), it would be "
        "13B on one A100, vLLM.",
        "If cost sensitivity were low, it would be 13B on one A100, vLLM.",
        "If quality needs were medium-high, it would be 13B on one A100, vLLM.",
        "If quality needs were high, it would be none of them.",
    )


def test_physics_allows_variants_of_enough_quality_only(catalog: Catalog) -> None:
    chatbot = possible_variants(catalog, catalog.scenario("chatbot"), judged=["vllm-7b-int8-a100"])
    assert "vllm-7b-int4-a100" in chatbot
    assert not {"vllm-7b-2xt4", "vllm-7b-int8-l4", "vllm-7b-int4-t4", "vllm-7b-int8-a100"} & {*chatbot}
    assert possible_variants(catalog, catalog.scenario("content")) == ()
    translation = possible_variants(catalog, catalog.scenario("translation"))
    assert translation
    assert all("13b" in name for name in translation)


# --- the rule ------------------------------------------------------------------------------------------------------


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
        "quality 'good' meets the need, medium",
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


# --- judged cells --------------------------------------------------------------------------------------------------


def judged(
    stack: str, verdict: Verdict = Verdict.PASS, scenario: str = "chatbot", value: float = 1.0, **changes: Any
) -> Judgement:
    objective = Objective.parse("p95(e2e) < 2 s")
    check = CheckResult(
        text=objective.text,
        metric=objective.metric,
        aggregate=objective.aggregate,
        comparison=objective.comparison,
        limit=objective.limit,
        unit=objective.unit,
        verdict=verdict,
        reason="",
        value=value,
    )
    values: dict[str, Any] = {
        "run": f"{scenario}-{stack}",
        "scenario": scenario,
        "scenario_title": scenario,
        "stack": stack,
        "stack_title": stack.upper(),
        "verdict": verdict,
        "sentence": f"{verdict} it is.",
        "checks": (check,),
        "load": LoadSummary(users=100, users_reached=100),
        "client": ClientHealth(workers=1),
        "cost": CostSummary(usd_per_query=0.001),
    }
    return Judgement(**(values | changes))


def test_judged_cells_are_recommended_by_scenario(catalog: Catalog) -> None:
    found = recommendations(
        [
            judged("openai-gpt4", scenario="content", marks=(Mark.EMULATED, Mark.CLAIM_REPLAYED)),
            judged("vllm-7b-t4", Verdict.FAIL, value=30.0, reasons=("too slow",)),
            judged("vllm-13b-a100", cost=CostSummary(usd_per_query=0.002)),
            judged("vllm-7b-int8-a100"),
        ],
        catalog,
    )
    assert [(each.scenario, each.pick, each.rests_on_claim) for each in found] == [
        ("chatbot", "vllm-7b-int8-a100", False),
        ("content", "openai-gpt4", True),
    ]
    assert found[0].dropped == {"vllm-7b-t4": "FAIL: too slow"}
    assert found[0].runner_up == "vllm-13b-a100"


def test_when_no_judged_cell_passes_the_variants_left_are_named(catalog: Catalog) -> None:
    [found] = recommendations([judged("vllm-7b-t4", Verdict.FAIL, value=30.0)], catalog)
    assert found.pick is None
    assert found.nearest == "vllm-7b-t4"
    assert found.gap == "30 s for p95(e2e) < 2 s, 15 times the limit"
    assert "vllm-7b-int4-a100" in found.variants


def test_a_reduced_run_of_an_unpriced_engine_is_never_picked(catalog: Catalog) -> None:
    [found] = recommendations([judged("llamacpp-smollm2", marks=(Mark.REDUCED,))], catalog)
    assert found.pick is None
    assert "reduced load" in found.dropped["llamacpp-smollm2"]


@pytest.mark.parametrize(
    ("verdicts", "pick"),
    [
        ((Verdict.PASS, Verdict.PASS), True),
        ((Verdict.PASS, Verdict.INVALID), True),
        ((Verdict.INCONCLUSIVE, Verdict.PASS), True),
        ((Verdict.PASS, Verdict.FAIL), False),
        ((Verdict.FAIL, Verdict.PASS, Verdict.PASS), False),
    ],
)
def test_repeated_runs_of_a_stack_count_once(catalog: Catalog, verdicts: tuple[Verdict, ...], pick: bool) -> None:
    [found] = recommendations([judged("vllm-7b-int8-a100", verdict) for verdict in verdicts], catalog)
    assert (found.pick is not None) == pick
    if not pick:
        passed = verdicts.count(Verdict.PASS)
        assert found.dropped == {
            "vllm-7b-int8-a100": f"INCONCLUSIVE: of {len(verdicts)} runs {passed} passed and 1 failed"
        }


def test_a_real_run_outweighs_an_emulated_one(catalog: Catalog) -> None:
    emulated = judged("vllm-7b-int8-a100", marks=(Mark.EMULATED,))
    real = judged("vllm-7b-int8-a100", Verdict.FAIL, value=3.0)
    for runs in ([emulated, real], [real, emulated]):
        [found] = recommendations(runs, catalog)
        assert found.pick is None
        assert found.dropped["vllm-7b-int8-a100"].startswith("FAIL")


def test_a_run_on_its_own_gpu_outweighs_one_on_another(catalog: Catalog) -> None:
    other = judged("vllm-7b-int8-a100", marks=(Mark.OTHER_GPU,))
    emulated = judged("vllm-7b-int8-a100", Verdict.FAIL, value=3.0, marks=(Mark.EMULATED,))
    real = judged("vllm-7b-int8-a100")
    [found] = recommendations([other, emulated], catalog)
    assert found.dropped["vllm-7b-int8-a100"].startswith("FAIL")
    [found] = recommendations([other, emulated, real], catalog)
    assert found.pick == "vllm-7b-int8-a100"


def test_a_scenario_that_the_catalog_does_not_know_gets_no_recommendation(catalog: Catalog) -> None:
    [found] = recommendations([judged("vllm-7b-t4", scenario="elsewhere")], catalog)
    assert found.pick is None
    assert "the catalog does not say" in found.sentence


def test_a_recommendation_survives_json() -> None:
    found = decide(candidate("a"), candidate("b", Verdict.FAIL, value=math.inf))
    assert Recommendation.model_validate_json(found.model_dump_json()) == found


# --- properties ----------------------------------------------------------------------------------------------------

CANDIDATES = st.builds(
    candidate,
    stack=st.sampled_from("abcdefgh"),
    verdict=st.sampled_from([Verdict.PASS, Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.INVALID]),
    quality=st.sampled_from([word for words in QUALITY_SCALE for word in words if word != "high"] + [None]),
    usd_per_query=st.none() | st.sampled_from([0.001, 0.001005, 0.00101, 0.00102, 0.002]) | st.floats(1e-6, 1),
    value=st.none() | st.floats(0.01, 10),
)
FIELDS = st.lists(CANDIDATES, max_size=8, unique_by=lambda each: each.stack)
COSTS = st.sampled_from(get_args(Word))
NEEDS = st.sampled_from(get_args(QualityNeed))


@given(field=FIELDS, cost=COSTS, quality=NEEDS, order=st.randoms(use_true_random=False))
def test_the_order_does_not_matter(field: list[Candidate], cost: Word, quality: QualityNeed, order: Any) -> None:
    mixed = field[:]
    order.shuffle(mixed)
    assert decide(*mixed, cost=cost, quality=quality) == decide(*field, cost=cost, quality=quality)


@given(field=FIELDS, cost=COSTS, quality=NEEDS)
def test_a_pick_passes_and_is_good_enough_and_everyone_is_accounted_for(
    field: list[Candidate], cost: Word, quality: QualityNeed
) -> None:
    found = decide(*field, cost=cost, quality=quality)
    eligible = {each.stack: each for each in field} | {}
    for name in found.dropped:
        del eligible[name]
    assert (found.pick is None) == (not eligible)
    if found.pick is None:
        return
    pick = eligible[found.pick]
    need, rank = quality_rank(quality), pick.rank
    assert pick.verdict is Verdict.PASS
    assert need is not None
    assert rank is not None
    assert rank >= need
    costs = [each.usd_per_query for each in eligible.values() if each.usd_per_query is not None]
    if cost == "low":
        assert rank == max(each.rank or 0 for each in eligible.values())
    elif costs:
        assert pick.usd_per_query is not None
        assert pick.usd_per_query <= min(costs) * (1 + SAME_COST) * (1 + 1e-12)


@given(
    field=FIELDS,
    cost=COSTS,
    quality=NEEDS,
    newcomer=CANDIDATES,
    verdict=st.sampled_from([Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.INVALID]),
)
def test_a_stack_that_does_not_pass_never_changes_the_pick(
    field: list[Candidate], cost: Word, quality: QualityNeed, newcomer: Candidate, verdict: Verdict
) -> None:
    before = decide(*field, cost=cost, quality=quality)
    after = decide(*field, replace(newcomer, stack="newcomer", verdict=verdict), cost=cost, quality=quality)
    assert (after.pick, after.ties, after.runner_up) == (before.pick, before.ties, before.runner_up)


@given(field=FIELDS, cost=COSTS, quality=NEEDS, share=st.floats(0.01, 0.99))
def test_a_cheaper_equal_never_makes_it_worse(
    field: list[Candidate], cost: Word, quality: QualityNeed, share: float
) -> None:
    before = decide(*field, cost=cost, quality=quality)
    if before.pick is None:
        return
    pick = next(each for each in field if each.stack == before.pick)
    cheaper = replace(
        pick, stack="newcomer", usd_per_query=None if pick.usd_per_query is None else pick.usd_per_query * share
    )
    after = decide(*field, cheaper, cost=cost, quality=quality)
    chosen = next(each for each in [*field, cheaper] if each.stack == after.pick)
    if pick.usd_per_query is not None:
        assert chosen.usd_per_query is not None
        assert chosen.usd_per_query <= pick.usd_per_query
    assert (chosen.rank or 0) >= (pick.rank or 0)


@given(field=FIELDS, cost=COSTS, quality=NEEDS)
def test_without_the_pick_it_is_the_runner_up(field: list[Candidate], cost: Word, quality: QualityNeed) -> None:
    found = decide(*field, cost=cost, quality=quality)
    if found.pick is not None:
        rest = [each for each in field if each.stack != found.pick]
        assert decide(*rest, cost=cost, quality=quality).pick == found.runner_up
        assert set(found.ties) <= {each.stack for each in rest}
