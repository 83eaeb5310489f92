"""What a capacity search may tell a recommendation, and when it has to be silent."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from harness.advice import advise
from harness.capacity_record import CapacityRecord, SearchSettings
from harness.catalog import load_catalog
from harness.judgement import Judgement, Mark, Verdict
from harness.studies import stack_facts
from tests import factories
from tests.unit.test_capacity_page import level, record

SCENARIO, STACK = "chatbot", "vllm-7b-int8-a100"


def search(users: float = 200, **changes: Any) -> CapacityRecord:
    levels = (level(users, Verdict.PASS, 0.0, 1.1), level(2 * users, Verdict.FAIL, 0.9, 6.0))
    return record(levels, **{"scenario": SCENARIO, "stack": STACK, **changes})


def cell(**changes: Any) -> Judgement:
    return factories.judgement(SCENARIO, STACK, median_s=0.9, **changes)


def test_the_lower_end_and_the_costs_are_told() -> None:
    found = search()
    facts = stack_facts([found], [cell()])[SCENARIO, STACK]
    assert found.sizing is not None
    assert facts.capacity_users_low == 200
    assert facts.usd_per_month == found.sizing.usd_per_month
    assert facts.usd_per_1000_good == found.sizing.usd_per_1000_good


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"think time": "1"}},
        {"options": {"output tokens": "20"}},
        {"options": {"faults": "500:0.1"}},
        {"marks": ()},
        {"marks": (Mark.EMULATED, Mark.CLAIM_REPLAYED)},
        {"marks": (Mark.EMULATED, Mark.REDUCED)},
        {"marks": (Mark.EMULATED, Mark.OTHER_GPU)},
        {"settings": SearchSettings(kind="rate", start=1, most=9, levels_max=3)},
        {"stack": "another"},
    ],
    ids=str,
)
def test_another_question_or_another_origin_tells_nothing(changes: dict[str, Any]) -> None:
    assert stack_facts([search(**changes)], [cell()]) == {}


def test_the_last_search_counts() -> None:
    found = [search(300, started="2026-11-22T12:00:00+00:00"), search(100, started="2026-11-21T12:00:00+00:00")]
    assert stack_facts(found, [cell()])[SCENARIO, STACK].capacity_users_low == 300


def test_costs_that_were_sized_differently_are_not_compared() -> None:
    other = search(stack="vllm-7b-a100")
    assert other.sizing is not None
    assert other.sizing.replicas is not None
    plan = other.sizing.replicas.model_copy(update={"utilisation": 0.5})
    other = other.model_copy(update={"sizing": other.sizing.model_copy(update={"replicas": plan})})
    facts = stack_facts([search(), other], [cell(), factories.judgement(SCENARIO, "vllm-7b-a100")])
    assert [each.capacity_users_low for each in facts.values()] == [200, 200]
    assert all(each.usd_per_month is None and each.usd_per_1000_good is None for each in facts.values())


def test_a_recommendation_tells_headroom_and_replicas_by_the_capacity() -> None:
    catalog, today = load_catalog(), date(2026, 11, 23)
    roomy, short = (advise([cell()], catalog, today, stack_facts([search(users)], [cell()]))[0] for users in (200, 60))
    assert roomy.pick == short.pick == STACK
    assert roomy.headroom == "20% more users (120) fit: the capacity is at least 200."
    assert (roomy.replicas, short.replicas) == (1, 2)
