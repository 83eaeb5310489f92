"""The arithmetic of costs, against figures worked out by hand."""

from __future__ import annotations

import math
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cost import (
    Cost,
    cost_summary,
    format_usd,
    good_thousand,
    hourly_cost,
    query_cost,
    token_cost,
    usd_per_hour,
)
from harness.price_age import stale_prices
from harness.spec import Claim, Hardware, HourlyPrice, NoPrice, Source, Stack, TokenPrice

SOURCE = Source(text="A price list", read=date(2026, 11, 22))
HOURLY = HourlyPrice(kind="hourly", usd_per_gpu_hour=3.6, source=SOURCE)
TOKENS = TokenPrice(kind="tokens", usd_per_million_input=30, usd_per_million_output=60, source=SOURCE)
NONE = NoPrice(kind="none", reason="It is there anyway.")


def stack(price: HourlyPrice | TokenPrice | NoPrice, gpus: int = 1, replicas: int = 1) -> Stack:
    hardware = Hardware(gpu="t4", count=gpus) if isinstance(price, HourlyPrice) else None
    return Stack(kind="stack", name="s", title="S", engine="vllm", hardware=hardware, replicas=replicas, price=price)


def test_a_query_on_rented_machines() -> None:
    # $3.6/h is $0.001/s; 100 users who cycle in 2 s + 8 s ask 10 queries a second.
    cost = hourly_cost(3.6, 1, 100, 2, 8)
    assert cost.usd == pytest.approx(0.0001)
    assert cost.arithmetic == "$3.60/h / 3600 x (2 s + 8 s) / 100 users = $0.000100"


def test_all_gpus_of_all_replicas_are_paid_for() -> None:
    both = stack(HOURLY, gpus=2, replicas=3)
    cost = query_cost(both, users=100, response_s=2, think_s=8)
    assert cost is not None
    assert cost.usd == pytest.approx(0.0006)
    assert " x 6 GPUs x " in cost.arithmetic
    assert usd_per_hour(both) == pytest.approx(21.6)


def test_a_query_at_a_price_for_tokens() -> None:
    cost = token_cost(TOKENS, 100, 200)
    assert cost.usd == pytest.approx(0.015)
    assert cost.arithmetic == "(100 input tokens x $30 + 200 output tokens x $60) / 1,000,000 = $0.0150"
    assert token_cost(TOKENS, 0, 200).arithmetic == "(200 output tokens x $60) / 1,000,000 = $0.0120"
    assert token_cost(TOKENS, 0, 0) == Cost(0.0, "(no tokens) / 1,000,000 = $0.00")


@pytest.mark.parametrize(
    ("price", "known"),
    [
        (HOURLY, {"users": 100.0, "response_s": 2.0}),
        (HOURLY, {"users": 100.0, "response_s": math.inf, "think_s": 8.0}),
        (HOURLY, {"users": 0.0, "response_s": 2.0, "think_s": 8.0}),
        (TOKENS, {"users": 100.0, "output_tokens": 200.0}),
        (TOKENS, {"users": 100.0, "response_s": 2.0, "think_s": 8.0}),
        (NONE, {"users": 100.0, "response_s": 2.0, "think_s": 8.0, "input_tokens": 1.0, "output_tokens": 1.0}),
    ],
)
def test_without_a_price_or_a_measurement_there_is_no_cost(
    price: HourlyPrice | TokenPrice | NoPrice, known: dict[str, float]
) -> None:
    assert query_cost(stack(price), **known) is None


def test_failed_answers_are_paid_for_by_the_good_ones() -> None:
    cost = good_thousand(Cost(0.0002, ""), 0.8)
    assert cost is not None
    assert cost.usd == pytest.approx(0.25)
    assert cost.arithmetic == "1000 x $0.000200 / 0.8 good = $0.250"
    assert good_thousand(Cost(0.0002, ""), 0.0) is None


def test_a_summary_holds_what_could_be_computed() -> None:
    claim = Claim(cost_usd=0.0005, source="Somebody")
    full = cost_summary(stack(HOURLY), claim=claim, users=100, response_s=2, think_s=8, good_share=0.5)
    assert full.usd_per_hour == 3.6
    assert full.usd_per_query == pytest.approx(0.0001)
    assert full.usd_per_1000_good == pytest.approx(0.2)
    assert full.claim_usd_per_query == 0.0005
    assert full.arithmetic.count(" = ") == 2
    assert full.source == "A price list"
    empty = cost_summary(stack(NONE), users=100, response_s=2, think_s=8, good_share=0.5)
    assert (empty.usd_per_hour, empty.usd_per_query, empty.usd_per_1000_good) == (None, None, None)
    assert (empty.arithmetic, empty.source) == ("", "It is there anyway.")


def test_prices_read_on_one_day_are_flagged_together() -> None:
    def priced(title: str, day: date | None) -> Stack:
        price = HOURLY.model_copy(update={"source": Source(text="A price list", read=day)})
        return stack(price).model_copy(update={"title": title})

    day = date(2026, 1, 1)
    stacks = [priced("A", day), priced("B", date(2026, 3, 1)), priced("C", day), priced("D", None), stack(NONE)]
    assert stale_prices(stacks, day + timedelta(days=90)) == ("Price without a date, to be looked up again: D.",)
    assert stale_prices(stacks, day + timedelta(days=91)) == (
        "Price without a date, to be looked up again: D.",
        "Prices read on 2026-01-01, 91 days ago, to be looked up again: A; C.",
    )


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (0, "$0.00"),
        (0.0000256, "$0.0000256"),
        (0.0002, "$0.000200"),
        (0.35, "$0.350"),
        (3.4309, "$3.43"),
        (1234.5, "$1,234.50"),
        (math.inf, "$inf"),
    ],
)
def test_dollars_keep_three_digits(usd: float, text: str) -> None:
    assert format_usd(usd) == text


POSITIVE = st.floats(1e-3, 1e4)


@given(price=POSITIVE, gpus=st.integers(1, 64), users=POSITIVE, response=POSITIVE, think=POSITIVE)
def test_cost_times_throughput_is_the_bill(
    price: float, gpus: int, users: float, response: float, think: float
) -> None:
    queries_an_hour = 3600 * users / (response + think)
    assert hourly_cost(price, gpus, users, response, think).usd * queries_an_hour == pytest.approx(price * gpus)


@given(usd=st.floats(1e-9, 1e9))
def test_shown_dollars_are_within_a_percent(usd: float) -> None:
    assert float(format_usd(usd).replace("$", "").replace(",", "")) == pytest.approx(usd, rel=0.005)
