"""Which stack to take: the rule, applied to measurements or to claims alike.

1. Only stacks whose verdict is PASS at the scenario's full load. INCONCLUSIVE is never picked.
2. Drop those below the scenario's quality need, and those of unknown quality.
3. Where cost sensitivity is medium or high, the cheapest query wins; where it is low, the best quality. The other
   criterion breaks a draw, and stacks that differ in neither are named as ties.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from harness.candidates import Candidate, candidate_of, quality_rank
from harness.catalog import Catalog
from harness.cost import format_usd
from harness.judgement import Judgement, Mark, Verdict
from harness.records import Record
from harness.roofline import latency_floor_s
from harness.spec import QualityNeed, Scenario, Stack, Word

SAME_COST = 0.01
"""Costs within this share of the smaller are the same: list prices and measured rates are no more exact."""


class Recommendation(Record):
    scenario: str
    pick: str | None = None
    """None: no stack can be recommended."""
    replicas: int = 1
    sentence: str
    reasons: tuple[str, ...] = ()
    runner_up: str | None = None
    ties: tuple[str, ...] = ()
    """Stacks as good as the pick in cost and quality."""
    dropped: dict[str, str] = {}
    """Stack to the reason why it was not considered."""
    flips: tuple[str, ...] = ()
    """What would change the pick."""
    nearest: str | None = None
    """The stack nearest to being picked, when none can be."""
    gap: str = ""
    variants: tuple[str, ...] = ()
    """Stacks not judged yet whose physical floor lies within the limit, when none can be picked."""
    rests_on_claim: bool = False
    """The pick's figures are a claim, or replay one: they cannot confirm it."""
    rests_on_emulation: bool = False


def recommend(
    scenario: str,
    candidates: Iterable[Candidate],
    *,
    cost_sensitivity: Word,
    quality_need: QualityNeed,
    variants: Sequence[str] = (),
) -> Recommendation:
    """Apply the rule; the order of ``candidates`` does not matter."""
    known = sorted(candidates, key=lambda candidate: candidate.stack)
    dropped = {candidate.stack: why for candidate in known if (why := _why_dropped(candidate, quality_need))}
    order = _ranked([candidate for candidate in known if candidate.stack not in dropped], cost_sensitivity)
    if not order:
        return _nobody(scenario, known, dropped, quality_need, tuple(variants))
    pick, rest = order[0], order[1:]
    ties = tuple(other for other in rest if _tied(pick, other))
    runner_up = rest[0] if rest else None
    return Recommendation(
        scenario=scenario,
        pick=pick.stack,
        replicas=pick.replicas,
        sentence=_sentence(scenario, pick, order, ties, cost_sensitivity),
        reasons=tuple(_reasons(pick, quality_need)),
        runner_up=runner_up.stack if runner_up else None,
        ties=tuple(other.stack for other in ties),
        dropped=dropped,
        flips=tuple(_flips(pick, runner_up, known, cost_sensitivity, quality_need)),
        rests_on_claim=Mark.CLAIM_REPLAYED in pick.marks,
        rests_on_emulation=Mark.EMULATED in pick.marks,
    )


def recommendations(judgements: Sequence[Judgement], catalog: Catalog) -> list[Recommendation]:
    """One recommendation for each scenario that was judged, in the catalog's order."""
    runs: dict[str, dict[str, list[Judgement]]] = {name: {} for name in catalog.scenarios}
    for judgement in judgements:
        runs.setdefault(judgement.scenario, {}).setdefault(judgement.stack, []).append(judgement)
    return [_of_scenario(name, by_stack, catalog) for name, by_stack in runs.items() if by_stack]


def _of_scenario(name: str, by_stack: Mapping[str, Sequence[Judgement]], catalog: Catalog) -> Recommendation:
    scenario = catalog.scenarios.get(name)
    if scenario is None:
        return Recommendation(
            scenario=name, sentence=f"{name}: no recommendation, for the catalog does not say what this scenario needs."
        )
    return recommend(
        name,
        [candidate_of(runs, catalog) for runs in by_stack.values()],
        cost_sensitivity=scenario.cost_sensitivity,
        quality_need=scenario.quality_need,
        variants=possible_variants(catalog, scenario, judged=by_stack),
    )


def possible_variants(catalog: Catalog, scenario: Scenario, judged: Iterable[str] = ()) -> tuple[str, ...]:
    """Variants of enough quality that were not judged and whose physical floor keeps the primary limit."""
    if not scenario.primary.is_latency:
        return ()
    done = set(judged)
    return tuple(
        name
        for name in scenario.variants
        if name not in done
        and (quality_rank(catalog.stack(name).quality_word(scenario.name)) or 0) >= _level(scenario.quality_need)
        and scenario.primary.holds(_floor_s(catalog, catalog.stack(name), scenario))
    )


def _floor_s(catalog: Catalog, stack: Stack, scenario: Scenario) -> float:
    gpu = catalog.gpu_of(stack)
    if stack.model is None or gpu is None:
        return math.inf
    # The shortest prompt there is, so that the floor stays one.
    return latency_floor_s(stack.model, gpu, stack.tensor_parallel, 1, scenario.workload.output_tokens).total_s


def _why_dropped(candidate: Candidate, need: QualityNeed) -> str:
    """Empty: the candidate may be picked."""
    if candidate.verdict is not Verdict.PASS:
        return f"{candidate.verdict}: {candidate.reason}" if candidate.reason else str(candidate.verdict)
    if Mark.REDUCED in candidate.marks:
        return "it passed under a reduced load, which says nothing about the scenario's"
    if Mark.OTHER_GPU in candidate.marks:
        return "it passed on another GPU than its own, which says nothing about its own"
    if candidate.rank is None:
        return "its quality is not known" + (
            f" ('{candidate.quality}' is not on the scale)" if candidate.quality else ""
        )
    if candidate.rank < _level(need):
        return f"quality '{candidate.quality}' is below the need, {need}"
    return ""


def _level(need: QualityNeed) -> int:
    level = quality_rank(need)
    assert level is not None  # each need is on the scale
    return level


def _ranked(eligible: Sequence[Candidate], cost_sensitivity: Word) -> list[Candidate]:
    """Best first. Costs within SAME_COST of the cheapest one left count as one."""
    left, order = list(eligible), []
    while left:
        cheapest = min(map(_cost, left))

        def key(candidate: Candidate, cheapest: float = cheapest) -> tuple[float, ...]:
            quality = -float(candidate.rank or 0)
            cost = cheapest if _same_cost(_cost(candidate), cheapest) else _cost(candidate)
            return (quality, cost) if cost_sensitivity == "low" else (cost, quality)

        best = min(left, key=lambda candidate: (*key(candidate), _cost(candidate), -(candidate.headroom or 0.0)))
        left.remove(best)
        order.append(best)
    return order


def _cost(candidate: Candidate) -> float:
    """An unknown cost is the highest: it cannot be shown to be lower."""
    return math.inf if candidate.usd_per_query is None else candidate.usd_per_query


def _same_cost(one: float, other: float) -> bool:
    return one == other or abs(one - other) <= SAME_COST * min(one, other)


def _tied(pick: Candidate, other: Candidate) -> bool:
    return pick.rank == other.rank and _same_cost(_cost(pick), _cost(other))


def _sentence(
    scenario: str, pick: Candidate, order: Sequence[Candidate], ties: Sequence[Candidate], cost_sensitivity: Word
) -> str:
    cost = f"{format_usd(pick.usd_per_query)} a query" if pick.usd_per_query is not None else "cost not known"
    if len(order) == 1:
        why = "the only stack that passes with enough quality"
    elif ties:
        why = f"level with {_listed(other.title for other in ties)} in cost and quality"
    elif cost_sensitivity == "low":
        why = f"the best quality of {len(order)} stacks that pass"
    else:
        why = f"the cheapest of {len(order)} stacks that pass with enough quality"
    claimed = "; it rests on a claim, which nothing here measured" if Mark.CLAIM_REPLAYED in pick.marks else ""
    emulated = "; measured on an emulated server" if Mark.EMULATED in pick.marks and not claimed else ""
    return f"{scenario}: {pick.name}: {why}, {cost}{claimed}{emulated}."


def _reasons(pick: Candidate, need: QualityNeed) -> Iterable[str]:
    if pick.value is not None and pick.headroom is not None:
        yield f"{pick.check}: {_quantity(pick.value, pick.unit)}, {pick.headroom:.0%} of the limit left"
    if pick.replicas > 1:
        yield f"{pick.replicas} of them for the scenario's users"
    yield f"quality '{pick.quality}' meets the need, {need}"
    if pick.usd_per_query is not None:
        yield f"{format_usd(pick.usd_per_query)} a query"


def _flips(
    pick: Candidate,
    runner_up: Candidate | None,
    known: Sequence[Candidate],
    cost_sensitivity: Word,
    quality_need: QualityNeed,
) -> Iterable[str]:
    """Each is the rule applied again with one thing changed."""
    if runner_up is None:
        yield f"If {pick.title} failed, no stack could be recommended."
    else:
        yield f"If {pick.title} failed, it would be {runner_up.title}."
        ours, theirs = pick.usd_per_query, runner_up.usd_per_query
        if cost_sensitivity != "low" and ours and theirs and theirs > ours:
            yield (
                f"If a query on {pick.title} cost more than {format_usd(theirs)} ({theirs / ours:.3g} times as much), "
                f"it would be {runner_up.title}."
            )
    for other in known:
        if other.verdict is Verdict.INCONCLUSIVE:
            passing = [replace(each, verdict=Verdict.PASS) if each is other else each for each in known]
            if _first(passing, cost_sensitivity, quality_need) is not pick:
                yield f"If {other.title}, which is INCONCLUSIVE, passed, it would be the pick."
    sensitivities: tuple[Word, ...] = ("low", "high")
    for sensitivity in sensitivities:
        if (sensitivity == "low") != (cost_sensitivity == "low"):
            changed = _first(known, sensitivity, quality_need)
            if changed is not None and changed is not pick:
                yield f"If cost sensitivity were {sensitivity}, it would be {changed.title}."
    needs: tuple[QualityNeed, ...] = ("medium", "medium-high", "high")
    for need in needs:
        changed = _first(known, cost_sensitivity, need)
        if need != quality_need and changed is not pick:
            yield f"If quality needs were {need}, it would be {changed.title if changed else 'none of them'}."


def _first(known: Sequence[Candidate], cost_sensitivity: Word, quality_need: QualityNeed) -> Candidate | None:
    order = _ranked([each for each in known if not _why_dropped(each, quality_need)], cost_sensitivity)
    return order[0] if order else None


def _nobody(
    scenario: str,
    known: Sequence[Candidate],
    dropped: Mapping[str, str],
    need: QualityNeed,
    variants: tuple[str, ...],
) -> Recommendation:
    possible = f" Physics allows {_listed(variants)}, not judged yet." if variants else ""
    measured = [candidate for candidate in known if candidate.verdict is not Verdict.INVALID]
    if not measured:
        return Recommendation(
            scenario=scenario,
            sentence=f"{scenario}: no recommendation, for no stack has a valid result.{possible}",
            dropped=dict(dropped),
            variants=variants,
        )
    nearest = min(measured, key=lambda candidate: _distance(candidate, need))
    gap = _gap(nearest, dropped[nearest.stack])
    return Recommendation(
        scenario=scenario,
        sentence=f"{scenario}: no recommendation. Nearest is {nearest.name}: {gap}.{possible}",
        dropped=dict(dropped),
        nearest=nearest.stack,
        gap=gap,
        variants=variants,
    )


def _distance(candidate: Candidate, need: QualityNeed) -> tuple[float, float, float]:
    """How far from being picked: enough quality first, then the verdict, then how far over the limit."""
    short = _level(need) - (candidate.rank if candidate.rank is not None else -1)
    verdict = {Verdict.PASS: 0, Verdict.INCONCLUSIVE: 1}.get(candidate.verdict, 2)
    over = math.inf if candidate.headroom is None else max(0.0, -candidate.headroom)
    return (max(0, short), verdict, over)


def _gap(candidate: Candidate, why: str) -> str:
    if candidate.verdict is Verdict.PASS or candidate.headroom is None or candidate.value is None:
        return why
    if candidate.value == math.inf:
        return f"too many of its requests never got an answer for {candidate.check}"
    if candidate.headroom < 0:
        times = f"{candidate.value / (candidate.limit or 1.0):.3g} times the limit"
        missed = times if candidate.lower_is_better else f"{-candidate.headroom:.0%} short of it"
        return f"{_quantity(candidate.value, candidate.unit)} for {candidate.check}, {missed}"
    return why


def _quantity(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.3g} %"
    if unit != "s":
        return f"{value:.3g} {unit}".rstrip()
    return f"{value:.3g} s" if value >= 1 or value == 0 else f"{1000 * value:.3g} ms"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
