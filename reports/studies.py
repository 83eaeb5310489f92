"""Capacity searches and comparisons as sections of the report: one table over all of them first, then each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.capacity import load_text
from harness.capacity_record import CapacityRecord, ReplicaPlan, Shape
from harness.comparison import Comparison
from reports import capacity_view, compare_view, figures
from reports.anchors import anchors
from reports.claims import Links
from reports.parts import Chip, Column, Item, Table, badges

SHAPES: dict[Shape, tuple[str, ...]] = {"cliff": ("a cliff",), "slope": ("a slope",), "unknown": ()}
UNITS = {"users": "users", "rate": "requests/s"}


@dataclass(frozen=True, slots=True)
class Found:
    """One line on the first screen, with the section behind it."""

    chip: Chip | None
    title: str
    text: str
    href: str
    badges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CapacitySection:
    overview: Table
    searches: tuple[capacity_view.CapacityPage, ...]
    found: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class ComparisonSection:
    overview: Table
    comparisons: tuple[compare_view.Page, ...]
    found: tuple[Found, ...]


def capacity_section(records: Sequence[CapacityRecord], cells: Links) -> CapacitySection | None:
    """Stacks of one scenario lie beside each other in the table, the largest capacity of a GPU first."""
    if not records:
        return None
    scenarios = list(dict.fromkeys(record.scenario for record in records))
    order = sorted(
        zip(records, capacity_anchors(records), strict=True),
        key=lambda each: (scenarios.index(each[0].scenario), each[0].settings.kind, -(_per_gpu(each[0]) or 0.0)),
    )
    pages = tuple(
        replace(capacity_view.build(record, name), cell=cells.get((record.scenario, record.stack), ""))
        for record, name in order
    )
    columns = (
        Column("Stack"),
        Column("Load within the SLA", number=True),
        Column("Of one GPU", number=True),
        Column("Replicas for the scenario", number=True),
        Column("$ per 1,000 good", number=True),
        Column("$ a month", number=True),
        Column("What ends it", wide=True),
    )
    caption = "How much each stack carries within the SLA, and what the scenario’s load costs on it, idle hours too"
    found = tuple(
        Found(None, f"Capacity of {page.stack}", _carried(record), page.anchor, page.badges)
        for (record, _), page in zip(order, pages, strict=True)
    )
    return CapacitySection(Table(caption, columns, tuple(_search(*each) for each in order)), pages, found)


def capacity_anchors(records: Sequence[CapacityRecord]) -> list[str]:
    return anchors(f"capacity {record.scenario} {record.stack} {record.settings.kind}" for record in records)


def capacity_links(records: Sequence[CapacityRecord]) -> dict[tuple[str, str], str]:
    """The section of each stack's search; of several the last."""
    names = capacity_anchors(records)
    return {(record.scenario, record.stack): name for record, name in zip(records, names, strict=True)}


def comparison_section(found: Sequence[Comparison]) -> ComparisonSection | None:
    if not found:
        return None
    names = anchors(f"comparison {each.title}" for each in found)
    pages = tuple(compare_view.build(each, name) for each, name in zip(found, names, strict=True))
    columns = (Column("Compared"), Column("Finding"), Column("Scenario"), Column("In a sentence", wide=True))
    rows = tuple(
        (
            Item(pair.title, lines=(pair.over,), badges=page.badges, href=pair.anchor),
            Item(chip=pair.chip),
            Item(each.scenario_title or each.scenario),
            Item(pair.sentence),
        )
        for each, page in zip(found, pages, strict=True)
        for pair in page.pairs
    )
    said = tuple(
        Found(pair.chip, page.title, pair.sentence, pair.anchor, page.badges) for page in pages for pair in page.pairs
    )
    return ComparisonSection(Table("Each pair, as a whole", columns, rows), pages, said)


def _search(record: CapacityRecord, anchor: str) -> tuple[Item, ...]:
    kind, found, sizing = record.settings.kind, record.interval, record.sizing
    plan = None if sizing is None else sizing.replicas
    below = () if found.infeasible is None else (f"fails at {load_text(kind, found.infeasible)}",)
    per_gpu = _per_gpu(record)
    return (
        Item(record.stack_title, lines=(record.scenario_title,), badges=badges(record.marks), href=anchor),
        Item(_load(record, found.feasible), lines=below, number=True),
        Item(figures.MISSING if per_gpu is None else f"{figures.number(per_gpu)} {UNITS[kind]}", number=True),
        _replicas(record, plan),
        Item(figures.usd(None if sizing is None else sizing.usd_per_1000_good), number=True),
        Item(figures.usd(None if sizing is None else sizing.usd_per_month), number=True),
        Item(record.binding or record.ended, lines=SHAPES[record.shape]),
    )


def _carried(record: CapacityRecord) -> str:
    kind, found = record.settings.kind, record.interval
    if found.feasible is None:
        return f"{record.scenario_title}: none was found"
    fails = "" if found.infeasible is None else f", and {load_text(kind, found.infeasible)} no more"
    return f"{record.scenario_title}: {load_text(kind, found.feasible)} within the SLA{fails}"


def _load(record: CapacityRecord, load: float | None) -> str:
    return figures.MISSING if load is None else load_text(record.settings.kind, load)


def _replicas(record: CapacityRecord, plan: ReplicaPlan | None) -> Item:
    if plan is None:
        return Item(figures.MISSING, number=True)
    spare = f" + {figures.count(plan.spare)} spare" if plan.spare else ""
    asked = f"for {load_text(record.settings.kind, plan.load)}"
    return Item(f"{figures.count(plan.needed)}{spare}", lines=(asked,), number=True)


def _per_gpu(record: CapacityRecord) -> float | None:
    """None for an API, and where nothing passed."""
    plan = None if record.sizing is None else record.sizing.replicas
    return plan.per_replica / plan.gpus_per_replica if plan is not None and plan.gpus_per_replica else None
