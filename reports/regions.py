"""The verdicts of a run's regions beside each other."""

from __future__ import annotations

from harness.judgement import Judgement, RegionResult
from reports import figures
from reports.parts import Chip, Column, Item, Table

COLUMNS = (
    Column("Region"),
    Column("Verdict"),
    Column("Requests", number=True),
    Column("Check", wide=True),
    Column("Value", number=True),
    Column("Violations", number=True),
    Column("Chance if it just kept the check", number=True),
)


def table(judgement: Judgement) -> Table | None:
    """Every region judged by itself; None where all workers carry one tag."""
    if not judgement.regions:
        return None
    return Table("Regions, each judged by itself", COLUMNS, tuple(_row(judgement, each) for each in judgement.regions))


def _row(judgement: Judgement, region: RegionResult) -> tuple[Item, ...]:
    check = next((check for check in judgement.checks if check.text == region.check), None)
    return (
        Item(figures.clean(region.region) or "(no tag)"),
        Item(chip=Chip.of(region.verdict)),
        Item(figures.count(region.requests), number=True),
        Item(region.check or figures.MISSING),
        Item(figures.measured(region.value, check.metric, check.limit) if check else figures.MISSING, number=True),
        Item(figures.count(region.violations), number=True),
        Item(figures.share(region.p_value), number=True),
    )
