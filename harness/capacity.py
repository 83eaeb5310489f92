"""The search for a capacity, as a pure function of the levels tried so far.

Geometric steps up (or down, where the first level does not pass) until something fails, then bisection on a
logarithmic scale. A level that is not decided stays inside the interval, and the gaps on both its sides are halved
further. Each level is decided at confidence 1 - alpha / (most levels possible): a level can be wrong in one way only
(it passes though the truth violates, or fails though it keeps), so by Boole's inequality the interval misses the
truth in at most alpha of the searches, whatever path they take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from harness.capacity_record import Interval, LevelResult, LoadKind, SearchSettings, Shape
from harness.errors import UsageError
from harness.judgement import Verdict
from harness.statistics import alpha_of

CLIFF_WITHIN = 1.15
"""A cliff is seen only where the interval's ends are this close."""
CLIFF_SHARE = 0.25
"""... and at least this share of requests violates at its upper end: a fourth more load breaks all of them."""
RATE_DIGITS = 3
MOST_INVALID = 2
"""Levels at the load generator's end; a third would tell nothing new."""


class Tried(NamedTuple):
    load: float
    verdict: Verdict


def level_confidence(confidence: float, levels_max: int) -> float:
    """Confidence of one level of at most ``levels_max``."""
    return 1.0 - alpha_of(confidence) / levels_max


def check_settings(settings: SearchSettings) -> None:
    """Refuse a search that cannot be.

    Raises
    ------
    UsageError
        In one sentence.
    """
    what = "users" if settings.kind == "users" else "requests/s"
    if not math.isfinite(settings.start) or settings.start <= 0 or (settings.kind == "users" and settings.start < 1):
        raise UsageError(f"--start must be {'at least 1' if settings.kind == 'users' else 'above 0'} {what}")
    if settings.kind == "users" and settings.start != int(settings.start):
        raise UsageError(f"--start must be whole users, not {settings.start:g}")
    if not math.isfinite(settings.most) or settings.most < settings.start:
        option = "--users-max" if settings.kind == "users" else "--rate-max"
        raise UsageError(f"{option} {settings.most:g} is below the first level of {settings.start:g} {what} (--start)")
    if settings.levels_max < 1:
        raise UsageError(f"--levels-max must be at least 1, not {settings.levels_max}")
    if not 0 < settings.precision < 1:
        raise UsageError(f"--precision must be between 0 and 1, not {settings.precision:g}")


def next_load(settings: SearchSettings, tested: Sequence[Tried]) -> float | None:
    """The next level; None when the interval is as narrow as asked, or nothing more can be learnt."""
    if not tested:
        return settings.start
    if len(tested) >= settings.levels_max:
        return None
    if sum(each.verdict is Verdict.INVALID for each in tested) >= MOST_INVALID:
        return None
    interval = interval_of(tested)
    if interval.feasible is None:
        return _lower(settings, min(each.load for each in tested))
    tops = [each for each in (interval.infeasible, interval.invalid) if each is not None]
    if tops:
        inside = [each.load for each in tested if interval.feasible < each.load < min(tops)]
        return _split(settings, interval.feasible, inside, min(tops))
    highest = max(each.load for each in tested)
    if highest < settings.most:
        return min(_round(settings.kind, highest * settings.factor), settings.most)
    inside = [each.load for each in tested if interval.feasible < each.load < highest]
    return _split(settings, interval.feasible, inside, highest) if highest > interval.feasible else None


def interval_of(tested: Sequence[Tried]) -> Interval:
    """What the levels say together, in any order."""
    ordered = sorted(tested)
    feasible: float | None = None
    for each in ordered:
        if each.verdict is not Verdict.PASS:
            break
        feasible = each.load
    infeasible = min((each.load for each in ordered if each.verdict is Verdict.FAIL), default=None)
    undecided = tuple(
        each.load
        for each in ordered
        if each.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE)
        and (feasible is None or each.load > feasible)
        and (infeasible is None or each.load < infeasible)
    )
    invalid = min((each.load for each in ordered if each.verdict is Verdict.INVALID), default=None)
    return Interval(feasible=feasible, infeasible=infeasible, undecided=undecided, invalid=invalid)


def verdict_of(interval: Interval) -> Verdict:
    """PASS: something passes. FAIL: the least level fails. INVALID: the client was at its end from the first on."""
    if interval.feasible is not None:
        return Verdict.PASS
    lowest = min(
        (
            (loads, verdict)
            for loads, verdict in (
                (interval.infeasible, Verdict.FAIL),
                (interval.invalid, Verdict.INVALID),
                (min(interval.undecided, default=None), Verdict.INCONCLUSIVE),
            )
            if loads is not None
        ),
        default=None,
    )
    return Verdict.INCONCLUSIVE if lowest is None else lowest[1]


def shape_of(levels: Sequence[LevelResult], interval: Interval, kind: LoadKind) -> tuple[Shape, str]:
    """Whether the SLA breaks at once or bit by bit, with the figures that say so."""
    at = {level.load: level for level in levels}
    if interval.feasible is None or interval.infeasible is None:
        return "unknown", ""
    low, high = at[interval.feasible], at[interval.infeasible]
    if low.violating is None or high.violating is None:
        return "unknown", ""
    grew = (
        f"{low.violating * 100:.3g}% of requests violate at {load_text(kind, low.load)}"
        f" and {high.violating * 100:.3g}% at {load_text(kind, high.load)}"
    )
    close = interval.infeasible <= CLIFF_WITHIN * interval.feasible or (
        kind == "users" and interval.infeasible - interval.feasible <= 1
    )
    if interval.undecided:
        return "slope", f"a slope: {grew}, with undecided levels between them"
    if not close:
        return "unknown", f"cliff or slope is not told apart, the ends are too far from each other: {grew}"
    if high.violating >= CLIFF_SHARE:
        return "cliff", f"a cliff: {grew}"
    return "slope", f"a slope: {grew}"


def load_text(kind: LoadKind, load: float) -> str:
    if kind == "rate":
        return f"{load:.4g} requests/s"
    return f"{load:,.0f} user{'' if load == 1 else 's'}"


def describe(interval: Interval, kind: LoadKind, binding: str, shape_text: str) -> str:
    """The one sentence of a search."""
    if interval.feasible is None:
        if interval.infeasible is not None and verdict_of(interval) is Verdict.FAIL:
            return f"no capacity: even {load_text(kind, interval.infeasible)} fail{_because(binding)}"
        if verdict_of(interval) is Verdict.INVALID:
            return "no capacity was measured: the load generator was at its end at the least level already"
        return "no capacity was found: the least level was not decided, so a longer run time is needed"
    parts = [f"capacity is {load_text(kind, interval.feasible)}: every level up to there passes"]
    if interval.infeasible is not None:
        parts.append(f"{load_text(kind, interval.infeasible)} fail{_because(binding)}")
    elif interval.invalid is not None:
        parts.append(
            f"at {load_text(kind, interval.invalid)} the load generator was the bottleneck, so the stack may carry more"
        )
    else:
        parts.append("nothing that was tried fails, so the stack may carry more")
    if interval.undecided:
        inside = ", ".join(f"{load:,.4g}" for load in interval.undecided)
        parts.append(f"undecided in between: {inside}")
    if shape_text:
        parts.append(shape_text)
    return "; ".join(parts)


def _because(binding: str) -> str:
    return f" ({binding})" if binding else ""


def _lower(settings: SearchSettings, least: float) -> float | None:
    lower = _round(settings.kind, least / settings.factor)
    if settings.kind == "users":
        lower = max(1.0, lower)
    return lower if 0 < lower < least else None


def _split(settings: SearchSettings, low: float, inside: Sequence[float], high: float) -> float | None:
    """Halve the wider of the gaps beside the undecided levels: only these can move an end of the interval."""
    marks = [low, *sorted(inside), high]
    gaps = sorted({(marks[0], marks[1]), (marks[-2], marks[-1])}, key=lambda gap: gap[0] / gap[1])
    for below, above in gaps:
        if above <= below * (1 + settings.precision):
            continue
        middle = _round(settings.kind, math.sqrt(below * above))
        if settings.kind == "users":
            middle = min(max(middle, below + 1), above - 1)
        if below < middle < above:
            return middle
    return None


def _round(kind: LoadKind, load: float) -> float:
    return float(round(load)) if kind == "users" else float(f"{load:.{RATE_DIGITS}g}")
