"""What a query costs, each figure with the arithmetic that made it.

A rented machine costs the same whether it works or waits. N users who wait Z seconds between an answer of R seconds
and their next request ask X = N / (R + Z) queries a second, so one query costs

    price per second x GPUs x (R + Z) / N.

An open loop has no users, and its X is what was answered. An API costs its tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.judgement import CostSummary
from harness.spec import Claim, HourlyPrice, NoPrice, Stack, TokenPrice

SECONDS_PER_HOUR = 3600.0
DAYS_PER_MONTH = 365 / 12
HOURS_PER_MONTH = 730.0
"""8,760 hours a year over twelve, as clouds bill a month."""


@dataclass(frozen=True, slots=True)
class Cost:
    usd: float
    arithmetic: str


def format_usd(usd: float) -> str:
    """Dollars with three significant digits, never in exponents, never fewer than cents."""
    if not math.isfinite(usd) or usd == 0:
        return f"${usd:.2f}"
    return f"${usd:,.{max(2, 2 - math.floor(math.log10(abs(usd))))}f}"


def usd_per_hour(stack: Stack) -> float | None:
    """What the whole stack's machines cost an hour; None for an API or a machine without a price."""
    return stack.price.usd_per_gpu_hour * stack.gpu_count if isinstance(stack.price, HourlyPrice) else None


def hourly_cost(usd_per_gpu_hour: float, gpus: int, users: float, response_s: float, think_s: float) -> Cost:
    """One query on rented machines in a closed loop."""
    usd = usd_per_gpu_hour / SECONDS_PER_HOUR * gpus * (response_s + think_s) / users
    count = f" x {gpus} GPUs" if gpus != 1 else ""
    return Cost(
        usd,
        f"{format_usd(usd_per_gpu_hour)}/h / 3600{count} x ({response_s:.3g} s + {think_s:.3g} s) / {users:,.4g} users "
        f"= {format_usd(usd)}",
    )


def rate_cost(usd_per_gpu_hour: float, gpus: int, rate_rps: float) -> Cost:
    """One query on rented machines that answer so many a second."""
    usd = usd_per_gpu_hour / SECONDS_PER_HOUR * gpus / rate_rps
    count = f" x {gpus} GPUs" if gpus != 1 else ""
    return Cost(usd, f"{format_usd(usd_per_gpu_hour)}/h / 3600{count} / {rate_rps:,.4g} requests/s = {format_usd(usd)}")


def token_cost(price: TokenPrice, input_tokens: float, output_tokens: float, cached_tokens: float = 0.0) -> Cost:
    """One query at a price per token; ``cached_tokens`` are part of ``input_tokens``."""
    cached_usd = price.usd_per_million_cached_input
    if cached_usd is None:
        cached_usd, cached_tokens = 0.0, 0.0
    fresh = input_tokens - cached_tokens
    usd = (fresh * price.usd_per_million_input + cached_tokens * cached_usd) / 1e6
    usd += output_tokens * price.usd_per_million_output / 1e6
    parts = [
        f"{tokens:,.0f} {kind} tokens x ${per_million:g}"
        for kind, tokens, per_million in (
            ("input", fresh, price.usd_per_million_input),
            ("cached input", cached_tokens, cached_usd),
            ("output", output_tokens, price.usd_per_million_output),
        )
        if tokens
    ]
    return Cost(usd, f"({' + '.join(parts) or 'no tokens'}) / 1,000,000 = {format_usd(usd)}")


def query_cost(
    stack: Stack,
    *,
    users: float | None = None,
    response_s: float | None = None,
    think_s: float | None = None,
    input_tokens: float | None = None,
    output_tokens: float | None = None,
    cached_tokens: float | None = None,
    rate_rps: float | None = None,
) -> Cost | None:
    """One query on ``stack``; None when it has no price or what its price needs was not measured."""
    match stack.price:
        case HourlyPrice(usd_per_gpu_hour=usd):
            if rate_rps:
                return rate_cost(usd, stack.gpu_count, rate_rps)
            if not users or response_s is None or think_s is None or not math.isfinite(response_s):
                return None
            return hourly_cost(usd, stack.gpu_count, users, response_s, think_s)
        case TokenPrice() as price:
            if input_tokens is None or output_tokens is None:
                return None
            return token_cost(price, input_tokens, output_tokens, cached_tokens or 0.0)
        case NoPrice():
            return None


def good_thousand(query: Cost, good_share: float) -> Cost | None:
    """A thousand answers within the SLA, the others paid for as well; None when none was."""
    if good_share <= 0:
        return None
    usd = 1000 * query.usd / good_share
    return Cost(usd, f"1000 x {format_usd(query.usd)} / {good_share:.4g} good = {format_usd(usd)}")


def cost_summary(
    stack: Stack,
    *,
    claim: Claim | None = None,
    users: float | None = None,
    response_s: float | None = None,
    think_s: float | None = None,
    input_tokens: float | None = None,
    output_tokens: float | None = None,
    cached_tokens: float | None = None,
    good_share: float | None = None,
    rate_rps: float | None = None,
) -> CostSummary:
    """Everything a judgement says of cost; what could not be computed stays None."""
    query = query_cost(
        stack,
        users=users,
        response_s=response_s,
        think_s=think_s,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=cached_tokens,
        rate_rps=rate_rps,
    )
    good = good_thousand(query, good_share) if query is not None and good_share is not None else None
    return CostSummary(
        usd_per_hour=usd_per_hour(stack),
        usd_per_query=query.usd if query else None,
        usd_per_1000_good=good.usd if good else None,
        claim_usd_per_query=claim.cost_usd if claim else None,
        arithmetic="; ".join(cost.arithmetic for cost in (query, good) if cost is not None),
        source=stack.price.reason if isinstance(stack.price, NoPrice) else stack.price.source.text,
    )
