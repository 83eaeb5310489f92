"""Recommendations with what needs the plan and today's date: headroom, own machines against an API, old prices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date

from harness.break_even import BreakEven, break_even
from harness.candidates import StackFacts, candidates_from_claims, quality_rank
from harness.catalog import Catalog
from harness.closed_loop import output_lengths
from harness.cost import HOURS_PER_MONTH, SECONDS_PER_HOUR, format_usd, token_cost, usd_per_hour
from harness.judgement import Judgement
from harness.plan import mean_prompt_tokens, plan_cell
from harness.price_age import stale_prices
from harness.recommend import MORE_USERS, Recommendation, recommend, recommendations
from harness.spec import Scenario, Stack, TokenPrice

LISTED_SPANS = 6
"""Crossings in a sentence; the rest are counted."""

Facts = Mapping[tuple[str, str], StackFacts]


def advise(
    judgements: Sequence[Judgement], catalog: Catalog, today: date, facts: Facts | None = None
) -> list[Recommendation]:
    """One recommendation for each scenario that was judged. ``facts`` are by scenario and stack."""
    cells = {(each.scenario, each.stack) for each in judgements}
    growth = {cell: found for cell in cells if (found := predicted_growth(catalog, *cell)) is not None}
    return [
        _completed(each, catalog, today, [stack for name, stack in cells if name == each.scenario], facts or {})
        for each in recommendations(judgements, catalog, facts, growth)
    ]


def believed(catalog: Catalog, scenario: Scenario) -> Recommendation:
    """What the rule says when everything that is claimed is believed."""
    return recommend(
        scenario.name,
        candidates_from_claims(catalog, scenario),
        cost_sensitivity=scenario.cost_sensitivity,
        quality_need=scenario.quality_need,
        users=scenario.users,
    )


def predicted_growth(catalog: Catalog, scenario: str, stack: str) -> float | None:
    """How many times as large the plan expects the primary check's value to be with a fifth more users."""
    if scenario not in catalog.scenarios or stack not in catalog.stacks:
        return None
    spec, server = catalog.scenarios[scenario], catalog.stacks[stack]
    if server.is_api:
        return None  # its latency is a claim that knows no load
    more = spec.model_copy(update={"users": math.ceil(round(spec.users * MORE_USERS, 6))})
    now, then = (plan_cell(catalog, each, server).predicted for each in (spec, more))
    return then / now if now and then else None


def fallback(catalog: Catalog, scenario: Scenario, own: Stack, api: Stack, facts: StackFacts | None = None) -> str:
    """From which monthly volume ``own`` machines cost less than ``api``, each crossing named; empty: no telling."""
    per_hour = usd_per_hour(own)
    if per_hour is None or not isinstance(api.price, TokenPrice):
        return ""
    prompt, answer = mean_prompt_tokens(scenario.workload), float(output_lengths(scenario.workload).mean())
    query = token_cost(api.price, prompt, answer)
    rate, why = _rate(catalog, scenario, own, facts)
    if not rate or query.usd <= 0:
        return f"{own.title} in place of {api.title}: it answers nobody here, so no volume pays for it."
    month = per_hour * HOURS_PER_MONTH
    found = break_even(query.usd, month, rate * SECONDS_PER_HOUR * HOURS_PER_MONTH)
    return (
        f"{own.title} in place of {api.title}: {_told(found)}. One costs {format_usd(per_hour)}/h x "
        f"{HOURS_PER_MONTH:g} h = {format_usd(month)} a month, idle or not, and answers {found.queries_per_month:,.0f} "
        f"queries a month at most ({rate:.3g} a second day and night, {why}); the API costs {query.arithmetic} a query."
    )


def _rate(catalog: Catalog, scenario: Scenario, own: Stack, facts: StackFacts | None) -> tuple[float, str]:
    limit = scenario.primary
    if facts is not None and facts.capacity_users_low is not None and limit.is_latency:
        slowest_s = scenario.think_time.mean_s + limit.limit
        return facts.capacity_users_low / slowest_s, "the lower end of its measured capacity, at the limit"
    row = plan_cell(catalog, scenario, own)
    return row.capacity_rps or 0.0, "a good engine at its largest batch, whatever the latency"


def _told(found: BreakEven) -> str:
    if found.first is None:
        return "never cheaper, for even a full one costs more than the API asks for the same queries"
    spans = [
        f"from {span.low:,.0f} queries a month on" if math.isinf(span.high) else f"{span.low:,.0f} to {span.high:,.0f}"
        for span in found.cheaper
    ]
    if len(spans) > LISTED_SPANS:
        spans = [*spans[: LISTED_SPANS - 1], f"{len(spans) - LISTED_SPANS} more such spans", spans[-1]]
    return "cheaper " + ", again ".join(spans)


def _completed(
    found: Recommendation, catalog: Catalog, today: date, stacks: Iterable[str], facts: Facts
) -> Recommendation:
    if found.scenario not in catalog.scenarios:
        return found
    scenario = catalog.scenarios[found.scenario]
    known = [catalog.stacks[name] for name in sorted(stacks) if name in catalog.stacks]
    told = [_with_its_verdict(text, own, found) for own, text in _fallbacks(catalog, scenario, known, found, facts)]
    return found.model_copy(
        update={
            "fallback": tuple(told),
            "flips": (*found.flips, *_by_claims(catalog, scenario, found)),
            "price_notes": stale_prices(known, today),
        }
    )


def _by_claims(catalog: Catalog, scenario: Scenario, found: Recommendation) -> Iterable[str]:
    """What the claims alone would have led to, where the runs lead elsewhere."""
    claimed = believed(catalog, scenario)
    if claimed.pick is not None and claimed.pick != found.pick:
        several = f", {claimed.replicas} of them" if claimed.replicas > 1 else ""
        yield f"If every claim were believed, it would be {catalog.stack(claimed.pick).title}{several}."


def _fallbacks(
    catalog: Catalog, scenario: Scenario, known: Sequence[Stack], found: Recommendation, facts: Facts
) -> Iterable[tuple[Stack, str]]:
    """Each API against the pick where that is a machine, else against the machines of the best quality."""
    machines = [stack for stack in known if usd_per_hour(stack) is not None]
    picked = [stack for stack in machines if stack.name == found.pick]
    best = max((quality_rank(stack.quality_word(scenario.name)) or 0 for stack in machines), default=0)
    for own in picked or [
        stack for stack in machines if (quality_rank(stack.quality_word(scenario.name)) or 0) == best
    ]:
        for api in known:
            text = fallback(catalog, scenario, own, api, facts.get((scenario.name, own.name))) if api.is_api else ""
            if text:
                yield own, text


def _with_its_verdict(text: str, own: Stack, found: Recommendation) -> str:
    """A lower bill for something that was dropped is no saving: say why it was."""
    why = found.dropped.get(own.name)
    return f"{text} It was not considered here: {why.rstrip('.')}." if why else text
