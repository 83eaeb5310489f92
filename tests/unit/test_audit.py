"""The scenario analysis under audit: what is impossible and by how much, each factor worked out here by hand."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import Audit, audit
from harness.audit.lines import AuditLine, Standing
from harness.catalog import Catalog, load_catalog
from harness.errors import UsageError
from harness.spec import Claim, HourlyPrice, Source, TokenPrice

TODAY = date(2026, 11, 23)
IMPOSSIBLE, INCONSISTENT = Standing.IMPOSSIBLE, Standing.INCONSISTENT
UNPROVEN, PLAUSIBLE = Standing.UNPROVEN, Standing.PLAUSIBLE

KV_7B = 2 * 32 * 32 * 128 * 2
KV_13B = 2 * 40 * 40 * 128 * 2
"""Bytes a token: keys and values x layers x heads x head dimension x fp16."""


def decode_s(weights: float, kv_per_token: float, bytes_per_s: float, tokens: int) -> float:
    """Every token reads the weights once, and each after the first the keys and values of all before it."""
    return sum((weights + (kv_per_token * (1 + step) if step else 0)) / bytes_per_s for step in range(tokens))


FLOORS = {
    ("chatbot", "vllm-7b-t4"): decode_s(14e9, KV_7B, 320e9, 200),
    ("chatbot", "vllm-13b-a100"): decode_s(26e9, KV_13B, 2039e9, 200),
    ("content", "vllm-7b-t4"): decode_s(14e9, KV_7B, 320e9, 1000),
    ("content", "vllm-13b-a100"): decode_s(26e9, KV_13B, 2039e9, 1000),
    ("translation", "onnx-7b-4xt4"): decode_s(14e9, KV_7B, 320e9, 20),
    ("translation", "trtllm-13b-2xa100"): decode_s(26e9, KV_13B, 2 * 2039e9, 20),
}
CLAIMED_S = {
    ("chatbot", "vllm-7b-t4"): 0.8,
    ("chatbot", "vllm-13b-a100"): 0.6,
    ("content", "vllm-7b-t4"): 4.0,
    ("content", "vllm-13b-a100"): 3.0,
    ("translation", "onnx-7b-4xt4"): 0.3,
    ("translation", "trtllm-13b-2xa100"): 0.2,
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


@pytest.fixture(scope="module")
def seed(catalog: Catalog) -> Audit:
    return audit(catalog, TODAY)


def line(found: Audit, scenario: str, stack: str, subject: str) -> AuditLine:
    [one] = [each for each in found.lines if (each.scenario, each.stack, each.subject) == (scenario, stack, subject)]
    return one


def claiming(catalog: Catalog, stack: str, scenario: str, **changes: object) -> Catalog:
    """The catalog with other claims made for one stack."""
    old = catalog.stack(stack)
    claim = Claim.model_validate({**old.claims[scenario].model_dump(), **changes})
    new = old.model_copy(update={"claims": {**old.claims, scenario: claim}})
    return Catalog(catalog.scenarios, {**catalog.stacks, stack: new}, catalog.gpus, catalog.profiles)


def priced(catalog: Catalog, stack: str, price: HourlyPrice | TokenPrice) -> Catalog:
    new = catalog.stack(stack).model_copy(update={"price": price})
    return Catalog(catalog.scenarios, {**catalog.stacks, stack: new}, catalog.gpus, catalog.profiles)


# --- the table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scenario", "stack"), FLOORS)
def test_latencies_against_a_floor_worked_out_here(seed: Audit, scenario: str, stack: str) -> None:
    found = line(seed, scenario, stack, "latency")
    floor, claimed = FLOORS[scenario, stack], CLAIMED_S[scenario, stack]
    assert (found.claimed, found.floor) == (claimed, pytest.approx(floor, rel=1e-9))
    if floor > claimed:
        assert found.standing is IMPOSSIBLE
        assert found.factor == pytest.approx(floor / claimed)
        assert "cannot be" in found.sentence
    else:
        assert (found.standing, found.factor) == (PLAUSIBLE, None)


def test_the_known_figures_of_the_table(seed: Audit) -> None:
    assert line(seed, "chatbot", "vllm-7b-t4", "latency").floor == pytest.approx(8.75, rel=0.005)
    assert line(seed, "chatbot", "vllm-13b-a100", "latency").floor == pytest.approx(2.55, rel=0.005)
    assert line(seed, "translation", "trtllm-13b-2xa100", "latency").floor == pytest.approx(0.1275, rel=0.005)
    assert {(each.scenario, each.stack, each.subject) for each in seed.impossible} == {
        ("chatbot", "vllm-7b-t4", "latency"),
        ("chatbot", "vllm-7b-t4", "users"),
        ("chatbot", "vllm-13b-a100", "latency"),
        ("chatbot", "vllm-13b-a100", "users"),
        ("content", "vllm-7b-t4", "latency"),
        ("content", "vllm-13b-a100", "latency"),
        ("translation", "onnx-7b-4xt4", "latency"),
    }
    assert seed.notes == ()


@pytest.mark.parametrize(
    ("scenario", "stack", "per_hour", "busy_s", "think_s", "users", "claimed", "standing"),
    [
        ("chatbot", "vllm-7b-t4", 0.35, 0.8, 15, 60, 0.0002, INCONSISTENT),
        ("chatbot", "vllm-13b-a100", 3.4309, 0.6, 15, 100, 0.0005, INCONSISTENT),
        ("content", "vllm-7b-t4", 0.35, 4, 10, 20, 0.001, INCONSISTENT),
        ("content", "vllm-13b-a100", 3.4309, 3, 10, 20, 0.0025, INCONSISTENT),
        ("translation", "onnx-7b-4xt4", 4 * 0.35, 0.3, 5, 1000, 0.0001, INCONSISTENT),
        ("translation", "trtllm-13b-2xa100", 2 * 3.4309, 0.2, 5, 1000, 0.0003, INCONSISTENT),
    ],
)
def test_a_cost_against_its_own_latency_and_users(
    seed: Audit,
    scenario: str,
    stack: str,
    per_hour: float,
    busy_s: float,
    think_s: float,
    users: int,
    claimed: float,
    standing: Standing,
) -> None:
    found = line(seed, scenario, stack, "cost")
    alone, paused = per_hour / 3600 * busy_s / users, per_hour / 3600 * (busy_s + think_s) / users
    assert (found.claimed, found.standing) == (claimed, standing)
    assert found.factor == pytest.approx(claimed / alone)
    assert f"{claimed / alone:.3g} times" in found.sentence
    assert f"{claimed / paused:.3g} times" in found.sentence


def test_the_chatbots_cost_on_a_t4_is_out_by_some_150(seed: Audit) -> None:
    found = line(seed, "chatbot", "vllm-7b-t4", "cost")
    assert found.factor == pytest.approx(150, rel=0.05)
    assert pytest.approx(122.6, rel=1e-3) == 0.0002 * 60 * 3600 / 0.35 - 0.8
    assert "The claim would hold if each user paused 123 s after an answer." in found.arithmetic


def test_an_apis_cost_against_its_list_price(seed: Audit) -> None:
    chatbot = line(seed, "chatbot", "openai-gpt4", "cost")
    assert (chatbot.standing, chatbot.floor) == (INCONSISTENT, pytest.approx(200 * 60 / 1e6))
    assert chatbot.factor == pytest.approx(0.012 / 0.006)
    assert line(seed, "content", "openai-gpt4", "cost").factor == pytest.approx(0.06 / 0.03)
    translation = line(seed, "translation", "openai-gpt4", "cost")
    assert 20 * 60 / 1e6 < 0.002 < (40 * 30 + 20 * 60) / 1e6
    assert (translation.standing, translation.factor) == (PLAUSIBLE, None)


def test_memory_holds_the_model_and_a_few_users(seed: Audit) -> None:
    found = line(seed, "chatbot", "vllm-7b-t4", "memory")
    card = 15 * 2**30
    at_once = int((card - 14e9) / KV_7B / (480 + 100))
    floor_s = FLOORS["chatbot", "vllm-7b-t4"]
    in_flight = 60 * floor_s / (floor_s + 15)
    wanted = 14e9 + in_flight * 580 * KV_7B
    assert at_once == 6
    assert found.floor == pytest.approx((14e9 + 201 * KV_7B) / 1e9)
    assert (found.standing, found.factor) == (INCONSISTENT, pytest.approx(wanted / card))
    assert "6 answers at once" in found.sentence
    assert f"{wanted / 1e9:.3g} GB" in found.sentence
    assert line(seed, "chatbot", "vllm-13b-a100", "memory").standing is PLAUSIBLE
    assert line(seed, "translation", "trtllm-13b-2xa100", "memory").floor == pytest.approx(13.0, rel=0.005)


def test_users_whom_no_machine_answers_in_time(seed: Audit) -> None:
    found = line(seed, "chatbot", "vllm-7b-t4", "users")
    assert (found.claimed, found.floor) == (60, 0)
    assert found.factor == pytest.approx(FLOORS["chatbot", "vllm-7b-t4"] / 2)
    assert "Not one of 60 users" in found.sentence


def test_users_by_throughput(seed: Audit) -> None:
    """Compute-bound: B requests take 24/23 x ... ; here the bound of one-token prompts, 2 P B / F a step."""
    found = line(seed, "translation", "trtllm-13b-2xa100", "users")
    batch = 600  # 20 steps of 2 x 13e9 x 600 / 624e12 s are 0.5 s
    assert 20 * 2 * 13e9 * batch / (2 * 312e12) == pytest.approx(0.5)
    assert found.floor == pytest.approx(batch / 0.5 * (0.5 + 5), rel=1e-3)
    assert found.standing is UNPROVEN
    assert "1,000 users / (0.5 s + 5 s of thinking) = 181.8 requests/s" in found.arithmetic[0]


@pytest.mark.parametrize("scenario", ["chatbot", "content", "translation"])
def test_nobody_says_what_an_api_runs_on(seed: Audit, scenario: str) -> None:
    found = line(seed, scenario, "openai-gpt4", "latency")
    assert (found.standing, found.floor, found.factor) == (UNPROVEN, None, None)


def test_unlimited_users_are_no_number(seed: Audit) -> None:
    found = line(seed, "chatbot", "openai-gpt4", "users")
    assert (found.standing, found.claimed) == (UNPROVEN, None)
    assert "rate limits" in found.sentence
    assert not [each for each in seed.lines if each.scenario == "content" and each.subject == "users"]


# --- other claims --------------------------------------------------------------------------------------------------


def test_a_gigabyte_too_few(catalog: Catalog) -> None:
    found = line(
        audit(claiming(catalog, "vllm-7b-t4", "chatbot", memory_gb=7.0), TODAY), "chatbot", "vllm-7b-t4", "memory"
    )
    assert (found.standing, found.factor) == (IMPOSSIBLE, pytest.approx((14e9 + 201 * KV_7B) / 7e9))


def test_users_beyond_the_roofline(catalog: Catalog) -> None:
    many = claiming(catalog, "trtllm-13b-2xa100", "translation", users=13_200)
    found = line(audit(many, TODAY), "translation", "trtllm-13b-2xa100", "users")
    assert (found.standing, found.factor) == (IMPOSSIBLE, pytest.approx(2, rel=1e-3))
    more = claiming(catalog, "trtllm-13b-2xa100", "translation", users=5_000)
    assert line(audit(more, TODAY), "translation", "trtllm-13b-2xa100", "users").standing is INCONSISTENT
    few = claiming(catalog, "trtllm-13b-2xa100", "translation", users=100)
    assert line(audit(few, TODAY), "translation", "trtllm-13b-2xa100", "users").standing is PLAUSIBLE


def test_a_cost_that_follows_from_its_numbers(catalog: Catalog) -> None:
    agreed = claiming(catalog, "vllm-13b-a100", "chatbot", cost_usd=3.4309 / 3600 * (0.6 + 15) / 100)
    found = line(audit(agreed, TODAY), "chatbot", "vllm-13b-a100", "cost")
    assert (found.standing, found.factor) == (PLAUSIBLE, None)
    assert "agrees with" in found.sentence


def test_a_cost_below_a_machine_that_never_idles(catalog: Catalog) -> None:
    cheap = claiming(catalog, "vllm-7b-t4", "content", cost_usd=0.0001)
    found = line(audit(cheap, TODAY), "content", "vllm-7b-t4", "cost")
    batch = int((15 * 2**30 - 14e9) / KV_7B) // (1 + 500)
    rate = batch / (1000 * (14e9 + batch * 501 * KV_7B) / 320e9)
    assert (batch, found.standing) == (8, IMPOSSIBLE)
    assert "The claim would hold if each user paused 16.6 s after an answer." in found.arithmetic
    assert found.floor == pytest.approx(0.35 / 3600 / rate, rel=0.005)


def test_a_stack_of_which_nobody_claims_anything(catalog: Catalog) -> None:
    found = audit(catalog, TODAY, ["chatbot"], ["vllm-7b-2xt4"])
    assert found.lines == ()
    assert found.notes == ("chatbot: nobody claims anything of 7B on two T4, vLLM.",)
    assert found.summary == "0 claims"


@pytest.mark.parametrize(("scenarios", "stacks"), [(["chatbto"], None), (["chatbot"], ["vllm-7b-t5"])])
def test_unknown_names_are_refused(catalog: Catalog, scenarios: list[str], stacks: list[str] | None) -> None:
    with pytest.raises(UsageError, match="did you mean"):
        audit(catalog, TODAY, scenarios, stacks)


@pytest.mark.parametrize(("day", "stale"), [(date(2027, 2, 20), False), (date(2027, 2, 21), True)])
def test_prices_are_good_for_ninety_days(catalog: Catalog, day: date, stale: bool) -> None:
    found = audit(catalog, day, ["chatbot"], ["vllm-7b-t4"])
    assert (day - date(2026, 11, 22)).days == (91 if stale else 90)
    assert any("Price read on 2026-11-22, 91 days ago" in note for note in found.notes) == stale
    undated = priced(
        catalog, "vllm-7b-t4", HourlyPrice(kind="hourly", usd_per_gpu_hour=1, source=Source(text="a bill"))
    )
    assert "Price without a date" in audit(undated, day, ["chatbot"], ["vllm-7b-t4"]).notes[0]


def test_a_free_api_has_no_factor_to_divide_by(catalog: Catalog) -> None:
    free = TokenPrice(
        kind="tokens", usd_per_million_input=0, usd_per_million_output=0, source=Source(text="free", read=TODAY)
    )
    found = line(audit(priced(catalog, "openai-gpt4", free), TODAY), "chatbot", "openai-gpt4", "cost")
    assert found.standing is INCONSISTENT
    assert "infinitely many times" in found.sentence


# --- properties ----------------------------------------------------------------------------------------------------

CELL = ("chatbot", "vllm-13b-a100")
GRAVITY = {standing: place for place, standing in enumerate(Standing)}


@settings(deadline=None, max_examples=40)
@given(latency_s=st.floats(0.01, 100), slower=st.floats(1, 100))
def test_a_slower_claim_is_never_less_possible(latency_s: float, slower: float) -> None:
    first, second = (
        line(
            audit(claiming(load_catalog(), CELL[1], CELL[0], latency_s=each), TODAY, [CELL[0]], [CELL[1]]),
            *CELL,
            "latency",
        )
        for each in (latency_s, latency_s * slower)
    )
    assert GRAVITY[second.standing] >= GRAVITY[first.standing]
    assert (second.factor or 1) <= (first.factor or 1)


@settings(deadline=None, max_examples=25)
@given(users=st.integers(1, 20_000), fewer=st.floats(0.01, 1))
def test_fewer_users_are_never_less_possible(users: int, fewer: float) -> None:
    cell = ("translation", "trtllm-13b-2xa100")
    first, second = (
        line(audit(claiming(load_catalog(), cell[1], cell[0], users=each), TODAY, [cell[0]], [cell[1]]), *cell, "users")
        for each in (users, max(1, int(users * fewer)))
    )
    assert GRAVITY[second.standing] >= GRAVITY[first.standing]
