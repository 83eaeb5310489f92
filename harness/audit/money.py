"""A claimed cost against the claim's own numbers, the list price and what physics lets a machine answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.audit.lines import ROUND_NUMBERS, AuditLine, ClaimCell, Found, Standing, shown_s
from harness.cost import SECONDS_PER_HOUR, Cost, format_usd, hourly_cost, rate_cost, token_cost
from harness.judgement import Judgement
from harness.plan import CLAIM_PROMPT_TOKENS
from harness.roofline import capacity_rps, largest_crowd
from harness.spec import HourlyPrice, TokenPrice

SAME_COST = 1.5
"""A claimed cost within this factor of its own arithmetic agrees with it: prices differ by region and month."""


def cost(cell: ClaimCell) -> AuditLine | None:
    claimed = cell.claim.cost_usd
    if claimed is None:
        return None
    found = [each for run in cell.runs if (each := _measured_cost(cell, run, claimed)) is not None]
    match cell.stack.price:
        case HourlyPrice(usd_per_gpu_hour=usd) if cell.claim.latency_s is not None:
            return _hourly_cost(cell, claimed, usd, cell.claim.latency_s, found)
        case TokenPrice() as price:
            low = token_cost(price, 0, cell.tokens)
            high = token_cost(price, cell.prompt_tokens, cell.tokens)
            return _token_cost(cell, claimed, low, high, found)
    sentence = f"{format_usd(claimed)} a query cannot be checked: there is no price, or no latency to share it by."
    return cell.line("cost", Standing.UNPROVEN, found, claimed=claimed, sentence=sentence)


def _hourly_cost(cell: ClaimCell, claimed: float, usd: float, latency_s: float, found: Sequence[Found]) -> AuditLine:
    gpus = cell.stack.gpu_count
    busy = hourly_cost(usd, gpus, cell.users, latency_s, 0.0)
    paused = hourly_cost(usd, gpus, cell.users, latency_s, cell.think_s)
    whose = "its own" if cell.claim.users else "the scenario's"
    standing, factor = _agreement(claimed, busy, paused)
    arithmetic = [
        f"By {whose} {cell.users:,} users, always waiting for an answer: {busy.arithmetic}.",
        f"With {cell.think_s:g} s of thinking: {paused.arithmetic}.",
        f"The claim would hold {_pause(claimed * cell.users * SECONDS_PER_HOUR / (usd * gpus) - latency_s)}.",
    ]
    given = f"its own {latency_s:g} s and {whose} {cell.users:,} users give"
    if factor is None:
        sentence = (
            f"{format_usd(claimed)} a query agrees with what {given}: {format_usd(busy.usd)} when nobody pauses, "
            f"{format_usd(paused.usd)} with {cell.think_s:g} s of thinking."
        )
    else:
        sentence = (
            f"{format_usd(claimed)} a query is {_times(claimed, busy.usd)} what {given} when nobody pauses "
            f"({format_usd(busy.usd)}), and {_times(claimed, paused.usd)} with {cell.think_s:g} s of thinking "
            f"({format_usd(paused.usd)})."
        )
    floor: Cost | None = None
    if cell.ideal is not None:
        batch = largest_crowd(cell.ideal, CLAIM_PROMPT_TOKENS, cell.tokens)
        rate = capacity_rps(cell.ideal, batch, CLAIM_PROMPT_TOKENS, cell.tokens, cell.stack.replicas)
        floor = rate_cost(usd, gpus, rate) if rate else None
    if floor is not None:
        arithmetic.append(f"At least, never idle and at the largest batch: {floor.arithmetic}.")
        if claimed < floor.usd:
            standing, factor = Standing.IMPOSSIBLE, floor.usd / claimed
            sentence = (
                f"{format_usd(claimed)} a query cannot be: the hardware never idle costs {format_usd(floor.usd)} an "
                f"answer at least, {factor:.3g} times as much."
            )
    return cell.line(
        "cost",
        standing,
        found,
        claimed=claimed,
        floor=floor.usd if floor else None,
        factor=factor,
        sentence=sentence,
        arithmetic=tuple(arithmetic),
    )


def _token_cost(cell: ClaimCell, claimed: float, low: Cost, high: Cost, found: Sequence[Found]) -> AuditLine:
    standing, factor = _agreement(claimed, low, high)
    price = f"{format_usd(low.usd)} for the answer alone, {format_usd(high.usd)} with the scenario's prompts"
    sentence = f"{format_usd(claimed)} a query agrees with the list price: {price}."
    if factor is not None:
        sentence = f"{format_usd(claimed)} a query is {_times(claimed, low.usd)} the list price: {price}."
    arithmetic = (f"The answer alone: {low.arithmetic}.", f"With the scenario's prompts: {high.arithmetic}.")
    return cell.line(
        "cost",
        standing,
        found,
        claimed=claimed,
        floor=low.usd,
        factor=factor,
        sentence=sentence,
        arithmetic=arithmetic,
    )


def _agreement(claimed: float, low: Cost, high: Cost) -> tuple[Standing, float | None]:
    """Whether a claim lies between two costs; the factor is against the first, which assumes nothing."""
    if low.usd / SAME_COST <= claimed <= high.usd * SAME_COST:
        return Standing.PLAUSIBLE, None
    return Standing.INCONSISTENT, max(claimed / low.usd, low.usd / claimed) if low.usd else math.inf


def _measured_cost(cell: ClaimCell, run: Judgement, claimed: float) -> Found | None:
    """Fewer users than claimed share a machine at a higher cost each, which contradicts nothing."""
    usd = run.cost.usd_per_query if run.cost else None
    if usd is None:
        return None
    if usd <= claimed * ROUND_NUMBERS:
        return run, usd, Standing.CONFIRMED
    shared = cell.stack.is_api or run.load.users_reached >= cell.users
    return run, usd, Standing.CONTRADICTED if shared else None


def _pause(think_s: float) -> str:
    if think_s < 0:
        return "at no think time, for none is short enough"
    return f"if each user paused {shown_s(think_s)} after an answer"


def _times(claimed: float, other: float) -> str:
    """``154 times``, or ``0.5 times`` where the claim is below."""
    return f"{claimed / other:.3g} times" if other else "infinitely many times"
