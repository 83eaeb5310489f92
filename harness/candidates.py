"""Stacks as the rule of :mod:`harness.recommend` sees them, made from measurements or from claims alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.catalog import Catalog
from harness.judgement import CheckResult, Judgement, Mark, Verdict
from harness.objective import LATENCY_METRICS
from harness.records import Record
from harness.spec import Claim, Scenario, Stack

QUALITY_SCALE: tuple[tuple[str, ...], ...] = (
    ("limited",),
    ("simple sentences only",),
    ("sufficient", "acceptable", "medium"),
    ("good", "medium-high"),
    # A need, never said of a stack. The needs rise from medium over medium-high to high, and medium-high is what
    # "good" meets, so high asks for more than good; the best words must meet it, or no stack could.
    ("high",),
    ("superior", "excellent"),
)
"""From worst to best; words of one level mean the same."""


class StackFacts(Record):
    """What else is known of a stack in a scenario, beyond its verdict; None where nobody measured it."""

    capacity_users_low: int | None = None
    """Users that one of it is shown to serve within the SLA: the lower end of the capacity's interval."""
    usd_per_1000_good: float | None = None
    usd_per_1000_good_range: tuple[float, float] | None = None
    """By the bounds of the share of good answers."""
    usd_per_month: float | None = None
    """For the scenario's users: whole machines, idle hours paid."""
    quality_checks: dict[str, float] = {}
    """Checks of the SLA that speak of answers and that were measured, with what was found, 0 to 1."""
    joules_per_request: float | None = None


NO_FACTS = StackFacts()


@dataclass(frozen=True, slots=True)
class Candidate:
    """One stack with what is known of it in one scenario.

    ``value`` and ``limit`` are the primary check's, in its base unit. ``replicas`` is how many of the stack the
    scenario's users need.
    """

    stack: str
    title: str
    verdict: Verdict
    quality: str | None = None
    usd_per_query: float | None = None
    marks: tuple[Mark, ...] = ()
    check: str = ""
    value: float | None = None
    limit: float | None = None
    unit: str = "s"
    lower_is_better: bool = True
    replicas: int = 1
    reason: str = ""
    """Why the verdict is what it is, where it is not PASS."""
    bound: float | None = None
    """The side of ``value``'s interval that a tighter limit meets first; None: as ``value``, which a claim is."""
    margins: tuple[tuple[str, float], ...] = ()
    """Each check with the share of its limit that is left."""
    facts: StackFacts = NO_FACTS
    users: int | None = None
    """Under which it was measured; None: by a claim, or in an open loop."""
    growth: float | None = None
    """How many times as large the primary check's value is predicted to be with a fifth more users."""

    def __post_init__(self) -> None:
        if self.bound is None:
            object.__setattr__(self, "bound", self.value)

    @property
    def fails_only_its_limit(self) -> bool:
        """Whether the primary check, and no other, is missed by a finite amount."""
        over = self.headroom is not None and math.isfinite(self.headroom) and self.headroom <= 0
        return over and all(margin > 0 for text, margin in self.margins if text != self.check)

    @property
    def rank(self) -> int | None:
        """Level of the quality word; None for no word or one that is not on the scale."""
        return quality_rank(self.quality)

    @property
    def quality_margin(self) -> float | None:
        """The least room under a measured check of its answers, as a share of the limit; None: none was measured."""
        return min((margin for text, margin in self.margins if text in self.facts.quality_checks), default=None)

    @property
    def headroom(self) -> float | None:
        """Share of the limit that is left; negative: missed by that much."""
        if self.value is None or not self.limit:
            return None
        return (1.0 - self.value / self.limit) * (1.0 if self.lower_is_better else -1.0)

    @property
    def name(self) -> str:
        return self.title if self.replicas == 1 else f"{self.title}, {self.replicas} of them"


def quality_rank(word: str | None) -> int | None:
    """Level of ``word`` on the quality scale, from 0; None when it is not on it."""
    if word is None:
        return None
    return next((level for level, words in enumerate(QUALITY_SCALE) if word.strip().lower() in words), None)


def candidates_from_claims(catalog: Catalog, scenario: Scenario) -> list[Candidate]:
    """The candidates as their claims describe them: what the rule says when everything claimed is believed."""
    stacks = [catalog.stack(name) for name in scenario.stacks]
    return [
        _from_claim(stack, claim, scenario)
        for stack in stacks
        if (claim := stack.claims.get(scenario.name)) is not None
    ]


def _from_claim(stack: Stack, claim: Claim, scenario: Scenario) -> Candidate:
    primary = scenario.primary
    value = claim.latency_high_s or claim.latency_s
    replicas = math.ceil(scenario.users / claim.users) if claim.users and not stack.is_api else 1
    if value is None:
        verdict, reason = Verdict.NOT_MEASURED, "no latency is claimed"
    elif not primary.is_latency or primary.holds(value):
        verdict, reason = Verdict.PASS, ""
    else:
        verdict, reason = Verdict.FAIL, f"claimed '{claim.latency_text}', required {primary.text}"
    return Candidate(
        stack=stack.name,
        title=stack.title,
        verdict=verdict,
        quality=claim.quality,
        usd_per_query=claim.cost_usd,
        marks=(Mark.CLAIM_REPLAYED,),
        check=primary.text,
        value=value,
        limit=primary.limit,
        replicas=replicas,
        reason=reason,
        facts=StackFacts(capacity_users_low=None if stack.is_api else claim.users),
    )


def candidate_of(runs: Sequence[Judgement], catalog: Catalog) -> Candidate:
    """One candidate of all runs of a stack; a PASS and a FAIL decide nothing."""
    runs = _best_evidence(runs, catalog)
    by_verdict = {run.verdict: run for run in runs}
    shown = next(by_verdict[each] for each in Verdict if each in by_verdict)
    verdict, reason = shown.verdict, "; ".join(shown.reasons) or shown.sentence
    if {Verdict.PASS, Verdict.FAIL} <= by_verdict.keys():
        passed, failed = (sum(run.verdict is each for run in runs) for each in (Verdict.PASS, Verdict.FAIL))
        verdict, reason = Verdict.INCONCLUSIVE, f"of {len(runs)} runs {passed} passed and {failed} failed"
    stack = catalog.stacks.get(shown.stack)
    check = _primary_check(shown)
    return Candidate(
        stack=shown.stack,
        title=shown.stack_title,
        verdict=verdict,
        quality=shown.quality_word or (stack.quality_word(shown.scenario) if stack else None),
        usd_per_query=shown.cost.usd_per_query if shown.cost else None,
        marks=shown.marks,
        check=check.text if check else "",
        value=check.value if check else None,
        limit=check.limit if check else None,
        unit="s" if check is None or _is_latency(check) else check.unit,
        lower_is_better=check is None or check.comparison in ("<", "<="),
        reason=reason,
        bound=check.value_high if check else None,
        margins=tuple((each.text, each.margin) for each in shown.checks if each.margin is not None),
        facts=facts_of(shown),
        users=shown.load.users or None,
    )


def facts_of(run: Judgement) -> StackFacts:
    """What a judgement knows by itself; capacity and months come from elsewhere."""
    check, query = _primary_check(run), run.cost.usd_per_query if run.cost else None
    span = None
    if query is not None and check is not None and check.rate_low is not None and (check.rate_high or 1.0) < 1.0:
        span = (1000 * query / (1 - check.rate_low), 1000 * query / (1 - (check.rate_high or 0.0)))
    energy = run.telemetry.energy if run.telemetry else None
    return StackFacts(
        usd_per_1000_good=run.cost.usd_per_1000_good if run.cost else None,
        usd_per_1000_good_range=span,
        quality_checks={each.text: each.value for each in run.checks if _is_quality(each) and each.value is not None},
        joules_per_request=energy.per_request_j if energy else None,
    )


def _best_evidence(runs: Sequence[Judgement], catalog: Catalog) -> Sequence[Judgement]:
    """Leave out invalid, reduced and emulated runs, and those on another GPU, where a stack has better ones."""

    def flaws(run: Judgement) -> set[Mark]:
        scenario = catalog.scenarios.get(run.scenario)
        fewer = scenario is not None and 0 < run.load.users < scenario.users
        return {*run.marks} | ({Mark.REDUCED} if fewer else set())

    reduced = {Mark.REDUCED}
    for unwelcome in (set[Mark](), reduced, {*reduced, Mark.OTHER_GPU}, {*reduced, Mark.OTHER_GPU, Mark.EMULATED}):
        better = [run for run in runs if run.verdict is not Verdict.INVALID and not unwelcome & flaws(run)]
        runs = better or runs
    return runs


def _primary_check(judgement: Judgement) -> CheckResult | None:
    return next(filter(_is_latency, judgement.checks), judgement.checks[0] if judgement.checks else None)


def quantity(value: float, unit: str) -> str:
    """A check's value in words: seconds below one as milliseconds, shares as percentages."""
    if unit == "%":
        return f"{100 * value:.3g} %"
    if unit != "s":
        return f"{value:.3g} {unit}".rstrip()
    return f"{value:.3g} s" if value >= 1 or value == 0 else f"{1000 * value:.3g} ms"


def _is_quality(check: CheckResult) -> bool:
    return check.aggregate == "quality" or check.metric == "good_share"


def _is_latency(check: CheckResult) -> bool:
    return check.metric in LATENCY_METRICS
