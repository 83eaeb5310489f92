"""Claims with what holds of them, and what physics expected before any load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.audit import Audit
from harness.audit.lines import AuditLine, Standing
from harness.judgement import ClaimAudit
from harness.plan import PlanRow
from reports import figures
from reports.parts import Chip, Column, Item, Table, badges

EXPECTED = {"PASS": "should pass", "FAIL": "should fail", "UNKNOWN": "physics does not say"}
CHIPS = {
    Standing.IMPOSSIBLE: Chip("✗", "IMPOSSIBLE", "fail"),
    Standing.CONTRADICTED: Chip("✗", "CONTRADICTED", "fail"),
    Standing.INCONSISTENT: Chip("≠", "INCONSISTENT", "inconclusive"),
    Standing.UNPROVEN: Chip("?", "UNPROVEN", "invalid"),
    Standing.PLAUSIBLE: Chip("~", "PLAUSIBLE", "invalid"),
    Standing.CONFIRMED: Chip("✓", "CONFIRMED", "pass"),
}
MEANINGS = {
    Standing.IMPOSSIBLE: "Beyond what the hardware’s data sheet allows, whatever engine serves.",
    Standing.CONTRADICTED: "A run on the claim’s own hardware found otherwise.",
    Standing.INCONSISTENT: "It does not follow from the claim’s other numbers, the list price or the scenario.",
    Standing.UNPROVEN: "Nothing rules it out, and nothing supports it.",
    Standing.PLAUSIBLE: "By arithmetic a good engine gets there, or the price agrees; nobody has measured it.",
    Standing.CONFIRMED: "A run on the claim’s own hardware found it.",
}
CLAIM_COLUMNS = (
    Column("Stack"),
    Column("Claim"),
    Column("Claimed", number=True),
    Column("Physics allows", number=True),
    Column("Measured", number=True),
    Column("Standing"),
    Column("In a sentence", wide=True),
)
EXPECTED_COLUMNS = (
    Column("Stack"),
    Column("Expected"),
    Column("Predicted", number=True),
    Column("Needed", number=True),
    Column("Capacity", number=True),
    Column("Largest batch", number=True),
    Column("Passes from a think time of", number=True),
    Column("Why", wide=True),
)
Links = Mapping[tuple[str, str], str]
"""Scenario and stack to the section that shows the cell."""


@dataclass(frozen=True, slots=True)
class StandingMeaning:
    chip: Chip
    text: str


def audited(audit: Audit, titles: Mapping[str, str], links: Links) -> tuple[Table, ...]:
    """A table of claims for each scenario; a stack that ran leads to its cell."""
    return tuple(
        Table(
            f"{titles.get(name, name)}: what was claimed, and what holds",
            CLAIM_COLUMNS,
            tuple(_row(line, links) for line in lines),
        )
        for name, lines in by_scenario(audit.lines)
    )


def standings() -> tuple[StandingMeaning, ...]:
    return tuple(StandingMeaning(CHIPS[standing], text) for standing, text in MEANINGS.items())


def expected(scenario: str, title: str, plan_rows: Sequence[PlanRow], links: Links) -> Table | None:
    """What the plan said of each stack; nothing in it is measured."""
    rows = tuple(_expected(row, links) for row in plan_rows if row.scenario == scenario)
    return Table(f"{title}: before any load", EXPECTED_COLUMNS, rows) if rows else None


def claimed(latency_s: float | None, tokens: int | None) -> str:
    text = figures.seconds(latency_s)
    return text if latency_s is None or tokens is None else f"{text} for {figures.count(tokens)} tokens"


def mean_tokens(mean: float | None) -> str:
    return "" if mean is None else f"{figures.number(mean)} tokens, mean"


def feasibility(feasible: bool | None, factor: float | None) -> str:
    """Say whether a claim is under its physical floor, and by how much."""
    if feasible is None:
        return "no floor to compare with"
    if feasible:
        return "✓ feasible, not under its floor"
    return (
        f"✗ impossible, by a factor of {figures.number(factor)}"
        if factor is not None
        else "✗ impossible, under its floor"
    )


def why(audit: ClaimAudit) -> tuple[str, str]:
    """A note to read at once and the arithmetic to unfold; a note that repeats the arithmetic is unfolded with it."""
    if audit.floor_arithmetic and audit.floor_arithmetic in audit.note:
        return "", audit.note
    return audit.note, audit.floor_arithmetic


def _expected(row: PlanRow, links: Links) -> tuple[Item, ...]:
    metric = row.check.partition("(")[2].partition(")")[0] or row.check.split(" ")[0]
    think = figures.clock(row.passing_think_s) if row.passing_think_s is not None else "never"
    return (
        Item(row.title, href=links.get((row.scenario, row.stack), "")),
        Item(EXPECTED[row.expected]),
        Item(figures.measured(row.predicted, metric), lines=(row.check,), number=True),
        Item(figures.rate(row.needed_rps), number=True),
        Item(figures.rate(row.capacity_rps), number=True),
        Item(figures.count(row.largest_batch), number=True),
        Item(think if row.predicted is not None else figures.MISSING, number=True),
        Item(details="\n".join(row.reasons), details_title="Reasons"),
    )


def by_scenario(lines: Sequence[AuditLine]) -> list[tuple[str, list[AuditLine]]]:
    names = dict.fromkeys(line.scenario for line in lines)
    return [(name, [line for line in lines if line.scenario == name]) for name in names]


def _row(line: AuditLine, links: Links) -> tuple[Item, ...]:
    return (
        Item(line.title, href=links.get((line.scenario, line.stack), "")),
        Item(line.subject),
        Item(amount(line, line.claimed), number=True),
        Item(bound(line), number=True),
        Item(amount(line, line.measured), badges=badges(line.marks), number=True),
        Item(chip=CHIPS[line.standing], lines=(factor(line).strip(),) if line.factor else ()),
        Item(line.sentence, details="\n".join(line.arithmetic)),
    )


def factor(line: AuditLine) -> str:
    return "" if line.factor is None else f" {figures.number(line.factor)} times"


def bound(line: AuditLine) -> str:
    if line.floor is None:
        return figures.MISSING
    return f"{'at most' if line.subject == 'users' else 'at least'} {amount(line, line.floor)}"


def amount(line: AuditLine, value: float | None) -> str:
    if value is None:
        return figures.MISSING
    match line.subject:
        case "latency":
            return figures.seconds(value)
        case "memory":
            return f"{figures.number(value)}{figures.NBSP}GB"
        case "users":
            return figures.count(value)
        case _:
            return figures.usd(value)
