"""Replicas and money, worked out by hand beside what the module says."""

from __future__ import annotations

from typing import Any

import pytest

from harness.capacity_record import LevelResult
from harness.cost import DAYS_PER_MONTH
from harness.daily_profile import DAILY_PROFILES, daily_profile
from harness.errors import UsageError
from harness.judgement import Verdict
from harness.sizing import (
    Basis,
    api_capacity,
    check_sizing,
    replica_plan,
    size,
)
from harness.spec import Stack
from tests.runs import scenario, stack

API_PRICE = {"kind": "tokens", "usd_per_million_input": 10, "usd_per_million_output": 20, "source": {"text": "list"}}


def level(load: float = 40, **changes: Any) -> LevelResult:
    facts = {
        "load": load,
        "verdict": Verdict.PASS,
        "sentence": "",
        "run_dir": "",
        "attained": 0.99,
        "response_s": 1.0,
        "think_s": 9.0,
        "prompt_tokens": 100.0,
        "output_tokens": 50.0,
    }
    return LevelResult.model_validate({**facts, **changes})


def own(replicas: int = 1, **changes: Any) -> Stack:
    price = {"kind": "hourly", "usd_per_gpu_hour": 2.0, "source": {"text": "list"}}
    return stack(hardware={"gpu": "t4", "count": 2}, price=price, replicas=replicas, **changes)


def basis(made: Stack | None = None, users: int = 100, **changes: Any) -> Basis:
    facts: dict[str, Any] = {
        "stack": made or own(),
        "scenario": scenario(users=users, think_s=9.0),
        "kind": "users",
        "level": level(),
        "profile": DAILY_PROFILES["flat"],
        "profile_name": "flat",
    }
    return Basis(**{**facts, **changes})


@pytest.mark.parametrize(
    ("users", "load", "replicas", "utilisation", "needed"),
    [(100, 40, 1, 0.8, 4), (96, 40, 1, 0.8, 3), (97, 40, 1, 0.8, 4), (100, 40, 4, 1.0, 10), (1, 40, 1, 0.5, 1)],
)
def test_replicas_are_whole_and_come_from_the_lower_end(
    users: int, load: float, replicas: int, utilisation: float, needed: int
) -> None:
    plan = replica_plan(basis(own(replicas), users, level=level(load), utilisation=utilisation))
    assert plan is not None
    assert (plan.needed, plan.spare, plan.total) == (needed, 1, needed + 1)
    assert f"rounded up = {needed}, and 1 spare" in plan.arithmetic


def test_money_by_hand() -> None:
    found = size(basis())
    # 4 + 1 replicas of 2 GPUs at $2/h
    assert found.usd_per_month == pytest.approx(10 * 2 * 24 * DAYS_PER_MONTH)
    # 100 users ask every 1 + 9 s
    assert found.requests_per_month == pytest.approx(10 * 3600 * 24 * DAYS_PER_MONTH)
    figures = {each.label: each for each in found.figures}
    query = figures["a query at the peak hour"]
    assert query.value == pytest.approx(2 / 3600 * 10 * (1 + 9) / 100)
    assert "$2.00/h / 3600 x 10 GPUs x (1 s + 9 s) / 100 users" in query.arithmetic
    idle = figures["a query, idle hours paid for"].value
    assert idle == pytest.approx(query.value), "a flat day has no idle hours"
    assert figures["1,000 good requests"].value == pytest.approx(1000 * idle / 0.99)
    assert figures["a million output tokens"].value == pytest.approx(idle / 50 * 1e6)
    assert "5 replicas x 2 GPUs x $2.00/h x 730 h" in figures["a month"].arithmetic


def test_idle_hours_cost() -> None:
    flat, office = size(basis()), size(basis(profile=DAILY_PROFILES["office-hours"], profile_name="office-hours"))
    assert office.usd_per_month == flat.usd_per_month
    assert flat.usd_per_1000_good is not None
    assert office.usd_per_1000_good is not None
    share = sum(DAILY_PROFILES["office-hours"].weights) / 24
    assert office.usd_per_1000_good == pytest.approx(flat.usd_per_1000_good / share)


def test_the_rate_of_an_open_loop() -> None:
    found = size(basis(kind="rate", level=level(4.0)))
    assert found.replicas is not None
    assert found.replicas.load == pytest.approx(10.0)
    assert found.replicas.needed == 4  # 10 / (0.8 x 4) = 3.1
    assert "100 users / (1 s + 9 s) = 10 requests/s" in found.replicas.arithmetic


def test_an_api_costs_its_tokens() -> None:
    api = stack(name="paid", price=API_PRICE)
    found = size(basis(api))
    assert found.replicas is None
    figures = {each.label: each.value for each in found.figures}
    assert figures["a query"] == pytest.approx((100 * 10 + 50 * 20) / 1e6)
    assert found.usd_per_month == pytest.approx((found.requests_per_month or 0) * 0.002)
    assert "the account's rate limits are not known" in found.notes[0]
    limited = size(basis(api, level=level(requests_per_min_allowed=500, tokens_per_min_allowed=10**9)))
    assert (
        "500 requests/min / 60 = 8.333 requests/s; x 10 s a cycle = 83 users, too few for the scenario's 100 users"
        in (limited.notes[0])
    )


@pytest.mark.parametrize(
    ("requests", "tokens", "cycle_s", "rate", "users"),
    [
        (600, None, 10, 10.0, 100.0),
        (None, 90_000, 10, 10.0, 100.0),
        (600, 9_000, 10, 1.0, 10.0),
        (600, None, None, 10.0, None),
        (None, None, 10, None, None),
    ],
)
def test_rate_limits_are_an_apis_capacity(
    requests: float | None, tokens: float | None, cycle_s: float | None, rate: float | None, users: float | None
) -> None:
    assert api_capacity(requests, tokens, 150, cycle_s)[:2] == (rate, users)


def test_break_even_volume_of_a_replica() -> None:
    found = size(basis(), api=stack(name="paid", price=API_PRICE)).break_even
    assert found is not None
    # 0.8 x 40 users / 10 s, all day and all month
    assert found.requests_per_replica_month == pytest.approx(3.2 * 86400 * DAYS_PER_MONTH)
    assert found.usd_per_replica_month == pytest.approx(2 * 2 * 24 * DAYS_PER_MONTH)
    assert found.api_usd_per_query == pytest.approx(0.002)
    assert len(found.crossings) == 1
    assert found.crossings[0].requests == pytest.approx(2 * found.usd_per_replica_month / 0.002)


def test_sensitivity() -> None:
    found = size(basis(), at_limit={0.8: None, 1.2: level(80)})
    assert found.usd_per_1000_good is not None
    bars = {bar.label: bar for bar in found.bars}
    price = bars["price of a GPU hour"]
    assert price.low_usd == pytest.approx(0.8 * found.usd_per_1000_good)
    assert price.high_usd == pytest.approx(1.2 * found.usd_per_1000_good)
    used = bars["utilisation target"]
    assert (used.low_text, used.high_text) == ("60%", "100%")
    assert used.low_usd == pytest.approx(6 / 5 * found.usd_per_1000_good)  # 5 + 1 replicas in place of 4 + 1
    assert used.high_usd == pytest.approx(4 / 5 * found.usd_per_1000_good)
    limit = bars["limit of the latency checks"]
    assert limit.low_usd is None
    assert limit.note == "at x 0.8 of the limit no tested level passes"
    assert limit.high_usd == pytest.approx(3 / 5 * found.usd_per_1000_good)
    assert found.bars[0] is limit, "what matters most comes first"


def test_without_a_price_there_are_replicas_and_a_reason() -> None:
    found = size(basis(stack()))
    assert found.replicas is not None
    assert found.replicas.needed == 4
    assert (found.figures, found.usd_per_month, found.notes) == ((), None, ("no cost: a test",))


def test_profiles_are_whole_days() -> None:
    assert all(len(each.weights) == 24 and max(each.weights) == 1 and each.reason for each in DAILY_PROFILES.values())
    name, own_weights = daily_profile(",".join(["2"] * 12 + ["0"] * 12))
    assert (name, own_weights.peak_hours) == ("own", 12)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ofice-hours", "did you mean 'office-hours'"),
        ("1,2", "needs 24 weights"),
        ("a,b", "neither a profile's name nor 24 numbers"),
        (",".join(["0"] * 24), "not all 0"),
    ],
)
def test_a_day_that_is_none(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        daily_profile(text)


@pytest.mark.parametrize(("utilisation", "spare"), [(0, 1), (1.1, 1), (float("nan"), 1), (0.8, -1)])
def test_a_plan_that_cannot_be(utilisation: float, spare: int) -> None:
    with pytest.raises(UsageError):
        check_sizing(utilisation, spare)
