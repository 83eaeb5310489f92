"""One claimed number with all that it is held against, and how evidence settles what physics leaves open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from harness.catalog import Catalog
from harness.cost import format_usd
from harness.judgement import Judgement, Mark, Verdict
from harness.plan import CLAIM_PROMPT_TOKENS, machine_of, mean_prompt_tokens
from harness.records import Record
from harness.roofline import Floor, Machine, latency_floor_s
from harness.spec import Claim, Scenario, Stack

ROUND_NUMBERS = 1.05
"""Claims are round numbers: a measurement up to 5% beyond one is not held against it."""
NO_PROOF = frozenset({Mark.EMULATED, Mark.CLAIM_REPLAYED, Mark.REDUCED, Mark.OTHER_GPU})
"""A run with one of these marks says nothing of the claim's own hardware under the scenario's load."""

Found = tuple[Judgement, float, "Standing | None"]
"""A run, what it measured in the claim's unit, and what that alone would make of the claim."""
Subject = Literal["latency", "memory", "users", "cost"]


class Standing(StrEnum):
    """What a claim is worth, the worst first."""

    IMPOSSIBLE = "IMPOSSIBLE"
    """Beyond what the hardware's data sheet allows, whatever engine serves."""
    CONTRADICTED = "CONTRADICTED"
    """A run on its own hardware found otherwise."""
    INCONSISTENT = "INCONSISTENT"
    """It does not follow from the claim's other numbers, from the list price, or from the scenario."""
    UNPROVEN = "UNPROVEN"
    """Nothing rules it out, and nothing supports it."""
    PLAUSIBLE = "PLAUSIBLE"
    """A good engine would get there by arithmetic; nobody has measured it."""
    CONFIRMED = "CONFIRMED"
    """A run on its own hardware found it."""


class AuditLine(Record):
    """One number that somebody claimed. Seconds, 10^9 bytes, users or dollars a query."""

    scenario: str
    stack: str
    title: str
    subject: Subject
    standing: Standing
    claimed: float | None = None
    floor: float | None = None
    """The least that physics allows (users: the most); for an API's cost, the list price of the answer alone."""
    measured: float | None = None
    marks: tuple[Mark, ...] = ()
    """Of the measurement."""
    factor: float | None = None
    """How far the claim is out, above 1; None where it is not, or where no multiple would do."""
    sentence: str
    arithmetic: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClaimCell:
    """One claim with all that it is held against."""

    catalog: Catalog
    scenario: Scenario
    stack: Stack
    claim: Claim
    tokens: int
    """Of the claimed answer."""
    prompt_tokens: int
    """The scenario's, on average."""
    machine: Machine | None
    """One replica at the stated efficiencies."""
    runs: tuple[Judgement, ...]
    """Valid ones, the best evidence last."""

    @classmethod
    def of(
        cls, catalog: Catalog, scenario: Scenario, stack: Stack, claim: Claim, judgements: Sequence[Judgement]
    ) -> ClaimCell:
        def order(run: Judgement) -> tuple[bool, str]:
            return not NO_PROOF & {*run.marks}, run.provenance.started if run.provenance else ""

        return cls(
            catalog=catalog,
            scenario=scenario,
            stack=stack,
            claim=claim,
            tokens=claim.tokens or scenario.workload.output_tokens,
            prompt_tokens=mean_prompt_tokens(scenario.workload),
            machine=machine_of(catalog, stack),
            runs=tuple(sorted((run for run in judgements if run.verdict is not Verdict.INVALID), key=order)),
        )

    @property
    def ideal(self) -> Machine | None:
        """One replica as its data sheet has it."""
        return self.machine and Machine(self.machine.model, self.machine.gpu, self.machine.tensor_parallel)

    @property
    def floor(self) -> Floor | None:
        if self.machine is None:
            return None
        return latency_floor_s(
            self.machine.model, self.machine.gpu, self.machine.tensor_parallel, CLAIM_PROMPT_TOKENS, self.tokens
        )

    @property
    def users(self) -> int:
        return self.claim.users or self.scenario.users

    @property
    def think_s(self) -> float:
        return self.scenario.think_time.mean_s

    def line(self, subject: Subject, physics: Standing, found: Sequence[Found], **more: object) -> AuditLine:
        """Let proof overrule what physics leaves open; runs that disagree decide nothing."""
        proof = [standing for run, _, standing in found if not NO_PROOF & {*run.marks}]
        decided = {standing for standing in proof if standing is not None}
        standing, sentence = physics, str(more.pop("sentence"))
        if found:
            run, value, _ = found[-1]
            more |= {"measured": value, "marks": run.marks}
            sentence += f" {_said(subject, run, value)}"
        if physics is Standing.IMPOSSIBLE and Standing.CONFIRMED in decided:
            sentence += " That is beyond the floor: what ran was not the model and hardware that the catalog states."
        elif physics is not Standing.IMPOSSIBLE and len(decided) == 1:
            [standing] = decided
        elif len(decided) > 1:
            sentence += " Runs disagree, so they decide nothing."
        return AuditLine.model_validate(
            {
                "scenario": self.scenario.name,
                "stack": self.stack.name,
                "title": self.stack.title,
                "subject": subject,
                "standing": standing,
                "sentence": sentence,
                **more,
            }
        )


def _said(subject: Subject, run: Judgement, value: float) -> str:
    how = "Emulated" if NO_PROOF & {*run.marks} & {Mark.EMULATED, Mark.CLAIM_REPLAYED} else "Measured"
    match subject:
        case "latency":
            got = run.load.tokens_got_mean
            length = f" for {got:.0f} tokens on average" if got else ""
            return f"{how}: {shown_s(value)} at the median{length}, with {run.load.users:,} users."
        case "memory":
            return f"{how}: {value:.3g} GB at the most."
        case "users":
            return f"{how}: {run.verdict} with {value:,.0f} users."
        case _:
            return f"{how}: {format_usd(value)} a query with {run.load.users_reached:,} users."


def stated(machine: Machine) -> str:
    """The efficiencies that a good engine is taken to reach."""
    shares = machine.efficiency
    assert shares is not None  # of a stack's machine
    return f"{shares.bandwidth:.0%} of bandwidth, {shares.compute:.0%} of arithmetic, {shares.memory:.0%} of memory"


def shown_s(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "for ever"
    if seconds < 0.1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"
