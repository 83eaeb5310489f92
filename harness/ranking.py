"""The rule that orders stacks: who may be picked, and who comes first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from harness.candidates import Candidate, quality_rank
from harness.cost import format_usd
from harness.judgement import Mark, Verdict
from harness.spec import QualityNeed, Word

SAME_COST = 0.01
"""Costs within this share of the smaller are the same: list prices and measured rates are no more exact."""


@dataclass(frozen=True, slots=True)
class Basis:
    """What is compared where cost decides. An unknown cost is the highest: it cannot be shown to be lower."""

    of: Callable[[Candidate], float | None]
    unit: str
    """What follows the dollars."""

    def cost(self, candidate: Candidate) -> float:
        usd = self.of(candidate)
        return math.inf if usd is None else usd

    def text(self, usd: float) -> str:
        return f"{format_usd(usd)} {self.unit}"


PER_QUERY = Basis(lambda candidate: candidate.usd_per_query, "a query")
BASES = (
    Basis(lambda candidate: candidate.facts.usd_per_month, "a month"),
    Basis(lambda candidate: candidate.facts.usd_per_1000_good, "per 1,000 good answers"),
    PER_QUERY,
)
"""The most telling first: whole machines and idle hours, then what a good answer costs, then any answer."""


def basis_of(known: Iterable[Candidate]) -> Basis:
    """The first basis on which every stack that passes has a cost: unlike figures are not compared."""
    passing = [each for each in known if each.verdict is Verdict.PASS]
    return next((basis for basis in BASES if all(basis.of(each) is not None for each in passing)), PER_QUERY)


@dataclass(frozen=True, slots=True)
class Rule:
    """A scenario's needs, with the basis of cost: fixed once, so that what-ifs compare like with like."""

    cost_sensitivity: Word
    quality_need: QualityNeed
    basis: Basis = PER_QUERY
    users: int | None = None
    """The scenario's: a PASS with fewer says nothing of them."""

    def first(self, known: Iterable[Candidate]) -> Candidate | None:
        order = self.ranked([each for each in known if not self.why_dropped(each)])
        return order[0] if order else None

    def why_dropped(self, candidate: Candidate) -> str:
        """Empty: the candidate may be picked."""
        if candidate.verdict is not Verdict.PASS:
            return f"{candidate.verdict}: {candidate.reason}" if candidate.reason else str(candidate.verdict)
        if Mark.REDUCED in candidate.marks:
            return "it passed under a reduced load, which says nothing about the scenario's"
        if self.users and candidate.users and candidate.users < self.users:
            return f"it passed with {candidate.users:,} users, and the scenario has {self.users:,}"
        if Mark.OTHER_GPU in candidate.marks:
            return "it passed on another GPU than its own, which says nothing about its own"
        if candidate.rank is None and not candidate.facts.quality_checks:
            return "its quality is not known" + (
                f" ('{candidate.quality}' is not on the scale)" if candidate.quality else ""
            )
        if self.quality_of(candidate) < level(self.quality_need):
            return f"quality '{candidate.quality}' is below the need, {self.quality_need}"
        return ""

    def quality_of(self, candidate: Candidate) -> int:
        """The level of its word. Without one: the need itself, if its answers were measured and passed."""
        if candidate.rank is not None:
            return candidate.rank
        return level(self.quality_need) if candidate.facts.quality_checks else -1

    def ranked(self, eligible: Sequence[Candidate]) -> list[Candidate]:
        """Best first. Costs that show no difference from the cheapest one left count as one."""
        left, order = list(eligible), []
        cost_of = self.basis.cost
        while left:
            cheapest = min(left, key=lambda each: (cost_of(each), each.stack))

            def key(candidate: Candidate, cheapest: Candidate = cheapest) -> tuple[float, ...]:
                quality = -float(self.quality_of(candidate))
                cost = cost_of(cheapest if self.same_in_cost(candidate, cheapest) else candidate)
                return (quality, cost) if self.cost_sensitivity == "low" else (cost, quality)

            best = min(
                left,
                key=lambda each: (
                    *key(each),
                    -_measured(each),
                    cost_of(each),
                    _joules(each),
                    -(each.headroom or 0.0),
                ),
            )
            left.remove(best)
            order.append(best)
        return order

    def tied(self, pick: Candidate, other: Candidate) -> bool:
        """As good in quality, and no difference of cost shown: the same, or intervals that overlap."""
        return self.quality_of(pick) == self.quality_of(other) and self.same_in_cost(pick, other)

    def same_in_cost(self, one: Candidate, other: Candidate) -> bool:
        return same_cost(self.basis.cost(one), self.basis.cost(other)) or self.overlap(one, other)

    def overlap(self, one: Candidate, other: Candidate) -> bool:
        if self.basis is not BASES[1]:
            return False
        first, second = one.facts.usd_per_1000_good_range, other.facts.usd_per_1000_good_range
        return first is not None and second is not None and first[0] <= second[1] and second[0] <= first[1]


def same_cost(one: float, other: float) -> bool:
    return one == other or abs(one - other) <= SAME_COST * min(one, other)


def level(need: QualityNeed) -> int:
    found = quality_rank(need)
    assert found is not None  # each need is on the scale
    return found


def _measured(candidate: Candidate) -> float:
    """What nobody measured comes after what was."""
    margin = candidate.quality_margin
    return -math.inf if margin is None else margin


def _joules(candidate: Candidate) -> float:
    joules = candidate.facts.joules_per_request
    return math.inf if joules is None else joules
