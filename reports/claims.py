"""Claims beside their physical floors and what was measured, and what physics expected before any load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.judgement import ClaimAudit, Judgement
from harness.plan import PlanRow
from reports import figures
from reports.parts import Column, Item, Table, badges

EXPECTED = {"PASS": "should pass", "FAIL": "should fail", "UNKNOWN": "physics does not say"}
CLAIM_COLUMNS = (
    Column("Stack"),
    Column("Claimed", number=True),
    Column("Physical floor", number=True),
    Column("Measured, median", number=True),
    Column("Claim against floor"),
    Column("Why", wide=True),
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


def audit(
    scenario: str, title: str, judgements: Sequence[Judgement], plan_rows: Sequence[PlanRow], links: Links
) -> Table | None:
    """Every claim made for a scenario: of the stacks that ran, then of those that were only planned."""
    planned = {row.stack: row for row in plan_rows if row.scenario == scenario and row.claim_s is not None}
    rows = []
    for each in judgements:
        if each.scenario != scenario:
            continue
        row = planned.pop(each.stack, None)
        found = each.claim or (row and _audit_of(row))
        if found and found.claim_latency_s is not None:
            rows.append(_claim(found, each.stack_title, links[scenario, each.stack], badges(each.marks)))
    rows.extend(_claim(_audit_of(row), row.title) for row in planned.values())
    return Table(title, CLAIM_COLUMNS, tuple(rows)) if rows else None


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


def _claim(audit: ClaimAudit, title: str, href: str = "", marks: tuple[str, ...] = ()) -> tuple[Item, ...]:
    length = mean_tokens(audit.measured_tokens)
    note, arithmetic = why(audit)
    measured = "not run" if not href else figures.seconds(audit.measured_p50_s)
    return (
        Item(title, href=href, badges=marks),
        Item(claimed(audit.claim_latency_s, audit.claim_tokens), number=True),
        Item(figures.seconds(audit.floor_s), number=True),
        Item(measured, lines=(length,) if length else (), number=True),
        Item(feasibility(audit.feasible, audit.factor)),
        Item(note, details=arithmetic),
    )


def _audit_of(row: PlanRow) -> ClaimAudit:
    return ClaimAudit(
        scenario=row.scenario,
        stack=row.stack,
        claim_latency_s=row.claim_s,
        claim_tokens=row.claim_tokens,
        floor_s=row.floor_s,
        floor_arithmetic=row.floor_arithmetic,
        feasible=row.feasible,
        factor=row.factor,
        note=row.reasons[0] if row.reasons else "",
    )


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
