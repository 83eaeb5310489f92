"""A claim, replayed: the latency that somebody stated, whatever physics says of it.

An answer of n tokens takes latency x n / claimed tokens, its first token a stated share of that, the others evenly
after it. Up to the claimed users the latency is the claim's; more users queue: starts are limited to the rate that
the claimed users offer with the scenario's think time, N / (Z + latency), in bursts of at most N. An API has no such
limit, and its latency is lognormal around the claim.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from harness.spec import Claim, Scenario, Stack

TTFT_SHARE = 0.15
"""Of an answer's time, the part before its first token (the claims say nothing of it)."""
HEADROOM = 1.05
"""Rate of starts over what the claimed users offer, or chance alone would queue exactly those."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When one answer's tokens go out, in seconds after it starts."""

    ttft_s: float
    gap_s: float


@dataclass(frozen=True, slots=True)
class ClaimModel:
    latency_s: float
    tokens: int
    spread: float
    rate_rps: float
    """Starts per second; infinite for an API."""
    burst: int

    def pace(self, output_tokens: int, rng: random.Random) -> Pace:
        total_s = self.latency_s * output_tokens / self.tokens * math.exp(self.spread * rng.gauss(0.0, 1.0))
        if output_tokens == 1:
            return Pace(total_s, 0.0)
        return Pace(total_s * TTFT_SHARE, total_s * (1 - TTFT_SHARE) / (output_tokens - 1))


def claim_model(stack: Stack, scenario: Scenario, claim: Claim, spread: float) -> ClaimModel:
    """Build the model of one claim.

    Raises
    ------
    ValueError
        When the claim states no latency.
    """
    if claim.latency_s is None:
        raise ValueError(f"the claim for {stack.name} in {scenario.name} states no latency to replay")
    tokens = claim.tokens or scenario.workload.output_tokens
    if stack.is_api:
        return ClaimModel(claim.latency_s, tokens, spread, math.inf, 0)
    users = claim.users or scenario.users
    rate = HEADROOM * users / (scenario.think_time.mean_s + claim.latency_s)
    return ClaimModel(claim.latency_s, tokens, 0.0, rate, users)


class StartGate:
    """Limits starts to a rate, with bursts (the generic cell rate algorithm)."""

    def __init__(self, rate_rps: float, burst: int) -> None:
        self._interval_s = 1.0 / rate_rps
        self._tolerance_s = max(0, burst - 1) * self._interval_s
        self._due_s = -math.inf

    def start_s(self, now_s: float) -> float:
        """Return when a request that arrives now may start; arrivals are in order of time."""
        due = max(self._due_s, now_s)
        self._due_s = due + self._interval_s
        return max(now_s, due - self._tolerance_s)
