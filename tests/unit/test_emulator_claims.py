"""Claims, replayed."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from harness.catalog import load_catalog
from harness.spec import Claim
from servers.emulator.claims import TTFT_SHARE, ClaimModel, StartGate, claim_model


def claimed(stack: str, scenario: str) -> ClaimModel:
    catalog = load_catalog()
    found = catalog.stack(stack)
    return claim_model(found, catalog.scenario(scenario), found.claims[scenario], 0.085)


def total_s(model: ClaimModel, tokens: int, rng: random.Random) -> float:
    pace = model.pace(tokens, rng)
    return pace.ttft_s + (tokens - 1) * pace.gap_s


def test_the_claimed_length_takes_the_claimed_time() -> None:
    model = claimed("vllm-7b-t4", "chatbot")
    assert total_s(model, 200, random.Random(1)) == pytest.approx(0.8)
    assert total_s(model, 100, random.Random(1)) == pytest.approx(0.4)
    assert total_s(model, 1, random.Random(1)) == pytest.approx(0.004)
    assert model.pace(200, random.Random(1)).ttft_s == pytest.approx(0.8 * TTFT_SHARE)


def test_an_apis_latency_spreads_around_its_claim() -> None:
    model = claimed("openai-gpt4", "content")
    rng = random.Random(1)
    times = sorted(total_s(model, 1000, rng) for _ in range(4000))
    assert statistics.median(times) == pytest.approx(8.0, rel=0.02)
    assert times[200] == pytest.approx(8 * 0.87, rel=0.02)
    assert times[3800] == pytest.approx(8 * 1.15, rel=0.02)
    assert math.isinf(model.rate_rps)


def test_the_rate_is_what_the_claimed_users_offer() -> None:
    model = claimed("vllm-7b-t4", "chatbot")
    think_s = load_catalog().scenario("chatbot").think_time.mean_s
    assert model.rate_rps == pytest.approx(1.05 * 60 / (think_s + 0.8))
    assert model.burst == 60


def test_a_claim_without_latency_cannot_be_replayed() -> None:
    catalog = load_catalog()
    with pytest.raises(ValueError, match="states no latency"):
        claim_model(catalog.stack("vllm-7b-t4"), catalog.scenario("chatbot"), Claim(source="nobody"), 0.0)


def queue_of(users: int, think_s: float, latency_s: float, gate: StartGate) -> float:
    """Mean wait of the last requests of a closed loop with exponential think times."""
    rng = random.Random(7)
    due = sorted(rng.expovariate(1 / think_s) for _ in range(users))
    waits = []
    for _ in range(users * 200):
        now = due.pop(0)
        start = gate.start_s(now)
        waits.append(start - now)
        due.append(start + latency_s + rng.expovariate(1 / think_s))
        due.sort()
    return statistics.mean(waits[len(waits) // 2 :])


def test_claimed_users_do_not_queue_and_more_do() -> None:
    rate = 1.05 * 60 / (15 + 0.8)
    assert queue_of(60, 15, 0.8, StartGate(rate, 60)) < 0.05
    assert queue_of(100, 15, 0.8, StartGate(rate, 60)) > 5


def test_a_burst_starts_at_once_and_the_rest_at_the_rate() -> None:
    gate = StartGate(10.0, 3)
    assert [gate.start_s(5.0) for _ in range(5)] == pytest.approx([5.0, 5.0, 5.0, 5.1, 5.2])
    assert gate.start_s(100.0) == 100.0
