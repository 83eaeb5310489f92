"""Headroom by the plan, own machines against the API, and prices that are out of date."""

from __future__ import annotations

import re
from datetime import date

import pytest

from harness.advice import advise, believed, fallback, predicted_growth
from harness.candidates import StackFacts
from harness.catalog import Catalog, load_catalog
from harness.judgement import Mark, Verdict
from harness.plan import plan_cell
from harness.recommend import recommend
from harness.spec import HourlyPrice, Source
from tests.unit.recommend_support import judged

CLAIMED = {"vllm-7b-t4": "limited", "vllm-13b-a100": "good", "openai-gpt4": "superior"}
TODAY = date(2026, 11, 23)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def from_volume(text: str) -> float:
    found = re.search(r"cheaper from ([\d,]+) queries a month on", text)
    assert found is not None, text
    return float(found[1].replace(",", ""))


@pytest.mark.parametrize(
    ("scenario", "pick"),
    [("chatbot", "vllm-7b-t4"), ("content", "openai-gpt4"), ("translation", "trtllm-13b-2xa100")],
)
def test_believed_claims_give_the_analysis_its_own_recommendations(catalog: Catalog, scenario: str, pick: str) -> None:
    assert believed(catalog, catalog.scenario(scenario)).pick == pick


def test_what_the_claims_alone_would_lead_to_is_told_where_the_runs_lead_elsewhere(catalog: Catalog) -> None:
    told = "If every claim were believed, it would be 7B on one T4, vLLM, 2 of them."
    fails, passes = judged("vllm-7b-t4", Verdict.FAIL, value=9.0), judged("vllm-13b-a100", quality_word="good")
    (other,) = advise([fails, passes], catalog, TODAY)
    assert (other.pick, told in other.flips) == ("vllm-13b-a100", True)
    (nobody,) = advise([fails], catalog, TODAY)
    assert (nobody.pick, nobody.flips) == (None, (told,))
    (same,) = advise([judged("vllm-7b-t4", quality_word="sufficient")], catalog, TODAY)
    assert (same.pick, told in same.flips) == ("vllm-7b-t4", False)


def test_13b_on_an_a100_if_the_api_gets_too_dear(catalog: Catalog) -> None:
    """By hand: an answer ends between 700 and 1,000 tokens, 850 on average, after 170 of a brief."""
    claimed = [judged(name, scenario="content", quality_word=word) for name, word in CLAIMED.items()]
    [text] = advise(claimed, catalog, TODAY)[0].fallback
    api_usd = (170 * 30 + 850 * 60) / 1e6
    month_usd = 3.4309 * 730
    assert text.startswith("13B on one A100, vLLM in place of GPT-4, OpenAI API: ")
    assert from_volume(text) == pytest.approx(month_usd / api_usd, rel=1e-3)
    assert "$2,504.56 a month, idle or not" in text
    assert text.endswith("It was not considered here: quality 'good' is below the need, high.")


def test_a_measured_capacity_takes_the_plans_place(catalog: Catalog) -> None:
    """3 users who ask every 10 s + 10 s are 0.15 queries/s, 394,200 a month: many machines before the next pays."""
    scenario = catalog.scenario("content")
    own, api = catalog.stack("vllm-13b-a100"), catalog.stack("openai-gpt4")
    text = fallback(catalog, scenario, own, api, StackFacts(capacity_users_low=3))
    assert "answers 394,200 queries a month at most" in text
    assert "the lower end of its measured capacity" in text
    assert from_volume(text) == pytest.approx(3.4309 * 730 / 0.0561, rel=1e-3)
    dear = own.model_copy(
        update={"price": HourlyPrice(kind="hourly", usd_per_gpu_hour=25, source=Source(text="x", read=TODAY))}
    )
    steps = fallback(catalog, scenario, dear, api, StackFacts(capacity_users_low=3))
    worth, full = 25 * 730 / 0.0561, 394_200
    assert worth < full < 2 * worth
    assert re.search(r"cheaper 3\d\d,\d{3} to 394,200, again 6\d\d,\d{3} to 788,400", steps)
    hopeless = fallback(catalog, scenario, dear, api, StackFacts(capacity_users_low=2))
    assert "never cheaper" in hopeless


def test_what_answers_nobody_pays_for_nothing(catalog: Catalog) -> None:
    text = fallback(catalog, catalog.scenario("content"), catalog.stack("vllm-7b-t4"), catalog.stack("openai-gpt4"))
    assert "it answers nobody here" in text
    api = catalog.stack("openai-gpt4")
    assert fallback(catalog, catalog.scenario("content"), api, api) == ""


def test_growth_is_the_plans(catalog: Catalog) -> None:
    scenario, stack = catalog.scenario("chatbot"), catalog.stack("vllm-7b-a100")
    now = plan_cell(catalog, scenario, stack).predicted
    then = plan_cell(catalog, scenario.model_copy(update={"users": 120}), stack).predicted
    assert now is not None
    assert then is not None
    assert predicted_growth(catalog, "chatbot", "vllm-7b-a100") == pytest.approx(then / now)
    assert then > now
    assert predicted_growth(catalog, "chatbot", "openai-gpt4") is None
    assert predicted_growth(catalog, "elsewhere", "vllm-7b-a100") is None
    assert predicted_growth(catalog, "chatbot", "attached") is None


def test_judged_cells_are_advised_on(catalog: Catalog) -> None:
    cells = [judged("vllm-7b-int8-a100"), judged("openai-gpt4", Verdict.FAIL, value=3.0, marks=(Mark.EMULATED,))]
    [found] = advise(cells, catalog, TODAY)
    growth = predicted_growth(catalog, "chatbot", "vllm-7b-int8-a100")
    assert found.pick == "vllm-7b-int8-a100"
    assert f"measured 1 s x {growth:.3g}" in found.headroom
    assert len(found.fallback) == 1
    assert "in place of GPT-4" in found.fallback[0]
    assert found.price_notes == ()
    [late] = advise(cells, catalog, date(2027, 3, 1))
    assert late.price_notes == (
        "Prices read on 2026-11-22, 99 days ago, to be looked up again: GPT-4, OpenAI API; 7B INT8 on one A100, vLLM.",
    )


def test_facts_reach_the_recommendation(catalog: Catalog) -> None:
    facts = {("chatbot", "vllm-7b-int8-a100"): StackFacts(capacity_users_low=140)}
    [found] = advise([judged("vllm-7b-int8-a100")], catalog, TODAY, facts)
    assert found.headroom == "20% more users (120) fit: the capacity is at least 140."
    assert "capacity of one: at least 140 users" in found.reasons


def test_a_scenario_of_somebody_else_is_passed_on(catalog: Catalog) -> None:
    [found] = advise([judged("vllm-7b-t4", scenario="elsewhere")], catalog, TODAY)
    assert (found.pick, found.fallback, found.headroom) == (None, (), "")


def test_inconclusive_is_never_picked_whatever_else_is_known(catalog: Catalog) -> None:
    facts = {("chatbot", "vllm-7b-int8-a100"): StackFacts(capacity_users_low=1000, usd_per_month=1.0)}
    [found] = advise([judged("vllm-7b-int8-a100", Verdict.INCONCLUSIVE)], catalog, TODAY, facts)
    assert found.pick is None
    assert recommend("chatbot", [], cost_sensitivity="low", quality_need="medium", users=100).headroom == ""
