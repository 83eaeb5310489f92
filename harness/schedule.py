"""When things happen: think times, first requests, open-loop arrivals, and the looks at which a run may end.

A schedule of arrivals is made before the run, whole and from one seed. A point process of rate 1 (even, Poisson or
gamma gaps) is drawn up to the number of arrivals expected, and mapped to time through the inverse of the integral of
the rate, so that every pattern, ramps included, has the stated burstiness.

Worker k of W takes arrivals k, k + W, k + 2W, ... (:func:`share`): together exactly the schedule, whatever W is. The
shares are dealt once, when the run clock starts. A worker that joins later gets none; the share of one that is lost is
not made up for, its arrivals are missing and the run says so.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.arrivals import (
    Arrivals,
    ConstantArrivals,
    GammaArrivals,
    PoissonArrivals,
    RampArrivals,
    SpikeArrivals,
    StepArrivals,
    TraceArrivals,
)
from harness.errors import UsageError
from harness.spec import ThinkTime, Timing

FloatArray = npt.NDArray[np.float64]

SPAWN_STEP_S = 1.0
"""Locust spawns users in one burst a second."""
LOOK_GROWTH = 1.5
MOST_LOOKS = 6
ABORT_EVERY_S = 5.0
MOST_ARRIVALS = 20_000_000
"""160 MB of schedule: more than any run makes, and still harmless."""


def think_time_sampler(think: ThinkTime, rng: random.Random) -> Callable[[], float]:
    """Return a function that draws one think time in seconds.

    A log-normal with mean m and log-sigma s has mu = ln m - s^2/2, so that its *mean* is the stated one.
    """
    mean = think.mean_s
    if mean == 0 or think.distribution == "constant":
        return lambda: mean
    if think.distribution == "exponential":
        return lambda: rng.expovariate(1.0 / mean)
    sigma = think.sigma or 0.0
    mu = math.log(mean) - sigma * sigma / 2
    return lambda: rng.lognormvariate(mu, sigma)


def first_delay_s(think: ThinkTime, rng: random.Random) -> float:
    """Draw how long a new user waits before the first request.

    Uniform over one mean think time, and over the second in which Locust spawns users together: users that all
    start at once would arrive as one burst, which no population of independent users does; without think
    time they would stay in step to the end.
    """
    return rng.uniform(0.0, max(think.mean_s, SPAWN_STEP_S))


def look_times_s(shares: tuple[float, ...], warm_up_s: float, run_time_s: float, longest_limit_s: float) -> list[float]:
    """Place looks at shares of the judged time; those that could judge nothing are left out.

    At a look t the requests issued in [warm_up, t - longest_limit] have all either ended or
    violated, so none is censored.
    """
    judged_s = run_time_s - warm_up_s
    times = [warm_up_s + share * judged_s for share in sorted(shares)]
    return [time for time in times if time - longest_limit_s > warm_up_s]


def decision_times_s(
    min_time_s: float | None, warm_up_s: float, run_time_s: float, longest_limit_s: float
) -> list[float]:
    """Place the looks of a run that ends when it is decided: ``min_time_s`` and 1.5 times the one before, five at most.

    The end is the sixth. None: as early as may be, with a judged window no shorter than the warm-up. A look in the
    last tenth would cost its part of alpha and save nothing.
    """
    first_s = min_time_s
    if first_s is None:
        first_s = max(run_time_s / LOOK_GROWTH ** (MOST_LOOKS - 1), 2 * warm_up_s + longest_limit_s)
    times = [first_s * LOOK_GROWTH**place for place in range(MOST_LOOKS - 1)]
    return [time for time in times if time - longest_limit_s > warm_up_s and time <= 0.9 * run_time_s]


def abort_times_s(warm_up_s: float, run_time_s: float) -> list[float]:
    """When conditions that make a run hopeless are looked for."""
    count = math.ceil((run_time_s - warm_up_s) / ABORT_EVERY_S) - 1
    return [warm_up_s + ABORT_EVERY_S * place for place in range(1, count + 1)]


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A piece of the run in which the rate goes in a straight line."""

    start_s: float
    stop_s: float
    start_rps: float
    stop_rps: float

    @property
    def expected(self) -> float:
        return (self.stop_s - self.start_s) * (self.start_rps + self.stop_rps) / 2

    def when_s(self, counts: FloatArray) -> FloatArray:
        """Times at which the integral of the rate, from the start of the stretch, reaches ``counts``.

        With slope b the integral is r t + b t^2/2 = n; this form of its root neither cancels nor divides by b.
        """
        slope = (self.stop_rps - self.start_rps) / (self.stop_s - self.start_s)
        root = np.sqrt(np.maximum(self.start_rps**2 + 2 * slope * counts, 0.0))
        with np.errstate(invalid="ignore", divide="ignore"):
            after_s = np.where(counts > 0, 2 * counts / (self.start_rps + root), 0.0)
        return np.asarray(np.clip(self.start_s + after_s, self.start_s, self.stop_s), dtype=np.float64)


def arrival_times_s(
    arrivals: Arrivals, timing: Timing, tail_s: float, seed: int, trace: FloatArray | None = None
) -> FloatArray:
    """Make the whole schedule: seconds after the run clock's zero, sorted, in [0, run time + tail).

    Load stays on through the tail at the last rate. Even arrivals stand in the middle of their gap, so that a constant
    rate gives rate x seconds of them, rounded. ``trace`` holds a trace's moments; those after the end are left out.

    Raises
    ------
    UsageError
        When the schedule is empty, or too long to be meant.
    """
    end_s = timing.run_time_s + tail_s
    if isinstance(arrivals, TraceArrivals):
        moments = np.sort(np.empty(0) if trace is None else trace)
    else:
        stretches = _stretches(arrivals, timing, end_s)
        expected = sum(stretch.expected for stretch in stretches)
        if expected > MOST_ARRIVALS:
            raise UsageError(
                f"{arrivals.text} for {end_s:g} s makes {expected:,.0f} arrivals; at most {MOST_ARRIVALS:,}"
            )
        moments = _mapped(_unit_process(expected, _variation(arrivals), np.random.default_rng(seed)), stretches)
    # Where a stretch's rate changes, rounding may put two moments 1e-15 s out of order.
    moments = np.maximum.accumulate(moments)
    inside = moments[(moments >= 0) & (moments < end_s)]
    if not len(inside):
        raise UsageError(f"{arrivals.text} makes no arrival in the {end_s:g} s of the run")
    return inside


def share(schedule: FloatArray, rank: int, workers: int) -> FloatArray:
    """The arrivals of worker ``rank`` (from 0) of ``workers``; their places in the schedule are rank, rank + W, ..."""
    return schedule[rank::workers]


def _stretches(arrivals: Any, timing: Timing, end_s: float) -> list[_Stretch]:
    warm_s, run_s = timing.warm_up_s, timing.run_time_s
    match arrivals:
        case ConstantArrivals(rate_rps=rate) | PoissonArrivals(rate_rps=rate) | GammaArrivals(rate_rps=rate):
            found = [_Stretch(0, end_s, rate, rate)]
        case RampArrivals(from_rps=low, to_rps=high):
            found = [_Stretch(0, warm_s, low, low), _Stretch(warm_s, run_s, low, high)]
            found += [_Stretch(run_s, end_s, high, high)]
        case StepArrivals(rates_rps=rates):
            edges = np.linspace(warm_s, run_s, len(rates) + 1).tolist()
            edges[0], edges[-1] = 0.0, end_s
            found = [_Stretch(edges[i], edges[i + 1], rate, rate) for i, rate in enumerate(rates)]
        case SpikeArrivals(rate_rps=rate, spike_rps=spike, at_s=at_s, for_s=for_s):
            on_s, off_s = min(at_s, end_s), min(at_s + for_s, end_s)
            found = [_Stretch(0, on_s, rate, rate), _Stretch(on_s, off_s, spike, spike)]
            found += [_Stretch(off_s, end_s, rate, rate)]
        case _:
            raise TypeError(f"no schedule for {type(arrivals).__name__}")
    return [stretch for stretch in found if stretch.stop_s > stretch.start_s]


def _variation(arrivals: Any) -> float:
    match arrivals:
        case ConstantArrivals():
            return 0.0
        case PoissonArrivals():
            return 1.0
        case _:
            return float(arrivals.cv)


def _unit_process(expected: float, cv: float, rng: np.random.Generator) -> FloatArray:
    """Draw points of a stationary process of rate 1 in [0, expected).

    Gaps are gamma with mean 1 and shape 1/cv^2. The first one is what an observer who comes at any time waits: a
    uniform share of a gap met in proportion to its length, which is gamma of shape 1/cv^2 + 1. A process that began
    with a full gap would have (cv^2 - 1)/2 arrivals too many.
    """
    if cv == 0:
        return np.arange(int(expected + 0.5), dtype=np.float64) + 0.5
    shape, scale = 1 / cv**2, cv**2
    points = [np.array([rng.uniform() * rng.gamma(shape + 1, scale)])]
    while points[-1][-1] < expected:
        left = expected - points[-1][-1]
        gaps = rng.gamma(shape, scale, int(left + 4 * cv * left**0.5) + 16)
        points.append(points[-1][-1] + np.cumsum(gaps))
    drawn = np.concatenate(points)
    return drawn[drawn < expected]


def _mapped(points: FloatArray, stretches: list[_Stretch]) -> FloatArray:
    """Map points of rate 1 to time."""
    moments, before = [], 0.0
    for stretch in stretches:
        low, high = np.searchsorted(points, [before, before + stretch.expected])
        moments.append(stretch.when_s(points[low:high] - before))
        before += stretch.expected
    return np.concatenate(moments)
