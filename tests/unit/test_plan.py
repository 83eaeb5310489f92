"""The plan: claims beside floors, and predictions beside a simulation of the same loop."""

from __future__ import annotations

import heapq
import itertools
import math
import random

import pytest

from harness.catalog import Catalog, load_catalog
from harness.errors import UsageError
from harness.plan import PlanRow, cheapest_passing_variant, claim_audit, mean_prompt_tokens, plan, plan_cell
from harness.roofline import Machine, kv_capacity_tokens, step_time_s
from harness.spec import Emulation, Scenario, Stack, Workload
from servers.emulator.engine import Engine, Sequence


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def row_of(catalog: Catalog, scenario: str, stack: str) -> PlanRow:
    return plan_cell(catalog, catalog.scenario(scenario), catalog.stack(stack))


def changed(scenario: Scenario, *, users: int | None = None, think_s: float | None = None, sla: str = "") -> Scenario:
    """The scenario with a few values of its own, checked anew."""
    values = scenario.model_dump()
    if users is not None:
        values["users"] = users
    if think_s is not None:
        values["think_time"]["mean_s"] = think_s
    if sla:
        values["sla"] = [sla]
    return Scenario.model_validate(values)


@pytest.mark.parametrize(
    ("scenario", "stack", "floor_s", "factor"),
    [
        ("chatbot", "vllm-7b-t4", 8.75, 10.9),
        ("content", "vllm-7b-t4", 43.75, 11.1),
        ("chatbot", "vllm-13b-a100", 2.55, 4.25),
        ("content", "vllm-13b-a100", 12.75, 4.25),
        ("translation", "onnx-7b-4xt4", 0.875, 2.92),
    ],
)
def test_impossible_claims_are_named(
    catalog: Catalog, scenario: str, stack: str, floor_s: float, factor: float
) -> None:
    row = row_of(catalog, scenario, stack)
    assert row.feasible is False
    assert row.floor_s == pytest.approx(floor_s, rel=0.02)
    assert row.factor == pytest.approx(factor, rel=0.025)
    assert "impossible by a factor of" in row.reasons[0]
    assert row.expected == "FAIL"


def test_a_possible_claim_is_left_standing(catalog: Catalog) -> None:
    row = row_of(catalog, "translation", "trtllm-13b-2xa100")
    assert row.feasible is True
    assert row.floor_s == pytest.approx(0.1275, rel=0.02)
    assert row.factor is not None
    assert row.factor < 1


def test_replicas_do_not_shorten_a_floor(catalog: Catalog) -> None:
    row = row_of(catalog, "translation", "onnx-7b-4xt4")
    assert row.claim_means_tokens == 6
    assert "more replicas answer more users, none of them sooner" in row.reasons[0]


def test_what_does_not_fit_fails_without_load(catalog: Catalog) -> None:
    row = row_of(catalog, "content", "vllm-7b-t4")
    assert row.fits is False
    assert row.largest_batch == 0
    assert row.expected == "FAIL"
    assert row.predicted is None
    assert any(reason.startswith("does not fit: 14.0 GB of weights") for reason in row.reasons)


def test_an_api_has_no_floor_and_is_judged_by_its_claim(catalog: Catalog) -> None:
    chat, content = row_of(catalog, "chatbot", "openai-gpt4"), row_of(catalog, "content", "openai-gpt4")
    assert chat.floor_s is chat.feasible is chat.factor is None
    assert chat.expected == "FAIL"  # a median of 2 s with natural lengths leaves a p95 above 2 s
    assert content.expected == "PASS"
    assert content.usd_per_hour is not None


def test_a_stack_without_gpu_or_price_is_unknown(catalog: Catalog) -> None:
    row = row_of(catalog, "chatbot", "llamacpp-smollm2")
    assert row.expected == "UNKNOWN"
    assert row.usd_per_hour == 0
    assert row.reasons


def test_even_one_user_too_slow_never_passes(catalog: Catalog) -> None:
    row = row_of(catalog, "chatbot", "vllm-13b-a100")
    assert row.expected == "FAIL"
    assert row.passing_think_s is None
    assert row.reasons[-1] == "even one user alone misses p95(e2e) < 2 s: neither thinking nor replicas help"


def test_the_passing_think_time_is_where_it_turns(catalog: Catalog) -> None:
    scenario, stack = catalog.scenario("translation"), catalog.stack("trtllm-13b-2xa100")
    row = plan_cell(catalog, scenario, stack)
    assert row.expected == "FAIL"
    assert row.passing_think_s is not None
    assert row.passing_think_s > row.think_s
    above = plan_cell(catalog, changed(scenario, think_s=row.passing_think_s), stack)
    below = plan_cell(catalog, changed(scenario, think_s=row.passing_think_s * 0.98), stack)
    assert (above.expected, below.expected) == ("PASS", "FAIL")


def test_users_who_do_not_think_are_all_in_flight(catalog: Catalog) -> None:
    row = plan_cell(catalog, changed(catalog.scenario("chatbot"), think_s=0.0), catalog.stack("vllm-7b-a100"))
    assert row.batch == pytest.approx(100)
    assert row.offered_rps is not None
    assert row.e2e_s is not None
    assert row.offered_rps * row.e2e_s == pytest.approx(100)


def test_littles_law_holds_for_every_prediction(catalog: Catalog) -> None:
    rows = [row for row in plan(catalog) if row.e2e_s is not None]
    assert rows
    for row in rows:
        assert row.offered_rps is not None
        assert row.e2e_s is not None
        assert row.offered_rps * (row.think_s + row.e2e_s) == pytest.approx(row.users, rel=1e-6)


def test_no_prediction_is_under_its_floor(catalog: Catalog) -> None:
    for name, scenario in catalog.scenarios.items():
        for row in plan(catalog, [name], [*scenario.stacks, *scenario.variants]):
            if row.alone_s is not None and row.floor_s is not None and row.tokens == row.output_tokens:
                assert row.alone_s > row.floor_s * 0.98  # the percentile's answer ends a little before the cap
            if row.roofline_rps:
                assert row.capacity_rps is not None
                assert row.capacity_rps < row.roofline_rps


@pytest.mark.parametrize(
    ("sla", "expected"),
    [
        ("p95(ttft) < 1 s", "PASS"),
        ("p95(ttft) < 5 ms", "FAIL"),
        ("p95(tpot) < 40 ms", "PASS"),
        ("p95(itl) < 5 ms", "FAIL"),
        ("mean(e2e) < 4 s", "PASS"),
        ("max(e2e) < 1 s", "FAIL"),
        ("throughput >= 3 req/s", "PASS"),
        ("throughput >= 30 req/s", "FAIL"),
        ("error_rate < 1 %", "UNKNOWN"),
    ],
)
def test_every_kind_of_check(catalog: Catalog, sla: str, expected: str) -> None:
    scenario = changed(catalog.scenario("chatbot"), sla=sla)
    assert plan_cell(catalog, scenario, catalog.stack("vllm-7b-a100")).expected == expected


def test_an_apis_claim_says_nothing_of_its_first_token(catalog: Catalog) -> None:
    scenario = changed(catalog.scenario("chatbot"), sla="p95(ttft) < 1 s")
    assert plan_cell(catalog, scenario, catalog.stack("openai-gpt4")).expected == "UNKNOWN"


def test_the_cheapest_variant_passes_and_none_cheaper_does(catalog: Catalog) -> None:
    for scenario in catalog.unasked_scenarios:
        name = scenario.name
        found = cheapest_passing_variant(catalog, name)
        assert found is not None
        assert found.expected == "PASS"
        assert found.usd_per_hour is not None
        passing = [row for row in plan(catalog, [name], scenario.variants) if row.expected == "PASS"]
        assert found.usd_per_hour == min(row.usd_per_hour or 0.0 for row in passing)


def test_an_acceptable_variant_is_preferred(catalog: Catalog) -> None:
    found = cheapest_passing_variant(catalog, "chatbot", lambda stack: "13b" in stack.name)
    assert found is not None
    assert "13b" in found.stack
    nobody = cheapest_passing_variant(catalog, "chatbot", lambda _: False)
    assert nobody == cheapest_passing_variant(catalog, "chatbot")


def test_the_audit_repeats_the_plan(catalog: Catalog) -> None:
    audit, row = claim_audit(catalog, "chatbot", "vllm-7b-t4"), row_of(catalog, "chatbot", "vllm-7b-t4")
    assert (audit.floor_s, audit.factor, audit.feasible) == (row.floor_s, row.factor, row.feasible)
    assert audit.claim_latency_s == 0.8
    assert audit.measured_p50_s is None
    assert audit.floor_arithmetic.startswith("14.0 GB / 320 GB/s")


def test_plan_covers_the_catalog_and_refuses_unknown_names(catalog: Catalog) -> None:
    rows = plan(catalog)
    wanted = [(name, stack) for name, each in catalog.scenarios.items() for stack in each.stacks]
    assert [(row.scenario, row.stack) for row in rows] == wanted
    with pytest.raises(UsageError, match="unknown stack"):
        plan(catalog, ["chatbot"], ["no-such-stack"])
    longer = plan(catalog, ["chatbot"], ["vllm-7b-a100"], {"chatbot": 2000})[0]
    assert longer.input_tokens == 2000


def test_prompt_tokens_of_a_synthetic_workload_are_its_own() -> None:
    assert mean_prompt_tokens(Workload(kind="synthetic", input_tokens=77, output_tokens=5)) == 77


@pytest.mark.parametrize(
    ("scenario", "stack", "users"),
    [
        ("chatbot", "vllm-7b-a100", 100),
        ("chatbot", "vllm-7b-int8-a10g", 100),
        ("content", "vllm-13b-a100", 20),
        ("translation", "trtllm-7b-int8-4xa10g", 300),
        ("translation", "onnx-7b-4xt4", 300),
    ],
)
def test_predictions_match_a_simulation(catalog: Catalog, scenario: str, stack: str, users: int) -> None:
    wanted = changed(catalog.scenario(scenario), users=users)
    row = plan_cell(catalog, wanted, catalog.stack(stack))
    times, throughput = simulate(catalog, wanted, catalog.stack(stack), row, requests=1500)
    assert row.e2e_s == pytest.approx(sum(times) / len(times), rel=0.1)
    assert row.offered_rps == pytest.approx(throughput, rel=0.1)
    percentile = wanted.primary.percentile
    assert percentile is not None
    tail = sorted(times)[int(len(times) * float(percentile) / 100)]
    assert row.predicted == pytest.approx(tail, rel=0.2)  # queues of near-equal answers are shorter than the chain's


def simulate(
    catalog: Catalog, scenario: Scenario, stack: Stack, row: PlanRow, requests: int
) -> tuple[list[float], float]:
    """Run the emulator's engines in a closed loop without a clock; return response times and requests/s."""
    emulation = stack.emulation or Emulation()
    assert stack.model is not None
    gpu = catalog.gpu_of(stack)
    assert gpu is not None
    machine = Machine(stack.model, gpu, stack.tensor_parallel, emulation.efficiency)
    engines = [
        Engine(lambda *load: step_time_s(machine, *load), kv_capacity_tokens(machine), emulation.max_batch)
        for _ in range(stack.replicas)
    ]
    rng = random.Random(1)
    sigma = scenario.think_time.sigma or 0.0
    events: list[tuple[float, int, int, Engine | None]] = []
    owners: dict[Sequence, int] = {}
    done: list[tuple[float, float]] = []
    order = itertools.count()

    def at(when: float, user: int, engine: Engine | None) -> None:
        heapq.heappush(events, (when, next(order), user, engine))

    def step(engine: Engine, now: float) -> None:
        end = engine.begin(now)
        if end is not None:
            at(end, -1, engine)

    for user in range(scenario.users):
        at(rng.random() * (row.think_s + (row.e2e_s or 0)), user, None)
    while len(done) < requests:
        now, _, user, engine = heapq.heappop(events)
        if engine is None:
            engine = min(engines, key=lambda each: each.in_flight)
            asked = row.input_tokens + row.output_tokens
            length = max(1, round(row.output_tokens * rng.uniform(0.7, 1.0)))
            sequence = Sequence(row.input_tokens, length, asked, now)
            owners[sequence] = user
            engine.submit(sequence)
            if not engine.stepping:
                step(engine, now)
            continue
        for sequence in engine.finish():
            if sequence.done:
                done.append((now, now - sequence.arrived_s))
                think_s = row.think_s * math.exp(rng.gauss(0.0, sigma) - sigma**2 / 2)
                at(now + think_s, owners.pop(sequence), None)
        step(engine, now)
    settled = done[len(done) // 3 :]
    return [time for _, time in settled], len(settled) / (settled[-1][0] - settled[0][0])
