"""When things happen: think times, a user's first request, and the looks at which FAIL may end a run.

Open-loop arrivals belong here too once there is an open loop.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from harness.spec import ThinkTime


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

    Uniform over one mean think time: users that all start at once would arrive as one burst, which no
    population of independent users does.
    """
    return rng.uniform(0.0, think.mean_s)


def look_times_s(shares: tuple[float, ...], warm_up_s: float, run_time_s: float, longest_limit_s: float) -> list[float]:
    """Place looks at shares of the judged time; those that could judge nothing are left out.

    At a look t the requests issued in [warm_up, t - longest_limit] have all either ended or
    violated, so none is censored.
    """
    judged_s = run_time_s - warm_up_s
    times = [warm_up_s + share * judged_s for share in sorted(shares)]
    return [time for time in times if time - longest_limit_s > warm_up_s]
