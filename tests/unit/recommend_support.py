"""Candidates and judged cells as tests of the recommendation want them."""

from __future__ import annotations

from typing import Any

from harness.candidates import Candidate
from harness.judgement import CheckResult, ClientHealth, CostSummary, Judgement, LoadSummary, Verdict
from harness.objective import Objective
from harness.recommend import Recommendation, recommend
from harness.spec import QualityNeed, Word


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
