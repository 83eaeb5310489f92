"""The scenario analysis, believed: its claims give its own recommendations."""

from __future__ import annotations

import pytest

from harness.candidates import candidates_from_claims
from harness.catalog import Catalog, load_catalog
from harness.judgement import Verdict
from harness.recommend import possible_variants, recommend
from tests.unit.recommend_support import decide


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


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
        "If p95(e2e) had to stay under 800 ms in place of 2 s, it would be 13B on one A100, vLLM.",
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
