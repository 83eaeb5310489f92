"""How judged requests become a verdict: on which terms, by every check and by drift; the same at a look and at the end.

A run that ends when it is decided has J looks, fixed before it starts, the end included. Each asks every check at
alpha / J, for PASS as for FAIL: by the union bound a wrong verdict at any of them has at most the chance alpha,
whatever the looks have in common.

The conditions that abort a hopeless run are looked for much more often. Together these moments have one more part of
alpha, and the one that ends a run has its share of that: an aborted run can FAIL, if that is certain, and never PASSes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.evidence import Terms
from harness.judgement import CheckResult, Verdict
from harness.manifest import Manifest
from harness.metrics import Judged
from harness.objective import Objective
from harness.records import Decision, LoadFacts
from harness.sla import cell_verdict, evaluate, in_zone
from harness.statistics import alpha_of
from harness.steady import Drift, drift
from harness.stopping import ZONE, spared_by


@dataclass(frozen=True, slots=True)
class Weighed:
    checks: tuple[CheckResult, ...]
    moved: Drift


def terms_of(manifest: Manifest, written: int) -> Terms:
    """On what terms a run is decided, of which ``written`` samples were written."""
    load, no_pass = manifest.load, ""
    lost = load.users_asked if load.loop == "closed" else max(0, load.arrivals_scheduled - written)
    look = load.ended_look
    if load.aborted_on:
        no_pass = "the run was aborted"
    elif look is not None and look.failed:
        no_pass = "the run was stopped because FAIL seemed certain, and only a whole run can PASS"
    elif not manifest.sealed:
        no_pass = "the run was killed: what was in flight then is unknown, so it cannot PASS"
    return replace(_shares(manifest.confidence, load), no_pass=no_pass, unseen=0 if manifest.sealed else lost)


def terms_at_look(manifest: Manifest) -> Terms:
    """On what terms a look decides: those of the end, for a run that goes on to it."""
    return _shares(manifest.confidence, manifest.load)


def _shares(confidence: float, load: LoadFacts) -> Terms:
    parts = len(load.looks) + 1 + bool(load.abort_on)
    aborts = load.abort_looks if load.aborted_on else 1
    if not load.until_decided:
        return Terms(confidence, looks=parts * aborts)
    return Terms(confidence_at_each(confidence, parts), looks=aborts, zone=ZONE)


def confidence_at_each(confidence: float, parts: int) -> float:
    """The confidence that one of so many parts of alpha is worth, rounded upwards so that it can be read."""
    if parts == 1:
        return confidence
    alpha = alpha_of(confidence) / parts
    return round(1.0 - (math.floor(alpha * 1e6) / 1e6 or alpha), 12)


def weigh(objectives: Sequence[Objective], judged: Judged, terms: Terms, besides: int = 0) -> Weighed:
    """Evaluate every check, and what moved; ``besides``: further checks that nothing is known of yet."""
    checks = evaluate(objectives, judged, terms, besides)
    return Weighed(checks, drift(objectives, judged, terms, checks))


def decision_at(look: Weighed, *, until_decided: bool, besides: int = 0) -> Decision:
    """What a look may end a run with. While a check is unknown only FAIL can be certain."""
    verdict = cell_verdict(look.checks)
    if verdict is Verdict.FAIL or (until_decided and look.moved.breaks):
        return "fail"
    if not until_decided or besides or look.moved.moves:
        return ""
    if verdict is Verdict.PASS:
        return "pass"
    open_checks = [check for check in look.checks if check.verdict is Verdict.INCONCLUSIVE]
    return "at limit" if open_checks and all(_at_limit(check) for check in open_checks) else ""


def _at_limit(check: CheckResult) -> bool:
    return in_zone(check.rate_low, check.rate_high, check.allowed_rate, ZONE)


def shown_hopeless(load: LoadFacts, confidence: float, judged: Judged) -> str:
    """Which condition to abort on is shown by now, in a sentence; empty: none.

    Shown is what a check would FAIL by: a bound at its part of alpha, of requests as the independent ones they are
    worth, where what is in flight counts as sparing the server.
    """
    pairs = [(text, spared_by(text)) for text in load.abort_on]
    checks = evaluate([objective for _, objective in pairs], judged, Terms(confidence, looks=max(1, load.abort_looks)))
    for (text, _), check in zip(pairs, checks, strict=True):
        if check.verdict is Verdict.FAIL:
            return f"{text}: {check.reason}"
    return ""
