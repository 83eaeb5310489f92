"""Money: what a request can cost at most, the cap for any order of ends, the estimate, and consent to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.catalog import load_catalog
from harness.cell import Cell, Overrides, build_cell
from harness.clients.base import Reply
from harness.connection import Connection
from harness.dataset import read_workload
from harness.errors import UsageError
from harness.estimate import agree_to_cost, estimate_of
from harness.records import Message, Outcome, Prompt, ServerFacts, TokenSource
from harness.spec import Source, Stack, TokenPrice
from harness.spend import (
    DEFAULT_CAP_USD,
    Budget,
    Demand,
    Ledger,
    Purse,
    demand_of,
    preflight_usd,
    prompt_sizes,
    tariff_of,
)

PRICE = TokenPrice(
    kind="tokens",
    usd_per_million_input=30,
    usd_per_million_output=60,
    usd_per_million_cached_input=15,
    source=Source(text="made up"),
)
TARIFF = tariff_of(PRICE, {})


def prompt(text: str = "Hello", output_tokens: int = 10) -> Prompt:
    return Prompt("p", (Message("user", text),), output_tokens)


def ended(outcome: Outcome = Outcome.OK, **facts: Any) -> Reply:
    about = {"http_status": 200, "prompt_tokens": 5, "output_tokens": 10, "token_source": TokenSource.USAGE}
    return Reply(0.0, outcome=outcome, **(about | facts))


# What one request costs ------------------------------------------------------------------------


def test_a_request_costs_what_its_usage_says() -> None:
    bound = TARIFF.bound(prompt())
    assert TARIFF.charge(bound, ended()) == (5 * 30_000_000 + 10 * 60_000_000, False)
    assert TARIFF.charge(bound, ended(cached_tokens=4)) == (30_000_000 + 4 * 15_000_000 + 10 * 60_000_000, False)


@pytest.mark.parametrize(
    "reply",
    [
        ended(Outcome.RATE_LIMITED, http_status=429, prompt_tokens=-1, token_source=TokenSource.NONE),
        ended(Outcome.HTTP_ERROR, http_status=500, prompt_tokens=-1, token_source=TokenSource.NONE),
        ended(Outcome.REFUSED, http_status=0, prompt_tokens=-1, token_source=TokenSource.NONE),
    ],
)
def test_a_refusal_costs_nothing(reply: Reply) -> None:
    assert TARIFF.charge(TARIFF.bound(prompt()), reply) == (0, False)


@pytest.mark.parametrize(
    "outcome", [Outcome.TIMEOUT, Outcome.RESET, Outcome.TRUNCATED, Outcome.CANCELLED, Outcome.IN_FLIGHT, Outcome.OK]
)
def test_an_answer_without_usage_is_counted_at_its_worst(outcome: Outcome) -> None:
    bound = TARIFF.bound(prompt())
    reply = ended(outcome, prompt_tokens=-1, output_tokens=3, token_source=TokenSource.CHUNKS)
    assert TARIFF.charge(bound, reply) == (TARIFF.units(bound.input_tokens, 10), True)


def test_a_refusal_that_may_be_tried_again_is_not_over() -> None:
    units, assumed = TARIFF.charge(TARIFF.bound(prompt()), ended(Outcome.IN_FLIGHT, http_status=429))
    assert units > 0
    assert assumed


@given(st.text(max_size=50), st.integers(1, 5000))
def test_no_tokenizer_of_bytes_makes_more_of_a_prompt(text: str, output_tokens: int) -> None:
    bound = TARIFF.bound(prompt(text, output_tokens))
    assert bound.input_tokens >= len(text.encode()) + 7  # a chat format's own: 3 for the message and 3 for the answer
    assert bound.output_tokens == output_tokens


@pytest.mark.parametrize(
    ("body", "longest"),
    [
        ({}, 10),
        ({"temperature": 0.7}, 10),
        ({"max_completion_tokens": "$output_tokens"}, 10),
        ({"max_tokens": None, "max_completion_tokens": "$output_tokens"}, 10),
        ({"max_completion_tokens": 77}, 77),
        ({"max_tokens": 33}, 33),
        ({"max_tokens": 33, "n": 3}, 99),
        ({"n": 2}, 20),
    ],
)
def test_the_body_may_change_the_length(body: dict[str, object], longest: int) -> None:
    tariff = tariff_of(PRICE, body)
    assert tariff.bound(prompt()).output_tokens == longest
    assert tariff.bound(prompt()).input_tokens >= TARIFF.bound(prompt()).input_tokens


@pytest.mark.parametrize("body", [{"max_tokens": None}, {"max_completion_tokens": None}, {"max_tokens": "many"}])
def test_without_a_length_no_cap_can_hold(body: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="leaves the length of an answer without a limit"):
        tariff_of(PRICE, body)


# The cap ---------------------------------------------------------------------------------------

Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["send", "end", "refuse", "lose"]), st.integers(0, 10**6), st.integers(1, 400))
)


@given(STEPS, st.integers(0, 40_000), st.integers(1, 3))
def test_the_cap_holds_for_any_timing_of_answers(steps: list[Step], cap_millionths: int, workers: int) -> None:
    """The provider bills a request when it accepts it, at whatever it uses within its bound."""
    cap_usd = cap_millionths / 1e6
    ledger = Ledger(cap_usd)
    share = ledger.share(workers)
    purses = [Purse(TARIFF, share) for _ in range(workers)]
    under_way: list[tuple[int, Any, int]] = []
    billed = 0
    refused: set[int] = set()
    for kind, draw, size in steps:
        if kind == "send":
            worker = draw % workers
            bound = purses[worker].reserve(prompt("x" * (draw % 97), size))
            assert bound is None or worker not in refused, "a closed purse stays closed"
            if bound is None:
                refused.add(worker)
            else:
                under_way.append((worker, bound, draw))
        elif under_way:
            worker, bound, seed = under_way.pop(draw % len(under_way))
            used = 1 + seed % bound.input_tokens, seed % (bound.output_tokens + 1)
            if kind == "refuse":
                purses[worker].settle(bound, ended(Outcome.RATE_LIMITED, http_status=429))
                continue
            billed += TARIFF.units(*used)
            said = kind == "end"
            tokens = {"prompt_tokens": used[0], "output_tokens": used[1]} if said else {"prompt_tokens": -1}
            source = TokenSource.USAGE if said else TokenSource.NONE
            outcome = Outcome.OK if said else Outcome.RESET
            purses[worker].settle(bound, ended(outcome, token_source=source, **tokens))
        # Whatever is under way may be billed at its worst, and the cap must hold even then.
        worst = sum(TARIFF.units(each.input_tokens, each.output_tokens) for _, each, _ in under_way)
        assert billed + worst <= cap_usd * 1e12
        for worker, purse in enumerate(purses):
            ledger.heard(worker, purse.count())
        facts = ledger.facts()
        assert billed / 1e12 <= facts.spent_usd + 1e-12
        assert facts.spent_usd <= cap_usd + 1e-12
        assert facts.assumed_usd <= facts.spent_usd + 1e-12


def test_the_first_request_that_does_not_fit_closes_the_purse() -> None:
    one = TARIFF.bound(prompt())
    units = TARIFF.units(one.input_tokens, one.output_tokens)
    purse = Purse(TARIFF, 2.5 * units / 1e12)
    assert purse.reserve(prompt()) == one
    assert purse.reserve(prompt()) == one
    assert purse.reserve(prompt()) is None
    purse.settle(one, ended(Outcome.RATE_LIMITED, http_status=429))
    assert purse.reserve(prompt()) is None


def test_a_server_that_uses_more_than_was_asked_for_is_counted_in_full() -> None:
    bound = TARIFF.bound(prompt())
    purse = Purse(TARIFF, 1.0)
    purse.reserve(prompt())
    purse.settle(bound, ended(output_tokens=100_000))
    assert purse.count()["spent"] == 5 * 30_000_000 + 100_000 * 60_000_000
    assert purse.reserve(prompt()) is None


def test_the_preflight_is_paid_for_first() -> None:
    server = ServerFacts(details={"preflight input tokens": 10, "preflight output tokens": 4})
    paid = preflight_usd(TARIFF, server)
    assert paid == pytest.approx((10 * 30 + 4 * 60) / 1e6)
    ledger = Ledger(1.0, paid)
    assert ledger.share(2) == pytest.approx((1.0 - paid) / 2)
    assert ledger.facts().spent_usd == pytest.approx(paid)


def test_a_lost_worker_may_have_spent_its_share() -> None:
    ledger = Ledger(3.0)
    ledger.share(3)
    for worker in range(3):
        ledger.heard(worker, {"spent": 10**11, "assumed": 0, "reserved": 0})
    facts = ledger.facts(lost=[2])
    assert facts.spent_usd == pytest.approx(1.2)
    assert facts.assumed_usd == pytest.approx(0.9)


def test_the_earliest_refusal_is_where_the_run_ended() -> None:
    ledger = Ledger(1.0)
    ledger.reached(20.0)
    ledger.reached(10.0)
    ledger.reached(30.0)
    assert ledger.facts().reached_s == 10.0


def test_what_one_cell_leaves_the_next_may_spend() -> None:
    budget = Budget(5.0)
    budget.paid(3.0)
    assert budget.left_usd == 2.0
    budget.paid(2.5)
    assert budget.left_usd == 0.0


# Before load -----------------------------------------------------------------------------------


def cell(*, price: dict[str, Any] | None = None, **options: Any) -> Cell:
    catalog = load_catalog()
    stack = catalog.stack("openai-gpt4")
    if price is not None:
        stack = Stack.model_validate(stack.model_dump() | {"price": price})
    overrides = Overrides(**{name: options.pop(name) for name in tuple(options) if name in Overrides.model_fields})
    return build_cell(
        catalog,
        catalog.scenario(options.pop("scenario", "content")),
        stack,
        catalog.profile("quick"),
        overrides,
        Connection(protocol="openai-chat", api_key_env="", extra_body=options.pop("extra_body", {})),
        run_dir=Path("unused"),
        emulate=options.pop("emulate", False),
        **options,
    )


def test_a_run_that_pays_has_a_cap_and_a_key() -> None:
    paid = cell()
    assert paid.max_cost_usd == DEFAULT_CAP_USD
    assert paid.connection.api_key_env == "OPENAI_API_KEY"
    assert cell(max_cost_usd=2.0).max_cost_usd == 2.0


def test_an_emulated_run_pays_nothing_and_gets_no_key() -> None:
    free = cell(emulate=True, max_cost_usd=2.0)
    assert free.max_cost_usd is None
    assert free.connection.api_key_env == ""
    assert estimate_of(free) is None


def test_the_estimate_is_requests_times_tokens_times_price() -> None:
    made = estimate_of(cell(users=10, run_time_s=100.0, output_tokens=500))
    assert made is not None
    # N / (Z + R) for 100 s, the tail of the longest limit and half of the spawning, as the claim answers in 8 s.
    assert made.requests == pytest.approx(10 * (100 + 10 + 2.5) / (10 + 8), rel=0.02)
    assert made.output_tokens == 500
    assert 100 < made.input_tokens < 300
    assert made.usd == pytest.approx(made.requests * (made.input_tokens * 30 + 500 * 60) / 1e6)
    assert made.usd_most is not None
    assert made.usd_most > made.usd
    assert f"the cap is ${DEFAULT_CAP_USD:.2f}" in made.sentence


def test_an_open_loop_is_counted_arrival_by_arrival() -> None:
    made = estimate_of(cell(arrivals="constant", rate_rps=2.0, run_time_s=60.0))
    assert made is not None
    assert made.requests == made.requests_most == pytest.approx(2 * (60 + 10), abs=2)


def test_without_think_time_only_the_cap_limits() -> None:
    made = estimate_of(cell(users=1, think_time_s=0.0, run_time_s=10.0))
    assert made is not None
    assert made.usd_most is None
    assert "only the cap limits it" in made.sentence


def test_demand_counts_the_length_asked_for() -> None:
    catalog = load_catalog()
    scenario, stack = catalog.scenario("content"), catalog.stack("openai-gpt4")
    sizes = prompt_sizes(scenario.workload, read_workload(scenario.workload))
    demand = demand_of(scenario, stack, sizes)
    assert demand.requests_per_min == pytest.approx(60 * 20 / (10 + 8))
    assert demand.tokens_per_min == pytest.approx(demand.requests_per_min * (sizes.input_mean + 1000))
    assert isinstance(demand, Demand)


CHEAP = {"users": 1, "run_time_s": 10.0, "output_tokens": 100}


@pytest.mark.parametrize(
    ("made", "terms", "sentence"),
    [
        (CHEAP, {}, r"content on openai-gpt4 pays for tokens: about .* nothing was started: give --yes to agree to it"),
        (CHEAP, {"ask": lambda told: False}, r"pays for tokens: .*; nothing was started$"),
        ({}, {"yes": True}, r"that is more than the cap of \$5.00 of a command that names none: give --max-cost USD"),
        (CHEAP, {"max_cost_usd": 0.0, "yes": True}, r"--max-cost must be above 0 USD, not 0"),
        (CHEAP, {"max_cost_usd": float("nan"), "yes": True}, r"--max-cost must be above 0 USD, not nan"),
        ({"emulate": True}, {"max_cost_usd": 1.0}, r"nothing here pays for tokens"),
    ],
)
def test_nothing_starts_without_consent(made: dict[str, Any], terms: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        agree_to_cost([cell(**made)], **({"max_cost_usd": None, "yes": False, "ask": None} | terms))


def test_consent_once_asked_or_given_beforehand() -> None:
    asked: list[str] = []

    def ask(told: str) -> bool:
        asked.append(told)
        return True

    told = agree_to_cost([cell(**CHEAP)], max_cost_usd=None, yes=False, ask=ask)
    assert asked == [told]
    assert agree_to_cost([cell(**CHEAP)], max_cost_usd=None, yes=True, ask=ask) == told
    assert len(asked) == 1
    assert agree_to_cost([cell(emulate=True)], max_cost_usd=None, yes=False, ask=ask) == ""
    assert len(asked) == 1


def test_a_cap_below_the_estimate_is_told_and_several_cells_share_one() -> None:
    two = [cell(max_cost_usd=0.5), cell(scenario="chatbot", max_cost_usd=0.5)]
    told = agree_to_cost(two, max_cost_usd=0.5, yes=True, ask=None)
    assert "expect the cap to end the load after about" in told
    assert "the cap holds for all of them together" in told
