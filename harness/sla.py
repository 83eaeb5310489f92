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
from harness.statistics import holm, p_value_fail
from harness.worth import error_worth, latency_worth, takes_limit, violates


def evaluate(objectives: Sequence[Objective], judged: Judged, terms: Terms) -> tuple[CheckResult, ...]:
    """Judge every objective; none is left out, but what cannot be known of this run is NOT MEASURED."""
    tested = measured(objectives, streamed=judged.streamed, quality=judged.quality)
    found = [_evidence(objective, tested, judged, terms) for objective in tested]
    rejected = iter(holm([evidence.p_fail for evidence in found], terms.alpha / terms.looks))
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


def fails_at_look(
    objectives: Sequence[Objective], judged: Judged, *, unknown: int = 0, confidence: float = 0.95, looks: int = 1
) -> bool:
    """Whether FAIL is certain now, at one of ``looks`` moments fixed before the run (the end included).

    Only percentile checks but those of ITL, and ``error_rate``, take part; the others wait for the end of the run. What
    the requests are worth is worked out only where they would fail as independent ones.

    Parameters
    ----------
    judged
        Requests issued since warm-up; one in flight has its age.
    unknown
        Requests issued since warm-up of which nothing is known yet (not shipped); like those in flight that
        break no limit yet, they count as keeping every limit, so that what comes later cannot take a FAIL back.
    """
    level = Terms(confidence, looks).fail_alpha(len(objectives))
    requests, rows = judged.requests, judged.rows
    for objective in objectives:
        if objective.metric == "error_rate":
            breaks, allowed = requests.failed, objective.limit
            defined = rows
        elif objective.allowed_rate is not None and objective.metric in requests.values:
            values = requests.values[objective.metric]
            breaks, allowed = violates(objective, values), objective.allowed_rate
            defined = rows & ~np.isnan(values)
        else:
            continue
        violations, samples = int(np.count_nonzero(breaks & rows)), int(np.count_nonzero(defined)) + unknown
        if p_value_fail(violations, samples, allowed) >= level:
            continue
        share = (error_worth(judged) if objective.metric == "error_rate" else latency_worth(objective, judged)).share
        if p_value_fail(share * violations, share * samples, allowed) < level:
            return True
    return False


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
    if evidence.hint:
        return evidence.hint
    if evidence.p_fail < terms.alpha:
        return (
            f"alone it would fail at {percent(terms.confidence)}, but {_some(checks, 'check')} and"
            f" {_some(terms.looks, 'look')} share the {percent(terms.alpha)} chance of a wrong FAIL" + _more(evidence)
        )
    return ("too close to the limit to tell" if evidence.at_limit else "undecided") + _worth(evidence) + _more(evidence)


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
