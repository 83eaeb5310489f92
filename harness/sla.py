"""From judged requests to one verdict per check: PASS, FAIL or INCONCLUSIVE.

1. A percentile check asks whether the share of violations is at most 1 - p. It PASSes when the one-sided
   upper Clopper-Pearson bound of that share is at most the allowed one, and FAILs when the lower is above it, with
   requests counted as the independent ones they are worth (:mod:`harness.effective`).
2. A cell PASSes when every check does: each is tested at the full confidence, because a wrong PASS of the
   cell needs a wrong PASS of the one check that truly fails (intersection-union test).
3. A cell FAILs when any check does, so FAIL is corrected for the number of checks (Holm), and for the looks
   at which it could have been decided (alpha over their number, the end included).
4. What an unfinished request will become is unknown. For FAIL it counts as keeping the limit and for PASS as
   breaking it, so either verdict stands whatever would have come (:mod:`harness.evidence`).
5. A check without samples is never PASS, and no check keeps another from being evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.evidence import (
    Evidence,
    Terms,
    error_evidence,
    maximum_evidence,
    mean_evidence,
    number,
    percent,
    percentile_evidence,
    rate_evidence,
)
from harness.judgement import CheckResult, Verdict
from harness.metrics import STREAMED, BoolArray, Judged, Requests, gaps_beyond, mean_gap
from harness.objective import Objective
from harness.quality_evidence import good_share_evidence, goodput_evidence, score_evidence
from harness.scored import NOT_SCORED, NotScored, Scored
from harness.statistics import holm
from harness.worth import takes_limit, violates


def evaluate(
    objectives: Sequence[Objective], judged: Judged, terms: Terms, besides: int = 0
) -> tuple[CheckResult, ...]:
    """Judge every objective; none is left out, but what cannot be known of this run is NOT MEASURED.

    ``besides`` counts checks of which nothing is known yet, and which share the chance of a wrong FAIL.
    """
    tested = measured(objectives, streamed=judged.streamed, quality=judged.quality)
    found = [_evidence(objective, tested, judged, terms) for objective in tested]
    rejected = iter(holm([*(each.p_fail for each in found), *[1.0] * besides], terms.alpha / terms.looks))
    concluded = iter([_conclude(evidence, terms, next(rejected), len(tested)) for evidence in found])
    return tuple(
        next(concluded) if objective in tested else _not_measured(objective, judged) for objective in objectives
    )


def measured(
    objectives: Sequence[Objective], *, streamed: bool, quality: Scored | NotScored = NOT_SCORED
) -> tuple[Objective, ...]:
    """The objectives that a run can be held to.

    Without streaming no token has a time of its own; without scores, or prompts that say what to check by, nothing is
    known of the answers.
    """
    return tuple(
        objective
        for objective in objectives
        if (streamed or objective.metric not in STREAMED) and not _why_no_quality(objective, quality)
    )


def _why_no_quality(objective: Objective, quality: Scored | NotScored) -> str:
    if not objective.is_quality:
        return ""
    if isinstance(quality, NotScored):
        return quality.why
    if objective.aggregate == "quality" and objective.metric not in quality.known:
        return f"because no prompt of this run says anything to check {objective.metric} by"
    return ""


def _not_measured(objective: Objective, judged: Judged) -> CheckResult:
    why = _why_no_quality(objective, judged.quality)
    why = why or "because answers were asked for whole; only their end has a time"
    return CheckResult(
        text=objective.text,
        metric=objective.metric,
        aggregate=objective.aggregate,
        comparison=objective.comparison,
        limit=objective.limit,
        unit=objective.unit,
        verdict=Verdict.NOT_MEASURED,
        reason=f"{objective.text}: not measured, {why}",
    )


def _evidence(objective: Objective, objectives: Sequence[Objective], judged: Judged, terms: Terms) -> Evidence:
    if objective.metric == "error_rate":
        return error_evidence(objective, objectives, judged, terms)
    if objective.is_quality or (objective.metric == "goodput" and isinstance(judged.quality, Scored)):
        return _quality(objective, objectives, judged, terms)
    if not objective.is_latency:
        ok = judged.requests.ok
        counted = good_and_bad(objectives, judged.requests)[0] if objective.metric == "goodput" else ok
        return rate_evidence(objective, judged, counted, terms)
    if objective.aggregate == "mean":
        return mean_evidence(objective, judged, terms)
    if objective.aggregate == "max":
        return maximum_evidence(objective, judged.observe(objective.metric))
    return percentile_evidence(objective, judged, terms, len(objectives))


def _quality(objective: Objective, objectives: Sequence[Objective], judged: Judged, terms: Terms) -> Evidence:
    scored = judged.quality
    assert isinstance(scored, Scored)
    if objective.aggregate == "quality":
        return score_evidence(objective, judged, scored, terms)
    good, bad = good_and_bad(objectives, judged.requests)
    if objective.metric == "goodput":
        return goodput_evidence(objective, judged, scored, good, terms)
    return good_share_evidence(objective, judged, scored, good, bad, terms, len(objectives))


def cell_verdict(checks: Sequence[CheckResult]) -> Verdict:
    """FAIL when any check does, PASS when all do; checks that were not measured are left out."""
    verdicts = {check.verdict for check in checks} - {Verdict.NOT_MEASURED}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    return Verdict.PASS if verdicts == {Verdict.PASS} else Verdict.INCONCLUSIVE


def in_zone(low: float | None, high: float | None, allowed: float | None, zone: float) -> bool:
    """Whether the whole interval of a rate lies around the allowed one, so that a run could go on for ever."""
    if low is None or high is None or allowed is None:
        return False
    return (1.0 - zone) * allowed <= low and high <= (1.0 + zone) * allowed


def good_and_bad(objectives: Sequence[Objective], requests: Requests) -> tuple[BoolArray, BoolArray]:
    """Which requests are ``ok`` and keep the limit of every latency objective, and which cannot any more.

    An unfinished request may be neither. A percentile of ITL is asked of each request's own gaps.
    """
    bad = requests.failed
    for objective in objectives:
        if not objective.is_latency:
            continue
        if objective.metric != "itl":
            bad |= violates(objective, requests.values[objective.metric])
        elif objective.aggregate == "mean":
            bad |= violates(objective, mean_gap(requests))
        else:
            beyond, gaps = gaps_beyond(requests, objective.limit, inclusive=takes_limit(objective))
            bad |= beyond > np.floor((objective.allowed_rate or 0.0) * gaps + 1e-9)
    return requests.ok & ~bad, bad


def _conclude(evidence: Evidence, terms: Terms, fails: bool, checks: int) -> CheckResult:
    objective = evidence.objective
    passes = evidence.p_pass <= terms.alpha
    verdict = Verdict.FAIL if fails else Verdict.PASS if passes and not terms.no_pass else Verdict.INCONCLUSIVE
    reason, undecided = evidence.text, verdict is Verdict.INCONCLUSIVE
    if verdict is Verdict.PASS and evidence.rate_high is not None and evidence.allowed is not None:
        high = number(evidence.rate_high, evidence.allowed, 100)
        reason += f"; with {percent(terms.confidence)} confidence at most {high}% do"
    elif undecided:
        reason += f"; {_why_undecided(evidence, terms, checks, passes=passes)}"
    worth = evidence.worth
    value, sign = evidence.value, 1.0 if objective.lower_is_better else -1.0
    return CheckResult(
        text=objective.text,
        metric=objective.metric,
        aggregate=objective.aggregate,
        comparison=objective.comparison,
        limit=objective.limit,
        unit=objective.unit,
        verdict=verdict,
        reason=reason,
        value=value,
        value_low=evidence.value_low,
        value_high=evidence.value_high,
        margin=None if value is None else sign * (objective.limit - value) / objective.limit,
        samples=evidence.samples,
        violations=evidence.violations,
        allowed_rate=evidence.allowed,
        rate_low=evidence.rate_low,
        rate_high=evidence.rate_high,
        confidence=terms.confidence,
        more_samples=evidence.more if undecided and not passes else None,
        at_limit=undecided and not passes and evidence.at_limit,
        undefined=evidence.undefined,
        effective_samples=worth.samples if worth else None,
        design_effect=worth.design_effect if worth else None,
        correlation_time_s=worth.correlation_time_s if worth and worth.blocks else None,
        blocks=worth.blocks if worth else 0,
        needed_window_s=(worth.needed_s if worth else 0.0) or None,
    )


def _why_undecided(evidence: Evidence, terms: Terms, checks: int, *, passes: bool) -> str:
    if passes:
        return terms.no_pass
    if terms.zone and in_zone(evidence.rate_low, evidence.rate_high, evidence.allowed, terms.zone):
        return "at the limit: " + _interval(evidence, terms)
    if evidence.hint:
        return evidence.hint
    if evidence.p_fail < terms.alpha:
        return (
            f"alone it would fail at {percent(terms.confidence)}, but {_some(checks, 'check')} and"
            f" {_some(terms.looks, 'look')} share the {percent(terms.alpha)} chance of a wrong FAIL" + _more(evidence)
        )
    return ("too close to the limit to tell" if evidence.at_limit else "undecided") + _worth(evidence) + _more(evidence)


def _interval(evidence: Evidence, terms: Terms) -> str:
    low, high = (number(rate or 0.0, evidence.allowed or 0.0, 100) for rate in (evidence.rate_low, evidence.rate_high))
    confidence = percent(terms.confidence)
    return (
        f"at least {low}% and at most {high}% do, each with {confidence} confidence, which is within"
        f" {percent(terms.zone)} of what is allowed"
    )


def _more(evidence: Evidence) -> str:
    if evidence.more is None:
        return ", whatever the number of requests"
    noun = "gaps" if evidence.objective.metric == "itl" else "requests"
    return f": about {evidence.more:,} more {noun} would decide at the rate seen"


def _worth(evidence: Evidence) -> str:
    worth = evidence.worth
    if worth is None or worth.share > 0.9:
        return ""
    return f", because they are worth {worth.samples:,.0f} independent ones"


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
