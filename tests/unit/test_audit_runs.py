"""Claims beside recorded runs: what confirms, what contradicts, and what proves nothing."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from harness.audit import SUBJECTS, audit
from harness.audit.lines import AuditLine, ClaimCell, Standing, Subject
from harness.catalog import Catalog, load_catalog
from harness.judgement import (
    ClientHealth,
    CostSummary,
    Distribution,
    Judgement,
    LoadSummary,
    Mark,
    SeriesSummary,
    TelemetrySummary,
    Verdict,
)
from harness.spec import Claim

TODAY = date(2026, 11, 23)
SCENARIO, STACK = "translation", "trtllm-13b-2xa100"
"""Its claims: 0.2 s for 20 tokens, 28 GB a GPU, $0.0003 a query, 1,000 users."""


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    """With claims of cost and users that physics leaves open."""
    loaded = load_catalog()
    stack = loaded.stack(STACK)
    claim = Claim.model_validate({**stack.claims[SCENARIO].model_dump(), "cost_usd": 0.00001})
    new = stack.model_copy(update={"claims": {SCENARIO: claim}})
    return Catalog(loaded.scenarios, {**loaded.stacks, STACK: new}, loaded.gpus, loaded.profiles)


def run(
    verdict: Verdict = Verdict.PASS,
    p50_s: float = 0.19,
    tokens: float | None = 20.0,
    users: int = 1000,
    usd: float | None = 0.00001,
    gpu_gb: float | None = None,
    marks: tuple[Mark, ...] = (),
    stack: str = STACK,
    scenario: str = SCENARIO,
) -> Judgement:
    series = [] if gpu_gb is None else [_memory(0, gpu_gb), _memory(1, gpu_gb / 2), _memory(None, 1.5 * gpu_gb)]
    return Judgement(
        run="r",
        scenario=scenario,
        scenario_title="",
        stack=stack,
        stack_title="",
        verdict=verdict,
        sentence="",
        marks=marks,
        distributions=(Distribution(metric="e2e", samples=100, failures=0, p50=p50_s),),
        load=LoadSummary(users=users, users_reached=users, tokens_got_mean=tokens),
        client=ClientHealth(workers=1),
        cost=CostSummary(usd_per_query=usd),
        telemetry=TelemetrySummary(series=tuple(series)),
    )


def _memory(device: int | None, gigabytes: float) -> SeriesSummary:
    top = gigabytes * 1e9
    return SeriesSummary(name="gpu_memory_bytes", device=device, readings=9, min=top, mean=top, p95=top, max=top)


def line(catalog: Catalog, subject: Subject, *runs: Judgement) -> AuditLine:
    scenario, stack = catalog.scenario(SCENARIO), catalog.stack(STACK)
    found = SUBJECTS[subject](ClaimCell.of(catalog, scenario, stack, stack.claims[SCENARIO], runs))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("subject", "changes", "standing"),
    [
        ("latency", {}, Standing.CONFIRMED),
        ("latency", {"p50_s": 0.21}, Standing.CONFIRMED),  # a round number
        ("latency", {"p50_s": 0.211}, Standing.CONTRADICTED),
        ("latency", {"p50_s": 0.19, "tokens": 17.0}, Standing.PLAUSIBLE),  # 0.224 s at 20 tokens: neither
        ("latency", {"p50_s": 0.22, "tokens": 17.0}, Standing.CONTRADICTED),  # shorter answers, and still slower
        ("latency", {"p50_s": 0.22, "tokens": 25.0}, Standing.PLAUSIBLE),
        ("latency", {"p50_s": 0.22, "tokens": None}, Standing.PLAUSIBLE),
        ("latency", {"p50_s": 0.4, "users": 1200}, Standing.PLAUSIBLE),  # more users than the claim speaks of
        ("memory", {"gpu_gb": 27.0}, Standing.CONFIRMED),
        ("memory", {"gpu_gb": 72.0}, Standing.PLAUSIBLE),  # engines reserve what they may use
        ("users", {}, Standing.CONFIRMED),
        ("users", {"users": 900}, Standing.UNPROVEN),
        ("users", {"verdict": Verdict.FAIL}, Standing.CONTRADICTED),
        ("users", {"verdict": Verdict.FAIL, "users": 1100}, Standing.UNPROVEN),
        ("users", {"verdict": Verdict.INCONCLUSIVE}, Standing.UNPROVEN),
        ("cost", {}, Standing.CONFIRMED),
        ("cost", {"usd": 0.00002}, Standing.CONTRADICTED),
        ("cost", {"usd": 0.00002, "users": 500}, Standing.PLAUSIBLE),  # half of the users share the same machine
        ("cost", {"usd": None}, Standing.PLAUSIBLE),
    ],
)
def test_a_run_on_the_claims_own_hardware(
    catalog: Catalog, subject: Subject, changes: dict[str, Any], standing: Standing
) -> None:
    assert line(catalog, subject, run(**changes)).standing is standing


@pytest.mark.parametrize("mark", [Mark.EMULATED, Mark.CLAIM_REPLAYED, Mark.REDUCED, Mark.OTHER_GPU])
@pytest.mark.parametrize("subject", ["latency", "memory", "users", "cost"])
@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.FAIL])
def test_what_ran_on_something_else_is_shown_and_decides_nothing(
    catalog: Catalog, subject: Subject, mark: Mark, verdict: Verdict
) -> None:
    marked = run(verdict, p50_s=0.15, usd=0.000001, gpu_gb=20.0, marks=(mark,))
    bare, found = line(catalog, subject), line(catalog, subject, marked)
    assert found.standing is bare.standing
    assert bare.measured is None
    assert (found.measured is not None, found.marks) == (True, (mark,))
    word = "Emulated" if mark in (Mark.EMULATED, Mark.CLAIM_REPLAYED) else "Measured"
    assert f"{word}: " in found.sentence


def test_an_invalid_run_and_one_of_another_cell_are_not_there(catalog: Catalog) -> None:
    others = [run(Verdict.INVALID), run(stack="openai-gpt4"), run(scenario="chatbot")]
    bare, found = (audit(catalog, TODAY, [SCENARIO], [STACK], runs) for runs in ([], others))
    assert found == bare


def test_runs_that_disagree_decide_nothing(catalog: Catalog) -> None:
    found = line(catalog, "users", run(), run(Verdict.FAIL))
    assert found.standing is Standing.UNPROVEN
    assert "Runs disagree" in found.sentence


def test_a_real_run_is_shown_before_an_emulated_one(catalog: Catalog) -> None:
    emulated = run(p50_s=0.5, marks=(Mark.EMULATED,))
    for runs in ((emulated, run()), (run(), emulated)):
        found = line(catalog, "latency", *runs)
        assert (found.measured, found.marks, found.standing) == (0.19, (), Standing.CONFIRMED)


def test_what_beats_its_floor_is_something_else(catalog: Catalog) -> None:
    stack = catalog.stack(STACK)
    claim = Claim.model_validate({**stack.claims[SCENARIO].model_dump(), "latency_s": 0.1})
    fast = Catalog(
        catalog.scenarios,
        {**catalog.stacks, STACK: stack.model_copy(update={"claims": {SCENARIO: claim}})},
        catalog.gpus,
        catalog.profiles,
    )
    found = line(fast, "latency", run(p50_s=0.09))
    assert found.standing is Standing.IMPOSSIBLE
    assert "what ran was not the model and hardware that the catalog states" in found.sentence
