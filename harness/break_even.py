"""From which monthly volume own GPUs are cheaper than an API, and where that turns again.

Own GPUs come in whole replicas, so their cost is a step function of the volume: (ceil(V / v) + spare) x M for replicas
that answer v requests and cost M a month. The API costs c x V. On each step the line may cross once (own becomes the
cheaper), and at the step's end the next replica may lift own cost above the line again: every crossing is listed.
"""

from __future__ import annotations

import math

from harness.capacity_record import BreakEven, Crossing
from harness.cost import Cost, format_usd

MOST_REPLICAS = 1000
"""Where the list ends: two prices that still alternate there are equal for all purposes."""


TOUCHES = 1 + 1e-12
"""Two costs that meet in one point, but for rounding, do not cross."""


def own_usd(volume: float, per_replica: float, usd_per_replica: float, spare: int) -> float:
    """A month of own replicas that answer ``volume`` requests."""
    return (math.ceil(volume / per_replica) + spare) * usd_per_replica


def crossings(per_replica: float, usd_per_replica: float, usd_per_query: float, spare: int) -> tuple[Crossing, ...]:
    """Every volume at which the cheaper side changes, in order; two costs that only touch do not cross.

    At no volume the API costs nothing, so it is the cheaper one first.
    """
    found: list[Crossing] = []
    own_is_cheaper = False
    for count in range(1, MOST_REPLICAS + 1):
        low, high = (count - 1) * per_replica, count * per_replica
        fixed = (count + spare) * usd_per_replica
        if own_is_cheaper and fixed > usd_per_query * low * TOUCHES:
            found.append(Crossing(requests=low, replicas=count + spare, usd=usd_per_query * low, cheaper="api"))
            own_is_cheaper = False
        meets = fixed / usd_per_query if usd_per_query > 0 else math.inf
        if not own_is_cheaper and low <= meets < high:
            found.append(Crossing(requests=meets, replicas=count + spare, usd=fixed, cheaper="own"))
            own_is_cheaper = True
        if own_is_cheaper and usd_per_query * high * TOUCHES >= fixed + usd_per_replica:
            # Once one replica is worth its money at full load, so is each further one.
            break
        if usd_per_query * per_replica <= usd_per_replica:
            # A full replica costs no less than the API asks for the same, and the spare ones come on top.
            break
    return tuple(found)


def break_even(
    api: str, query: Cost, *, per_replica: float, usd_per_replica: float, spare: int, volume: float
) -> BreakEven:
    """Compare own replicas with an API; ``volume`` is the scenario's own, requests a month."""
    found = crossings(per_replica, usd_per_replica, query.usd, spare)
    own, asked = own_usd(volume, per_replica, usd_per_replica, spare), volume * query.usd
    cheaper, dearer = ("own GPUs", f"'{api}'") if own <= asked else (f"'{api}'", "own GPUs")
    now = (
        f"at the scenario's {volume:,.0f} requests a month {cheaper} cost {format_usd(min(own, asked))} and"
        f" {dearer} {format_usd(max(own, asked))}"
    )
    return BreakEven(
        api=api,
        api_usd_per_query=query.usd,
        arithmetic=query.arithmetic,
        usd_per_replica_month=usd_per_replica,
        requests_per_replica_month=per_replica,
        crossings=found,
        sentence=f"{_sentence(api, found)}; {now}",
    )


def _sentence(api: str, found: tuple[Crossing, ...]) -> str:
    if not found:
        return f"'{api}' is the cheaper at every volume: a full replica costs no less than the tokens that it replaces"
    first, last = found[0].requests, found[-1].requests
    if len(found) == 1:
        return f"own GPUs are cheaper than '{api}' from {first:,.0f} requests a month on"
    turns = f"own GPUs are first cheaper than '{api}' at {first:,.0f} requests a month"
    if len(found) >= MOST_REPLICAS:
        return f"{turns}, and whole replicas turn that again and again: the two cost the same for all purposes"
    return f"{turns}; whole replicas turn that {len(found) - 1} more times, until they stay so from {last:,.0f} on"
