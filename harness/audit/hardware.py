"""Latency, memory and users of a claim against the hardware's data sheet."""

from __future__ import annotations

import math

from harness.audit.lines import ROUND_NUMBERS, AuditLine, ClaimCell, Found, Standing, shown_s, stated
from harness.judgement import Judgement, Verdict
from harness.plan import CLAIM_MEMORY_SLACK, CLAIM_PROMPT_TOKENS, plan_cell
from harness.roofline import (
    Machine,
    answer_s,
    capacity_rps,
    kv_capacity_tokens,
    largest_crowd,
    memory_fit,
    stored_kv_bytes_per_token,
    usable_bytes,
    weight_bytes,
)

NONE_GIVEN = "none given"
"""How the catalog begins the words of a claim that says nothing of users."""


def latency(cell: ClaimCell) -> AuditLine | None:
    claimed, floor, machine = cell.claim.latency_s, cell.floor, cell.machine
    if claimed is None:
        return None
    asked = f"{shown_s(claimed)} for {cell.tokens:,} tokens"
    found = [each for run in cell.runs if (each := _measured_latency(cell, run, claimed)) is not None]
    if floor is None or machine is None:
        sentence = f"{asked} can neither be ruled out nor supported: nobody says what hardware answers."
        return cell.line("latency", Standing.UNPROVEN, found, claimed=claimed, sentence=sentence)
    factor, engine_s = floor.total_s / claimed, answer_s(machine, CLAIM_PROMPT_TOKENS, cell.tokens)
    arithmetic = [f"At least: {floor.arithmetic}."]
    if factor > 1:
        standing = Standing.IMPOSSIBLE
        sentence = (
            f"{asked} cannot be: reading the weights once a token takes {shown_s(floor.total_s)} at least, "
            f"{factor:.3g} times as long, whatever engine serves."
        )
        if cell.stack.replicas > 1:
            sentence += " More replicas answer more users, none of them sooner."
    else:
        reached = engine_s <= claimed * ROUND_NUMBERS
        standing = Standing.PLAUSIBLE if reached else Standing.UNPROVEN
        sentence = (
            f"{asked} is above the {shown_s(floor.total_s)} that physics asks for, and a good engine would need about "
            f"{shown_s(engine_s)} for a user alone{'' if reached else ', which is more'}."
        )
    arithmetic.append(f"A good engine ({stated(machine)}): about {shown_s(engine_s)}.")
    arithmetic.append(f"{shown_s(floor.total_s)} / {shown_s(claimed)} = {factor:.3g}.")
    return cell.line(
        "latency",
        standing,
        found,
        claimed=claimed,
        floor=floor.total_s,
        factor=factor if factor > 1 else None,
        sentence=sentence,
        arithmetic=tuple(arithmetic),
    )


def _measured_latency(cell: ClaimCell, run: Judgement, claimed: float) -> Found | None:
    """The median as measured, and held against the claim at its own length; users beyond the claim's prove nothing."""
    spread = next((each for each in run.distributions if each.metric == "e2e"), None)
    if spread is None or spread.p50 is None:
        return None
    length = run.load.tokens_got_mean
    if not length or (cell.claim.users is not None and run.load.users > cell.claim.users):
        return run, spread.p50, None
    low, high = sorted((spread.p50, spread.p50 * cell.tokens / length))
    if high <= claimed * ROUND_NUMBERS:
        return run, spread.p50, Standing.CONFIRMED
    return run, spread.p50, Standing.CONTRADICTED if low > claimed * ROUND_NUMBERS else None


def memory(cell: ClaimCell) -> AuditLine | None:
    claimed, machine, ideal, floor = cell.claim.memory_gb, cell.machine, cell.ideal, cell.floor
    if claimed is None or machine is None or ideal is None or floor is None:
        return None
    gpus, a_gpu = machine.tensor_parallel, " a GPU" if cell.stack.gpu_count > 1 else ""
    least = memory_fit(ideal, CLAIM_PROMPT_TOKENS + cell.tokens)
    needed_gb, card_gb = least.needed / gpus / 1e9, usable_bytes(ideal) / gpus / 1e9
    request = cell.prompt_tokens + cell.tokens / 2
    at_once = int(kv_capacity_tokens(ideal) / request)
    response_s = max(floor.total_s, cell.claim.latency_s or 0.0)
    users = cell.users / cell.stack.replicas
    in_flight = max(1.0, users * response_s / (response_s + cell.think_s))
    crowd_gb = (weight_bytes(machine.model) + in_flight * request * stored_kv_bytes_per_token(ideal)) / gpus / 1e9
    arithmetic = (
        f"At least: {least.weights / gpus / 1e9:.1f} GB of weights + {least.request_kv / gpus / 1e9:.3g} GB of keys "
        f"and values of one answer = {needed_gb:.4g} GB{a_gpu}; the card has {card_gb:.4g} GB.",
        f"Room: ({card_gb:.4g} GB - {least.weights / gpus / 1e9:.1f} GB) x {gpus} / {_kib(ideal)} a token / "
        f"({cell.prompt_tokens:,} prompt + {cell.tokens:,} / 2 answer tokens) = {at_once:,} at once"
        f"{' on each replica' if cell.stack.replicas > 1 else ''}.",
        f"Wanted: {users:,.4g} users x {shown_s(response_s)} / ({shown_s(response_s)} + {cell.think_s:g} s to think) "
        f"= {in_flight:,.3g} at once, {crowd_gb:.3g} GB{a_gpu}.",
    )
    factor = None
    if needed_gb > min(claimed * CLAIM_MEMORY_SLACK, card_gb):
        standing, factor = Standing.IMPOSSIBLE, needed_gb / min(claimed, card_gb)
        sentence = f"{claimed:g} GB{a_gpu} cannot hold the model and one answer, which take {needed_gb:.3g} GB{a_gpu}."
    elif crowd_gb > card_gb:
        standing, factor = Standing.INCONSISTENT, crowd_gb / card_gb
        sentence = (
            f"The card holds the model and {_count(at_once, 'answer')} at once; {users:,.4g} users have "
            f"{in_flight:,.3g} under way at any moment, which takes {crowd_gb:.3g} GB{a_gpu} of its {card_gb:.3g}."
        )
    else:
        engine_gb = usable_bytes(machine) / gpus / 1e9
        standing = Standing.PLAUSIBLE if crowd_gb <= engine_gb else Standing.UNPROVEN
        sentence = (
            f"{claimed:g} GB{a_gpu} can hold the model, and the card has room for {at_once:,} answers at once where "
            f"about {in_flight:,.3g} are under way."
        )
        if standing is Standing.UNPROVEN:
            sentence += f" An engine that leaves itself the usual margin has {engine_gb:.3g} GB, which are too few."
    found = [each for run in cell.runs if (each := _measured_memory(run, claimed)) is not None]
    return cell.line(
        "memory",
        standing,
        found,
        claimed=claimed,
        floor=needed_gb,
        factor=factor,
        sentence=sentence,
        arithmetic=arithmetic,
    )


def _measured_memory(run: Judgement, claimed: float) -> Found | None:
    """The fullest GPU. Engines reserve what they may use, so more than claimed contradicts nothing."""
    series = run.telemetry.series if run.telemetry else ()
    peaks = [each.max / 1e9 for each in series if each.name == "gpu_memory_bytes"]
    peaks_of_one = [each.max / 1e9 for each in series if each.name == "gpu_memory_bytes" and each.device is not None]
    if not peaks:
        return None
    peak = max(peaks_of_one or peaks)
    return run, peak, Standing.CONFIRMED if peak <= claimed * ROUND_NUMBERS else None


def users(cell: ClaimCell) -> AuditLine | None:
    claimed, machine, ideal, floor = cell.claim.users, cell.machine, cell.ideal, cell.floor
    if claimed is None:
        words = cell.claim.users_text
        if not cell.stack.is_api or not words or words.startswith(NONE_GIVEN):
            return None
        sentence = f"'{words}' names no number: an account's rate limits decide, and only a run can find them."
        return cell.line("users", Standing.UNPROVEN, [], sentence=sentence)
    found = [each for run in cell.runs if (each := _measured_users(run, claimed)) is not None]
    limit_s = cell.scenario.primary.limit if cell.scenario.primary.metric in ("e2e", "response_time") else None
    within_s = limit_s or cell.claim.latency_s or math.inf
    if machine is None or ideal is None or floor is None or not math.isfinite(within_s):
        sentence = f"{claimed:,} users can neither be ruled out nor supported: there is no hardware to reason from."
        return cell.line("users", Standing.UNPROVEN, found, claimed=claimed, sentence=sentence)
    needed = claimed / (within_s + cell.think_s)
    most, strict_rps, strict_batch = _most_users(cell, ideal, CLAIM_PROMPT_TOKENS, within_s)
    here, here_rps, _ = _most_users(cell, ideal, cell.prompt_tokens, within_s)
    arithmetic = [
        f"Wanted: {claimed:,} users / ({shown_s(within_s)} + {cell.think_s:g} s of thinking) "
        f"= {needed:,.4g} requests/s.",
        f"At most, with the shortest prompts: {strict_batch:,} at once within {shown_s(within_s)} = {strict_rps:,.4g} "
        f"requests/s; x ({shown_s(within_s)} + {cell.think_s:g} s) = {most:,} users.",
        f"At most, with the scenario's {cell.prompt_tokens:,} prompt tokens: {here_rps:,.4g} requests/s, "
        f"{here:,} users.",
    ]
    factor = None
    if strict_batch == 0:
        standing, factor = Standing.IMPOSSIBLE, max(1.0, floor.total_s / within_s)
        alone = f"even one alone waits {shown_s(floor.total_s)} for {cell.tokens:,} tokens, {factor:.3g} times that"
        sentence = f"Not one of {claimed:,} users is served within {shown_s(within_s)}: {alone}."
        arithmetic.insert(0, f"Alone: {floor.arithmetic}.")
    elif most < claimed:
        standing, factor = Standing.IMPOSSIBLE, claimed / most
        sentence = f"{claimed:,} users within {shown_s(within_s)} cannot be: the hardware answers {most:,} at most."
    elif here < claimed:
        standing, factor = Standing.INCONSISTENT, claimed / max(1, here)
        sentence = (
            f"{claimed:,} users would need shorter prompts than the scenario's {cell.prompt_tokens:,} tokens, with "
            f"which the hardware answers {here:,} users at most."
        )
    else:
        row = plan_cell(cell.catalog, cell.scenario.model_copy(update={"users": claimed}), cell.stack)
        standing = Standing.PLAUSIBLE if row.expected == "PASS" else Standing.UNPROVEN
        sentence = (
            f"{claimed:,} users are within what the hardware could do ({here:,} at most), and a good engine would "
            f"{'meet' if row.expected == 'PASS' else 'miss'} {row.check} with them"
            f"{f' ({shown_s(row.predicted)})' if row.predicted is not None else ''}."
        )
        arithmetic.append(
            f"A good engine ({stated(machine)}): {row.capacity_rps or 0.0:,.4g} requests/s at most; {row.check} is "
            f"predicted at {shown_s(row.predicted or math.inf)}."
        )
    return cell.line(
        "users",
        standing,
        found,
        claimed=claimed,
        floor=most,
        factor=factor,
        sentence=sentence,
        arithmetic=tuple(arithmetic),
    )


def _most_users(cell: ClaimCell, ideal: Machine, prompt_tokens: int, within_s: float) -> tuple[int, float, int]:
    """Users, requests/s and requests at once on each replica, as the data sheet allows."""
    batch = largest_crowd(ideal, prompt_tokens, cell.tokens, within_s)
    rate = capacity_rps(ideal, batch, prompt_tokens, cell.tokens, cell.stack.replicas)
    return int(rate * (within_s + cell.think_s)), rate, batch


def _measured_users(run: Judgement, claimed: int) -> Found | None:
    users = run.load.users_reached
    if users == 0:
        return None
    if run.verdict is Verdict.PASS and users >= claimed:
        return run, users, Standing.CONFIRMED
    return run, users, Standing.CONTRADICTED if run.verdict is Verdict.FAIL and users <= claimed else None


def _kib(machine: Machine) -> str:
    return f"{stored_kv_bytes_per_token(machine) / 1024:,.0f} KiB"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
