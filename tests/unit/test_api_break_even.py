"""Break-even against brute force, prices that are too old, and the sizing's arithmetic by hand."""

from __future__ import annotations

import json
import math
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness.api_break_even import break_even, crossings
from harness.break_even import MOST_STEPS, own_usd
from harness.catalog import ROOT as CATALOG
from harness.cli import app
from harness.cost import Cost
from harness.price_age import price_tag
from harness.spec import Stack
from tests.runs import stack


@given(
    per_replica=st.integers(10, 1000),
    usd_per_replica=st.integers(1, 1000),
    ratio=st.floats(0.2, 5),
    spare=st.integers(0, 2),
)
def test_every_crossing_is_listed(per_replica: int, usd_per_replica: int, ratio: float, spare: int) -> None:
    usd_per_query = ratio * usd_per_replica / per_replica
    found = crossings(per_replica, usd_per_replica, usd_per_query, spare)
    assert [each.cheaper for each in found] == (["own", "api"] * len(found))[: len(found)]
    marks = [each.requests for each in found]
    assert marks == sorted(marks)
    # Between two listed volumes the cheaper side never changes.
    last = (MOST_STEPS - 2) * per_replica if len(found) > 50 else 60 * per_replica
    for step in range(1, 600):
        volume = step / 600 * last
        if any(abs(volume - mark) < 1e-6 * last for mark in marks):
            continue
        below = [each.cheaper for each in found if each.requests < volume]
        expected = below[-1] if below else "api"
        own, api = own_usd(volume, per_replica, usd_per_replica, spare), volume * usd_per_query
        if not math.isclose(own, api, rel_tol=1e-9):
            assert ("own" if own < api else "api") == expected


def test_a_replica_that_costs_more_than_its_tokens_never_pays() -> None:
    assert crossings(100, 10, 0.09, 0) == ()
    assert crossings(100, 10, 0.1, 1) == ()
    found = break_even("paid", Cost(0.09, "tokens"), per_replica=100, usd_per_replica=10, spare=0, volume=1000)
    assert "'paid' is the cheaper at every volume" in found.sentence
    assert "at the scenario's 1,000 requests a month 'paid' cost $90.00 and own GPUs $100.00" in found.sentence


def test_whole_replicas_turn_it_back() -> None:
    first, back, again = crossings(100, 10, 0.15, 0)
    assert (first.cheaper, back.cheaper, again.cheaper) == ("own", "api", "own")
    assert first.requests == pytest.approx(10 / 0.15)
    assert (back.requests, back.replicas) == (100, 2)
    assert again.requests == pytest.approx(20 / 0.15)
    found = break_even("paid", Cost(0.15, "tokens"), per_replica=100, usd_per_replica=10, spare=0, volume=120)
    assert "turn that 2 more times, until they stay so from 133 on" in found.sentence


def test_two_prices_that_are_the_same_end_the_list() -> None:
    found = crossings(100, 10, 0.1000001, 1)
    assert len(found) <= 2 * MOST_STEPS


def priced(read: Any, **price: Any) -> Stack:
    source = {"text": "a list", **({} if read is None else {"read": read})}
    return stack(price={"kind": "hourly", "usd_per_gpu_hour": 1.5, "source": source, **price})


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (date(2026, 8, 24), ""),
        (date(2026, 8, 23), "Price read on 2026-08-23, 91 days ago, to be looked up again: "),
        (date(2026, 11, 23), "which is still to come"),
        (None, "Price without a date, to be looked up again: "),
    ],
)
def test_old_prices_are_flagged(read: date | None, said: str) -> None:
    tag = price_tag(priced(read), date(2026, 11, 22))
    assert said in tag.flag
    assert bool(tag.flag) == bool(said)
    assert tag.text == "$1.5 per GPU and hour"


def test_a_stack_without_a_price_has_nothing_to_flag() -> None:
    tag = price_tag(stack(), date(2026, 11, 22))
    assert (tag.text, tag.flag, tag.source) == ("", "", "a test")


def test_the_plan_flags_old_prices(tmp_path: Path) -> None:
    text = (CATALOG / "stacks" / "vllm-7b-t4.yaml").read_text(encoding="utf-8")
    own = tmp_path / "old.yaml"
    own.write_text(
        text.replace("read: 2026-11-22", "read: 2020-01-01").replace("vllm-7b-t4", "old-t4"), encoding="utf-8"
    )
    words = ["plan", "chatbot", "--stack", "old-t4", "--catalog", str(own)]
    assert "Price read on 2020-01-01, " in CliRunner().invoke(app, words).output
    [row] = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    assert row["price_flag"].endswith(f" days ago, to be looked up again: {row['title']}.")
