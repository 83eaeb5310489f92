"""N users in a closed loop on batching replicas: response time, throughput, and the think time that would do.

A birth-death chain over k, the requests in flight: N - k users think and send at rate (N - k)/Z, and the replicas
complete k / S(k) per second, where S(k), an answer's time at that batch, stops growing at the largest batch, beyond
which requests queue. Its mean obeys N = X (R + Z); an arriving request sees the chain with N - 1 users (the arrival
theorem for closed networks), from which the percentile of a check follows. The chain takes think times and answers
as exponential; it is insensitive to the former's distribution and, below the largest batch, to the latter's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.objective import Objective
from harness.roofline import NATURAL_LENGTH, Machine, mean_step_s, step_time_s
from harness.spec import Workload

LONGEST_THINK_S = 24 * 3600.0
QUANTILES = 41
"""Points at which a distribution is taken."""

Samples = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Loop:
    """A stack under a scenario's requests, whatever the users and their think time."""

    machine: Machine
    replicas: int
    batch: int
    input_tokens: int
    lengths: Samples
    """Equally likely output lengths."""

    @property
    def slots(self) -> int:
        return self.batch * self.replicas

    def step_s(self, in_flight: int) -> float:
        batch = max(1.0, min(in_flight, self.slots) / self.replicas)
        return mean_step_s(self.machine, batch, self.input_tokens, float(self.lengths.mean()))

    def prefill_s(self) -> float:
        """What a prompt adds to the step that computes it."""
        return step_time_s(self.machine, 0, 0, self.input_tokens) - step_time_s(self.machine, 1, 0)


@dataclass(frozen=True, slots=True)
class Prediction:
    e2e_s: float
    throughput_rps: float
    in_flight: float
    value: float


def solve(loop: Loop, steps: Samples, users: int, think_s: float, check: Objective) -> Prediction:
    """Solve the closed loop; ``steps[k - 1]`` is the step's time with k in flight."""
    length = float(loop.lengths.mean())
    in_flight = np.arange(1, users + 1)
    served = np.minimum(in_flight, loop.slots)
    boundary = np.where(in_flight < loop.slots, _boundary_steps(loop, in_flight), 0.0)
    rates = served / ((length + boundary) * steps[:users])
    shares = _stationary(rates, users, think_s)
    throughput = float(shares[1:] @ rates)
    mean_in_flight = float(shares[1:] @ in_flight)
    e2e_s = mean_in_flight / throughput
    if check.metric in ("throughput", "goodput"):
        return Prediction(e2e_s, throughput, mean_in_flight, throughput)
    seen = _stationary(rates[: users - 1], users - 1, think_s)
    value = _tail(loop, steps[:users], rates, seen, check)
    return Prediction(e2e_s, throughput, mean_in_flight, value)


def _boundary_steps(loop: Loop, in_flight: NDArray[np.int_]) -> Samples:
    """Half of the step that is under way when a request arrives, where the replica is busy."""
    steps: Samples = 0.5 * np.minimum(1.0, (in_flight - 1) / loop.replicas)
    return steps


def _stationary(rates: Samples, users: int, think_s: float) -> Samples:
    """Probabilities of 0 .. ``users`` in flight; all of them when nobody thinks."""
    if users == 0:
        return np.ones(1)
    if think_s == 0:
        return np.concatenate((np.zeros(users), np.ones(1)))
    arrivals = (users - np.arange(users)) / think_s
    logs = np.concatenate(([0.0], np.cumsum(np.log(arrivals / rates[:users]))))
    weights = np.exp(logs - logs.max())
    shares: Samples = weights / weights.sum()
    return shares


def _tail(loop: Loop, steps: Samples, rates: Samples, seen: Samples, check: Objective) -> float:
    """The check's aggregate over what an arriving request sees (k in flight) and the length of its answer."""
    in_flight = np.arange(1, len(steps) + 1)
    queued_s = np.maximum(0, in_flight - loop.slots) / rates
    boundary_s = _boundary_steps(loop, in_flight) * steps
    prefill_s = loop.prefill_s()
    match check.metric:
        case "ttft":
            values = (queued_s + boundary_s + steps + prefill_s)[:, None]
        case "tpot":
            values = steps[:, None]
        case "itl":
            joining = np.minimum(in_flight, loop.slots) / loop.replicas / loop.lengths.mean()
            met = joining > 1 - _share(check)
            values = (steps + np.where(met, prefill_s, 0.0))[:, None]
        case _:
            alone = prefill_s * (1 - 1 / float(loop.lengths.mean()))
            values = (queued_s + boundary_s + alone)[:, None] + np.outer(steps, loop.lengths)
    weights = np.repeat(seen / values.shape[1], values.shape[1])
    return aggregate_of(values.ravel(), check, weights)


def aggregate_of(values: Samples, check: Objective, weights: Samples | None = None) -> float:
    """The check's aggregate of weighted values."""
    if weights is None:
        weights = np.full(len(values), 1 / len(values))
    if check.aggregate == "mean":
        return float(values @ weights)
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    position = int(np.searchsorted(reached, _share(check) * reached[-1] - 1e-12))
    return float(values[order][min(position, len(values) - 1)])


def _share(check: Objective) -> float:
    percentile = check.percentile
    return 0.999 if percentile is None else float(percentile) / 100


def passing_think_s(loop: Loop, steps: Samples, users: int, check: Objective) -> float | None:
    """Find the shortest think time at which the check holds, by bisection; None when a day is not enough."""

    def passes(think_s: float) -> bool:
        return check.holds(solve(loop, steps, users, think_s, check).value)

    if passes(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while not passes(high):
        low, high = high, high * 2
        if high > LONGEST_THINK_S:
            return None
    while high - low > 0.005 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def output_lengths(workload: Workload) -> Samples:
    """Output lengths, equally likely: all as asked when forced, else a natural end before that."""
    if workload.output_length == "forced":
        return np.array([float(workload.output_tokens)])
    shares = np.linspace(*NATURAL_LENGTH, QUANTILES)
    return np.maximum(1.0, np.round(shares * workload.output_tokens))
