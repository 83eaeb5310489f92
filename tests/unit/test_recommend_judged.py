"""Judged cells to recommendations: repeated runs, better evidence, scenarios nobody knows."""

from __future__ import annotations

import pytest

from harness.catalog import Catalog, load_catalog
from harness.judgement import CostSummary, LoadSummary, Mark, Verdict
from harness.recommend import recommendations
from tests.unit.recommend_support import judged


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


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


def test_a_pass_with_fewer_users_than_the_scenarios_is_never_picked(catalog: Catalog) -> None:
    few = judged("vllm-7b-int8-a100", load=LoadSummary(users=20, users_reached=20))
    [found] = recommendations([few], catalog)
    assert found.pick is None
    assert found.dropped == {"vllm-7b-int8-a100": "it passed with 20 users, and the scenario has 100"}
    for runs in ([few, judged("vllm-7b-int8-a100")], [judged("vllm-7b-int8-a100"), few]):
        assert recommendations(runs, catalog)[0].pick == "vllm-7b-int8-a100"
    full = judged("vllm-7b-int8-a100", Verdict.FAIL, value=3.0)
    assert recommendations([few, full], catalog)[0].dropped["vllm-7b-int8-a100"].startswith("FAIL")
    more = judged("vllm-7b-int8-a100", load=LoadSummary(users=150, users_reached=150))
    assert recommendations([more], catalog)[0].pick == "vllm-7b-int8-a100"


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
