"""What would change a pick: each line is the rule applied again with one thing changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.candidates import Candidate, quantity
from harness.cost import format_usd
from harness.judgement import Verdict
from harness.ranking import PER_QUERY, Rule
from harness.spec import QualityNeed, Word


def flips(rule: Rule, pick: Candidate, runner_up: Candidate | None, known: Sequence[Candidate]) -> Iterable[str]:
    if runner_up is None:
        yield f"If {pick.title} failed, no stack could be recommended."
    else:
        yield f"If {pick.title} failed, it would be {runner_up.title}."
        yield from _by_price(rule, pick, runner_up)
    yield from _by_limit(rule, pick, known)
    for other in known:
        if other.verdict is Verdict.INCONCLUSIVE:
            passing = [replace(each, verdict=Verdict.PASS) if each is other else each for each in known]
            if rule.first(passing) is not pick:
                yield f"If {other.title}, which is INCONCLUSIVE, passed, it would be the pick."
    sensitivities: tuple[Word, ...] = ("low", "high")
    for sensitivity in sensitivities:
        if (sensitivity == "low") != (rule.cost_sensitivity == "low"):
            changed = replace(rule, cost_sensitivity=sensitivity).first(known)
            if changed is not None and changed is not pick:
                yield f"If cost sensitivity were {sensitivity}, it would be {changed.title}."
    needs: tuple[QualityNeed, ...] = ("medium", "medium-high", "high")
    for need in needs:
        changed = replace(rule, quality_need=need).first(known)
        if need != rule.quality_need and changed is not pick:
            yield f"If quality needs were {need}, it would be {_title(changed)}."


def _by_price(rule: Rule, pick: Candidate, runner_up: Candidate) -> Iterable[str]:
    ours, theirs = rule.basis.of(pick), rule.basis.of(runner_up)
    if rule.cost_sensitivity == "low" or not ours or not theirs or theirs <= ours:
        return
    what = f"a query on {pick.title} cost more than {format_usd(theirs)}"
    if rule.basis is not PER_QUERY:
        what = f"{pick.title} cost more than {rule.basis.text(theirs)}"
    yield f"If {what} ({theirs / ours:.3g} times as much), it would be {runner_up.title}."


def _by_limit(rule: Rule, pick: Candidate, known: Sequence[Candidate]) -> Iterable[str]:
    """The primary check's limit, tightened until the pick fails and loosened until another stack passes."""
    own = pick.bound
    if own is None or pick.limit is None or not pick.lower_is_better or not math.isfinite(own):
        return
    metric = pick.check.partition(" ")[0]
    if own > 0:
        tighter = [_under(each, own) for each in known]
        yield (
            f"If {metric} had to stay under {quantity(own, pick.unit)} in place of {quantity(pick.limit, pick.unit)}, "
            f"it would be {_title(rule.first(tighter))}."
        )
    slower = [each for each in known if each.verdict is Verdict.FAIL and each.fails_only_its_limit]
    first = pick.stack
    for limit in sorted({each.bound for each in slower if each.bound is not None}):
        found = rule.first([_at(each, limit) if each in slower else each for each in known])
        if found is not None and found.stack != first:
            first = found.stack
            yield f"If {metric} could be {quantity(limit, pick.unit)}, it would be {found.title}."


def _under(candidate: Candidate, limit: float) -> Candidate:
    """What passes under a tighter limit: only what was shown to lie below it."""
    passes = candidate.bound is not None and candidate.bound < limit
    return candidate if passes or candidate.verdict is not Verdict.PASS else replace(candidate, verdict=Verdict.FAIL)


def _at(candidate: Candidate, limit: float) -> Candidate:
    """What passes under a looser limit."""
    passes = candidate.bound is not None and candidate.bound <= limit
    return replace(candidate, verdict=Verdict.PASS) if passes else candidate


def _title(candidate: Candidate | None) -> str:
    return candidate.title if candidate else "none of them"
