"""Which stack to take: the rule, applied to measurements or to claims alike.

1. Only stacks whose verdict is PASS at the scenario's full load. INCONCLUSIVE is never picked.
   A measured check of the answers is part of the verdict, so a stack that fails one is no pick.
2. Drop those below the scenario's quality need by their word, and those without a word whose answers nobody measured.
3. Where cost sensitivity is medium or high, the cheapest wins, by the most telling cost that is known of every stack
   that passes (a month, a thousand good answers, a query); where it is low, the best quality. The other criterion
   breaks a draw, then the room that its measured answers have, cost, energy and headroom; stacks between which no
   difference of cost is shown are named as ties.

:mod:`harness.ranking` holds the rule itself, :mod:`harness.flips` what would change a pick.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from harness.candidates import Candidate, StackFacts, candidate_of, quality_rank, quantity
from harness.catalog import Catalog
from harness.flips import flips
from harness.judgement import Judgement, Mark, Verdict
from harness.ranking import BASES, PER_QUERY, Rule, basis_of, level
from harness.records import Record
from harness.roofline import latency_floor_s
from harness.spec import QualityNeed, Scenario, Stack, Word

MORE_USERS = 1.2
"""Headroom is told at a fifth more users."""


class Recommendation(Record):
    scenario: str
    pick: str | None = None
    """None: no stack can be recommended."""
    replicas: int = 1
    sentence: str
    reasons: tuple[str, ...] = ()
    binding: str = ""
    """What would give way first: the check, or the capacity, with the least room (or the most missing)."""
    headroom: str = ""
    """Whether a fifth more users would still be served, and what that rests on."""
    runner_up: str | None = None
    ties: tuple[str, ...] = ()
    """Stacks of the pick's quality whose cost shows no difference."""
    dropped: dict[str, str] = {}
    """Stack to the reason why it was not considered."""
    flips: tuple[str, ...] = ()
    """What would change the pick."""
    fallback: tuple[str, ...] = ()
    """From which volume own machines cost less than an API, or the reverse, with the arithmetic."""
    price_notes: tuple[str, ...] = ()
    """Prices that the recommendation uses and that are out of date."""
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
    users: int | None = None,
) -> Recommendation:
    """Apply the rule; the order of ``candidates`` does not matter. ``users`` are the scenario's, for headroom."""
    known = sorted(candidates, key=lambda candidate: candidate.stack)
    rule = Rule(cost_sensitivity, quality_need, basis_of(known), users)
    dropped = {candidate.stack: why for candidate in known if (why := rule.why_dropped(candidate))}
    order = rule.ranked([candidate for candidate in known if candidate.stack not in dropped])
    if not order:
        return _nobody(scenario, known, dropped, quality_need, tuple(variants))
    pick, rest = order[0], order[1:]
    ties = tuple(other for other in rest if rule.tied(pick, other))
    runner_up = rest[0] if rest else None
    return Recommendation(
        scenario=scenario,
        pick=pick.stack,
        replicas=pick.replicas,
        sentence=_sentence(scenario, rule, pick, order, ties),
        reasons=tuple(_reasons(rule, pick, ties)),
        binding=binding(pick, users),
        headroom=headroom(pick, users),
        runner_up=runner_up.stack if runner_up else None,
        ties=tuple(other.stack for other in ties),
        dropped=dropped,
        flips=tuple(flips(rule, pick, runner_up, known)),
        rests_on_claim=Mark.CLAIM_REPLAYED in pick.marks,
        rests_on_emulation=Mark.EMULATED in pick.marks,
    )


def recommendations(
    judgements: Sequence[Judgement],
    catalog: Catalog,
    facts: Mapping[tuple[str, str], StackFacts] | None = None,
    growth: Mapping[tuple[str, str], float] | None = None,
) -> list[Recommendation]:
    """One recommendation for each scenario that was judged, in the catalog's order.

    ``facts`` and ``growth`` are by scenario and stack; facts add to what the judgements say by themselves, and growth
    is how much the primary check's value grows with a fifth more users.
    """
    runs: dict[str, dict[str, list[Judgement]]] = {name: {} for name in catalog.scenarios}
    for judgement in judgements:
        runs.setdefault(judgement.scenario, {}).setdefault(judgement.stack, []).append(judgement)
    return [
        _of_scenario(name, by_stack, catalog, facts or {}, growth or {}) for name, by_stack in runs.items() if by_stack
    ]


def _of_scenario(
    name: str,
    by_stack: Mapping[str, Sequence[Judgement]],
    catalog: Catalog,
    facts: Mapping[tuple[str, str], StackFacts],
    growth: Mapping[tuple[str, str], float],
) -> Recommendation:
    scenario = catalog.scenarios.get(name)
    if scenario is None:
        return Recommendation(
            scenario=name, sentence=f"{name}: no recommendation, for the catalog does not say what this scenario needs."
        )
    candidates = [candidate_of(runs, catalog) for runs in by_stack.values()]
    return recommend(
        name,
        [
            replace(
                with_facts(each, facts.get((name, each.stack)), scenario.users), growth=growth.get((name, each.stack))
            )
            for each in candidates
        ],
        cost_sensitivity=scenario.cost_sensitivity,
        quality_need=scenario.quality_need,
        variants=possible_variants(catalog, scenario, judged=by_stack),
        users=scenario.users,
    )


def with_facts(candidate: Candidate, more: StackFacts | None, users: int) -> Candidate:
    """Add what is known beyond a judgement; a capacity below the scenario's users asks for more of the stack."""
    if more is None:
        return candidate
    facts = candidate.facts.model_copy(update=more.model_dump(exclude_defaults=True))
    low = facts.capacity_users_low
    replicas = math.ceil(users / low) if low else candidate.replicas
    return replace(candidate, facts=facts, replicas=max(candidate.replicas, replicas))


def possible_variants(catalog: Catalog, scenario: Scenario, judged: Iterable[str] = ()) -> tuple[str, ...]:
    """Variants of enough quality that were not judged and whose physical floor keeps the primary limit."""
    if not scenario.primary.is_latency:
        return ()
    done = set(judged)
    return tuple(
        name
        for name in scenario.variants
        if name not in done
        and (quality_rank(catalog.stack(name).quality_word(scenario.name)) or 0) >= level(scenario.quality_need)
        and scenario.primary.holds(_floor_s(catalog, catalog.stack(name), scenario))
    )


def _floor_s(catalog: Catalog, stack: Stack, scenario: Scenario) -> float:
    gpu = catalog.gpu_of(stack)
    if stack.model is None or gpu is None:
        return math.inf
    # The shortest prompt there is, so that the floor stays one.
    return latency_floor_s(stack.model, gpu, stack.tensor_parallel, 1, scenario.workload.output_tokens).total_s


def _sentence(scenario: str, rule: Rule, pick: Candidate, order: Sequence[Candidate], ties: Sequence[Candidate]) -> str:
    usd = rule.basis.of(pick)
    cost = rule.basis.text(usd) if usd is not None else "cost not known"
    if len(order) == 1:
        why = "the only stack that passes with enough quality"
    elif ties:
        why = f"level with {_listed(other.title for other in ties)} in cost and quality"
    elif rule.cost_sensitivity == "low":
        why = f"the best quality of {len(order)} stacks that pass"
    else:
        why = f"the cheapest of {len(order)} stacks that pass with enough quality"
    claimed = "; it rests on a claim, which nothing here measured" if Mark.CLAIM_REPLAYED in pick.marks else ""
    emulated = "; measured on an emulated server" if Mark.EMULATED in pick.marks and not claimed else ""
    return f"{scenario}: {pick.name}: {why}, {cost}{claimed}{emulated}."


def _reasons(rule: Rule, pick: Candidate, ties: Sequence[Candidate]) -> Iterable[str]:
    facts = pick.facts
    if pick.value is not None and pick.headroom is not None:
        yield f"{pick.check}: {quantity(pick.value, pick.unit)}, {pick.headroom:.0%} of the limit left"
    if pick.replicas > 1:
        yield f"{pick.replicas} of them for the scenario's users"
    if facts.capacity_users_low is not None:
        yield f"{_claimed(pick)}capacity of one: at least {facts.capacity_users_low:,} users"
    yield _quality(rule, pick)
    if pick.usd_per_query is not None:
        yield PER_QUERY.text(pick.usd_per_query)
    for basis in BASES:
        usd = basis.of(pick)
        if basis is not PER_QUERY and usd is not None:
            yield basis.text(usd)
    if facts.joules_per_request is not None:
        yield f"{facts.joules_per_request:.3g} J of the GPUs' energy a request"
    for other in ties:
        if rule.overlap(pick, other):
            yield f"no difference from {other.title} is shown: the intervals of what a good answer costs overlap"


def _quality(rule: Rule, pick: Candidate) -> str:
    """A word is a claim; what was measured is told with its figure."""
    said = f"'{pick.quality}' meets the need, {rule.quality_need}" if pick.rank is not None else ""
    checks = pick.facts.quality_checks
    if not checks:
        return f"quality claimed, not measured: {said}"
    measured = "quality measured: " + _listed(f"{text}: {value:.3g}" for text, value in checks.items())
    return f"{measured}; claimed: {said}" if said else measured


def binding(candidate: Candidate, users: int | None = None) -> str:
    """What has the least room: a check by its limit, or the users by a capacity that is known."""
    room = [(margin, f"{text}: {_room(margin)}") for text, margin in candidate.margins]
    if not room and candidate.headroom is not None:
        room.append((candidate.headroom, f"{candidate.check}: {_room(candidate.headroom)}"))
    low = candidate.facts.capacity_users_low
    if low is not None and users:
        most = low * candidate.replicas
        text = f"{_claimed(candidate)}capacity: at least {most:,} users where {users:,} are asked"
        room.append((most / users - 1, text))
    return min(room)[1] if room else ""


def headroom(candidate: Candidate, users: int | None) -> str:
    """Whether a fifth more users would be served, by a known capacity, else by the margin and predicted growth."""
    if not users:
        return ""
    more, low = math.ceil(round(users * MORE_USERS, 6)), candidate.facts.capacity_users_low
    text = f"20% more users ({more:,})"
    if low is not None:
        most, what = low * candidate.replicas, f"the {_claimed(candidate)}capacity"
        if most >= more:
            return f"{text} fit: {what} is at least {most:,}."
        return f"{text} are not shown to fit: {what} is at least {most:,}, which leaves {most / users - 1:.0%}."
    if candidate.value is None or not candidate.limit or candidate.growth is None:
        return f"{text}: not known, for neither its capacity was searched for nor is there hardware to reason from."
    value = candidate.value * candidate.growth
    holds = value < candidate.limit if candidate.lower_is_better else value > candidate.limit
    source = "emulated" if Mark.EMULATED in candidate.marks else "measured"
    return (
        f"{text} would {'still pass' if holds else 'miss the limit'} by arithmetic: {source} "
        f"{quantity(candidate.value, candidate.unit)} x {candidate.growth:.3g}, the growth that the roofline predicts, "
        f"is {quantity(value, candidate.unit)} for {candidate.check}."
    )


def _room(margin: float) -> str:
    if not math.isfinite(margin):
        return "too many requests never got an answer"
    if margin >= 0:
        return f"{margin:.0%} of the limit left"
    return f"missed by {-margin:.0%} of the limit" if margin >= -1 else f"{1 - margin:,.3g} times the limit"


def _claimed(candidate: Candidate) -> str:
    return "claimed " if Mark.CLAIM_REPLAYED in candidate.marks else ""


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
        binding=binding(nearest),
        variants=variants,
    )


def _distance(candidate: Candidate, need: QualityNeed) -> tuple[float, float, float]:
    """How far from being picked: enough quality first, then the verdict, then how far over the limit."""
    short = level(need) - (candidate.rank if candidate.rank is not None else -1)
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
        return f"{quantity(candidate.value, candidate.unit)} for {candidate.check}, {missed}"
    return why


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
