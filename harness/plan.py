"""Before any load: what physics and the closed loop say of a stack in a scenario.

Nothing here is measured. Floors come from data sheets alone (:mod:`harness.roofline`); predictions add the stack's
stated efficiencies and the users' think time (:mod:`harness.closed_loop`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import NormalDist
from typing import Literal

import numpy as np

from harness.catalog import Catalog
from harness.closed_loop import QUANTILES, Loop, aggregate_of, output_lengths, passing_think_s, solve
from harness.judgement import ClaimAudit
from harness.objective import Objective
from harness.records import Record
from harness.roofline import (
    Machine,
    capacity_rps,
    does_not_fit,
    kv_capacity_tokens,
    largest_batch,
    latency_floor_s,
    memory_fit,
    tokens_within,
)
from harness.spec import Claim, Emulation, Scenario, Stack, Workload

PROMPT_TOKENS: dict[str, int] = {"conversation": 480, "brief": 170, "translation": 40, "dataset": 200}
"""Mean prompt tokens by workload kind: those of the built-in workloads at four characters a token, a conversation's
with its system prompt and history. A synthetic workload states its own."""
CLAIM_PROMPT_TOKENS = 1
"""Prompt of a claim, which states none: the shortest, so that its floor holds for every prompt."""
CLAIM_MEMORY_SLACK = 1.05
"""Claimed gigabytes are round numbers."""

Expected = Literal["PASS", "FAIL", "UNKNOWN"]


class PlanRow(Record):
    """One stack in one scenario. Seconds, requests/s, 10^9 bytes, dollars; None where there is nothing to say."""

    scenario: str
    stack: str
    title: str
    check: str
    """The primary check, against which ``expected`` is meant."""
    claim_s: float | None = None
    claim_tokens: int | None = None
    tokens: int
    """Output tokens of the floor: the claim's, else the scenario's."""
    floor_s: float | None = None
    """Of an answer of ``tokens`` to the shortest prompt."""
    floor_arithmetic: str = ""
    feasible: bool | None = None
    """Whether the claim is above its floor; None for an API, a stack without a model shape or without a claim."""
    factor: float | None = None
    """floor over claim."""
    claim_means_tokens: int | None = None
    """The most tokens that the claimed latency allows."""
    input_tokens: int
    output_tokens: int
    memory_floor_gb: float | None = None
    """Per GPU: weights and one request's keys and values."""
    claim_memory_gb: float | None = None
    gpu_memory_gb: float | None = None
    """Per GPU, the share that the engine may use."""
    fits: bool | None = None
    kv_capacity_tokens: int | None = None
    """Of one replica."""
    largest_batch: int | None = None
    """Of one replica."""
    users: int
    think_s: float
    needed_rps: float | None = None
    """N / (Z + limit): what must be answered for the mean to meet a limit on the whole answer."""
    offered_rps: float | None = None
    """N / (Z + R) at the predicted R."""
    capacity_rps: float | None = None
    """At the largest batch and the stated efficiencies, all replicas."""
    roofline_rps: float | None = None
    """The same on the data sheet's figures: no engine exceeds it."""
    batch: float | None = None
    """Predicted mean requests in flight per replica, queued ones included."""
    alone_s: float | None = None
    """Predicted time of an answer without any other user, at the check's percentile of lengths."""
    e2e_s: float | None = None
    """Predicted mean."""
    predicted: float | None = None
    """Predicted value of the primary check, in its unit."""
    expected: Expected
    passing_think_s: float | None = None
    """Shortest think time at which the check would hold; None when it never would."""
    usd_per_hour: float | None = None
    price_flag: str = ""
    """Why the price should be looked up again, by whoever knows today's date; empty: it need not, or nobody asked."""
    reasons: tuple[str, ...] = ()


def plan(
    catalog: Catalog,
    scenarios: Iterable[str] | None = None,
    stacks: Iterable[str] | None = None,
    prompt_tokens: dict[str, int] | None = None,
) -> list[PlanRow]:
    """Plan cells: ``scenarios`` (all) by ``stacks`` (each scenario's own).

    ``prompt_tokens`` maps scenario names to mean prompt tokens, in place of :data:`PROMPT_TOKENS`.

    Raises
    ------
    UsageError
        For a name that is not in the catalog.
    """
    rows = []
    unasked = [scenario.name for scenario in catalog.unasked_scenarios]
    for name in unasked if scenarios is None else scenarios:
        scenario = catalog.scenario(name)
        for stack in scenario.stacks if stacks is None else stacks:
            rows.append(plan_cell(catalog, scenario, catalog.stack(stack), (prompt_tokens or {}).get(name)))
    return rows


def plan_cell(catalog: Catalog, scenario: Scenario, stack: Stack, prompt_tokens: int | None = None) -> PlanRow:
    """Plan one cell."""
    claim = stack.claims.get(scenario.name)
    input_tokens = prompt_tokens or mean_prompt_tokens(scenario.workload)
    row = PlanRow(
        scenario=scenario.name,
        stack=stack.name,
        title=stack.title,
        check=scenario.primary.text,
        claim_s=None if claim is None else claim.latency_s,
        claim_tokens=None if claim is None else claim.tokens,
        tokens=(claim.tokens if claim is not None else None) or scenario.workload.output_tokens,
        input_tokens=input_tokens,
        output_tokens=scenario.workload.output_tokens,
        claim_memory_gb=None if claim is None else claim.memory_gb,
        users=scenario.users,
        think_s=scenario.think_time.mean_s,
        needed_rps=_needed_rps(scenario),
        expected="UNKNOWN",
        usd_per_hour=_usd_per_hour(stack),
    )
    machine = machine_of(catalog, stack)
    if machine is not None:
        return _plan_machine(row, scenario, stack, claim, machine)
    if stack.is_api and claim is not None and claim.latency_s is not None:
        return _plan_api(row, scenario, stack, claim.latency_s)
    return _because(row, "there is no GPU or no model shape to reason from")


def cheapest_passing_variant(
    catalog: Catalog, scenario: str, acceptable: Callable[[Stack], bool] | None = None
) -> PlanRow | None:
    """Return the variant with the lowest price per hour that is expected to pass, None when there is none.

    With ``acceptable`` (say, a quality at or above the scenario's need), one that it accepts comes before any other.
    """
    wanted = catalog.scenario(scenario)
    passing = [row for row in plan(catalog, [scenario], wanted.variants) if row.expected == "PASS"]

    def order(row: PlanRow) -> tuple[bool, float]:
        refused = acceptable is not None and not acceptable(catalog.stack(row.stack))
        return refused, float("inf") if row.usd_per_hour is None else row.usd_per_hour

    return min(passing, key=order, default=None)


def claim_audit(catalog: Catalog, scenario: str, stack: str) -> ClaimAudit:
    """Hold a stack's claim beside its physical floor."""
    row = plan_cell(catalog, catalog.scenario(scenario), catalog.stack(stack))
    return ClaimAudit(
        scenario=scenario,
        stack=stack,
        claim_latency_s=row.claim_s,
        claim_tokens=row.claim_tokens,
        floor_s=row.floor_s,
        floor_arithmetic=row.floor_arithmetic,
        feasible=row.feasible,
        factor=row.factor,
        note=row.reasons[0] if row.reasons else "",
    )


def mean_prompt_tokens(workload: Workload) -> int:
    return workload.input_tokens or PROMPT_TOKENS[workload.kind]


def machine_of(catalog: Catalog, stack: Stack) -> Machine | None:
    """One replica at the stack's stated efficiencies; None without a GPU or a model shape."""
    gpu = catalog.gpu_of(stack)
    if gpu is None or stack.model is None:
        return None
    return Machine(stack.model, gpu, stack.tensor_parallel, (stack.emulation or Emulation()).efficiency)


def _plan_machine(row: PlanRow, scenario: Scenario, stack: Stack, claim: Claim | None, machine: Machine) -> PlanRow:
    row = _audit(row, stack, claim, machine)
    request_tokens = row.input_tokens + row.output_tokens
    fit = memory_fit(machine, request_tokens)
    gpus = machine.tensor_parallel
    batch = largest_batch(machine, request_tokens, (stack.emulation or Emulation()).max_batch)
    ideal = Machine(machine.model, machine.gpu, gpus)
    lengths = output_lengths(scenario.workload)
    mean_length = float(lengths.mean())
    row = row.model_copy(
        update={
            "memory_floor_gb": fit.needed / gpus / 1e9,
            "gpu_memory_gb": fit.usable / gpus / 1e9,
            "fits": fit.fits,
            "kv_capacity_tokens": kv_capacity_tokens(machine),
            "largest_batch": batch,
            "capacity_rps": capacity_rps(machine, batch, row.input_tokens, mean_length, stack.replicas),
            "roofline_rps": capacity_rps(ideal, batch, row.input_tokens, mean_length, stack.replicas),
        }
    )
    row = _audit_memory(row, machine)
    if batch == 0:
        return _because(row.model_copy(update={"expected": "FAIL"}), does_not_fit(machine, request_tokens))
    loop = Loop(machine, stack.replicas, batch, row.input_tokens, lengths)
    return _predict(row, scenario, loop)


def _audit(row: PlanRow, stack: Stack, claim: Claim | None, machine: Machine) -> PlanRow:
    floor = latency_floor_s(machine.model, machine.gpu, machine.tensor_parallel, CLAIM_PROMPT_TOKENS, row.tokens)
    row = row.model_copy(update={"floor_s": floor.total_s, "floor_arithmetic": floor.arithmetic})
    if claim is None or claim.latency_s is None:
        return row
    factor = floor.total_s / claim.latency_s
    means = tokens_within(machine.model, machine.gpu, machine.tensor_parallel, claim.latency_s)
    row = row.model_copy(update={"feasible": factor <= 1, "factor": factor, "claim_means_tokens": means})
    if factor <= 1:
        return _because(row, f"the claimed {claim.latency_s:g} s is above its floor of {floor.total_s:.2f} s")
    more = "; more replicas answer more users, none of them sooner" if stack.replicas > 1 else ""
    return _because(
        row,
        f"the claimed {claim.latency_s:g} s for {row.tokens:,} tokens is impossible by a factor of {factor:.1f}: "
        f"{floor.arithmetic}; {claim.latency_s:g} s allow {means:,} tokens{more}",
    )


def _audit_memory(row: PlanRow, machine: Machine) -> PlanRow:
    claimed, needed = row.claim_memory_gb, row.memory_floor_gb
    if claimed is None or needed is None or needed <= claimed * CLAIM_MEMORY_SLACK:
        return row
    each = " on each GPU" if machine.tensor_parallel > 1 else ""
    return _because(row, f"the claimed {claimed:g} GB{each} is less than the {needed:.1f} GB that one request needs")


def _predict(row: PlanRow, scenario: Scenario, loop: Loop) -> PlanRow:
    check = scenario.primary
    steps = np.array([loop.step_s(in_flight) for in_flight in range(1, scenario.users + 1)])
    found = solve(loop, steps, scenario.users, row.think_s, check)
    alone = solve(loop, steps, 1, row.think_s, check)
    row = row.model_copy(
        update={
            "batch": found.in_flight / loop.replicas,
            "e2e_s": found.e2e_s,
            "offered_rps": found.throughput_rps,
            "alone_s": aggregate_of(loop.lengths * steps[0] + loop.prefill_s() * (1 - 1 / loop.lengths), check),
            "predicted": found.value,
        }
    )
    if check.metric == "error_rate":
        return _because(row, "an error rate does not follow from physics")
    row = row.model_copy(update={"expected": "PASS" if check.holds(found.value) else "FAIL"})
    row = _because(row, *_load_reasons(row, check, loop))
    if not check.is_latency:
        return row
    if not check.holds(alone.value):
        return _because(row, f"even one user alone misses {check.text}: neither thinking nor replicas help")
    think_s = passing_think_s(loop, steps, scenario.users, check)
    row = row.model_copy(update={"passing_think_s": think_s})
    if row.expected == "FAIL" and think_s is not None:
        return _because(row, f"it would begin to pass at a think time of {think_s:.3g} s in place of {row.think_s:g} s")
    return row


def _load_reasons(row: PlanRow, check: Objective, loop: Loop) -> list[str]:
    assert row.capacity_rps is not None
    assert row.predicted is not None
    unit = "req/s" if check.metric in ("throughput", "goodput") else "s"
    reasons = [f"predicted {check.text.split(' ')[0]} is {row.predicted:.3g} {unit}, asked is {check.text}"]
    if row.needed_rps is not None and row.needed_rps > row.capacity_rps:
        reasons.append(
            f"{row.users:,} users who think {row.think_s:g} s need {row.needed_rps:.3g} requests/s for the limit, "
            f"{loop.replicas} replica{'' if loop.replicas == 1 else 's'} at a batch of {loop.batch} can answer "
            f"{row.capacity_rps:.3g}"
        )
    if loop.batch == 1:
        reasons.append("memory admits one request at a time, so users queue")
    return reasons


def _plan_api(row: PlanRow, scenario: Scenario, stack: Stack, latency_s: float) -> PlanRow:
    """An API has no floor and no queue: its claim, with the stated spread, is all there is to go by."""
    check = scenario.primary
    sigma = (stack.emulation or Emulation()).spread
    quantiles = (np.arange(QUANTILES) + 0.5) / QUANTILES
    spread = np.exp(sigma * np.array([NormalDist().inv_cdf(float(quantile)) for quantile in quantiles]))
    lengths = output_lengths(scenario.workload)
    times = (latency_s * np.outer(lengths / row.tokens, spread)).ravel()
    mean_s = float(times.mean())
    throughput = scenario.users / (row.think_s + mean_s)
    row = row.model_copy(
        update={
            "e2e_s": mean_s,
            "offered_rps": throughput,
            "usd_per_hour": _api_usd_per_hour(stack, throughput, row.input_tokens, float(lengths.mean())),
        }
    )
    if check.metric not in ("e2e", "response_time"):
        return _because(row, f"an API has no roofline, and its claim says nothing of {check.metric}")
    value = aggregate_of(times, check)
    expected: Expected = "PASS" if check.holds(value) else "FAIL"
    row = row.model_copy(update={"predicted": value, "alone_s": value, "expected": expected})
    if expected == "PASS":
        row = row.model_copy(update={"passing_think_s": 0.0})
    return _because(row, f"an API has no roofline; if its claim is true, {check.text.split(' ')[0]} is {value:.3g} s")


def _needed_rps(scenario: Scenario) -> float | None:
    check = scenario.primary
    if check.metric not in ("e2e", "response_time"):
        return None
    return scenario.users / (scenario.think_time.mean_s + check.limit)


def _usd_per_hour(stack: Stack) -> float | None:
    match stack.price.kind:
        case "hourly":
            return stack.price.usd_per_gpu_hour * stack.gpu_count
        case "none":
            return 0.0
        case _:
            return None


def _api_usd_per_hour(stack: Stack, rps: float, input_tokens: float, output_tokens: float) -> float | None:
    if stack.price.kind != "tokens":
        return None
    per_query = input_tokens * stack.price.usd_per_million_input + output_tokens * stack.price.usd_per_million_output
    return rps * 3600 * per_query / 1e6


def _because(row: PlanRow, *sentences: str) -> PlanRow:
    return row.model_copy(update={"reasons": (*row.reasons, *sentences)})
