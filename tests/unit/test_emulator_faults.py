"""The fault specification and who is struck."""

from __future__ import annotations

import pytest

from harness.errors import UsageError
from servers.emulator.faults import FAULTS, FaultPlan


def struck(text: str, requests: int, seed: int = 0) -> list[str]:
    plan = FaultPlan.parse(text, seed)
    found = [plan.strike(number) for number in range(requests)]
    return ["" if fault is None else fault.name for fault in found]


def test_a_count_strikes_the_first_requests() -> None:
    assert struck("500:2", 4) == ["500", "500", "", ""]


def test_a_probability_strikes_its_share_the_same_way_each_time() -> None:
    found = struck("reset:0.1", 5000)
    assert 400 < found.count("reset") < 600
    assert found == struck("reset:0.1", 5000)
    assert found != struck("reset:0.1", 5000, seed=1)


def test_the_first_listed_wins() -> None:
    assert struck("429:1,500:1.0", 3) == ["429", "500", "500"]


def test_keys_and_their_defaults() -> None:
    plan = FaultPlan.parse("429:1.0:retry_after=2.5")
    fault = plan.strike(0)
    assert fault is not None
    assert fault.keys == {"retry_after": 2.5}
    stall = FaultPlan.parse("stall:1.0").strike(0)
    assert stall is not None
    assert stall.after == 1


def test_faults_of_the_whole_server_strike_no_request() -> None:
    plan = FaultPlan.parse("slow_start:1.5,exit_after:200")
    assert plan.strike(0) is None
    assert plan.start_delay_s == 1.5
    assert plan.exit_after == 200
    nothing = FaultPlan.parse("")
    assert nothing.start_delay_s == 0
    assert nothing.exit_after is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sloth:0.1", "unknown fault 'sloth'; known: 429"),
        ("500:often", "a probability"),
        ("500:1.5", "between 0.0 and 1.0"),
        ("500:-0.5", "between 0.0 and 1.0"),
        ("stall:1:until=3", "has no key 'until'; known: after"),
        ("stall:1:after=x", "is no number"),
        ("stall:1:after=-2", "below 0"),
    ],
)
def test_mistakes_are_explained(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FaultPlan.parse(text)


def test_every_fault_says_what_it_does() -> None:
    assert all(text for text, _ in FAULTS.values())
