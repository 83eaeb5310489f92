"""Own replicas of a sizing against an API: each crossing with its replicas and its month, and one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain
from typing import Literal

from harness import break_even as volumes
from harness.break_even import MOST_STEPS, own_usd
from harness.capacity_record import BreakEven, Crossing
from harness.cost import Cost, format_usd


def crossings(per_replica: float, usd_per_replica: float, usd_per_query: float, spare: int) -> tuple[Crossing, ...]:
    """Every volume at which the cheaper side changes, in order; two costs that only touch do not cross."""
    if usd_per_query <= 0:
        return ()
    spans = volumes.break_even(usd_per_query, usd_per_replica, per_replica, spare).cheaper
    turns: Iterable[tuple[float, Literal["own", "api"]]] = chain.from_iterable(
        ((span.low, "own"), (span.high, "api")) for span in spans
    )
    return tuple(
        _crossing(volume, cheaper, per_replica, usd_per_replica, usd_per_query, spare)
        for volume, cheaper in turns
        if math.isfinite(volume)
    )


def _crossing(
    volume: float,
    cheaper: Literal["own", "api"],
    per_replica: float,
    usd_per_replica: float,
    usd_per_query: float,
    spare: int,
) -> Crossing:
    """At the end of a full step it is the next replica that makes own ones the dearer."""
    usd = volume * usd_per_query
    replicas = round(volume / per_replica) + 1 + spare if cheaper == "api" else round(usd / usd_per_replica)
    return Crossing(requests=volume, replicas=replicas, usd=usd, cheaper=cheaper)


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
    if len(found) >= MOST_STEPS:
        return f"{turns}, and whole replicas turn that again and again: the two cost the same for all purposes"
    return f"{turns}; whole replicas turn that {len(found) - 1} more times, until they stay so from {last:,.0f} on"
