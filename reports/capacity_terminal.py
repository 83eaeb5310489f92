"""A capacity search for a terminal, a pipe or a log: a table of levels, the one sentence, replicas and cost."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from harness.capacity import load_text
from harness.capacity_record import CapacityRecord, LevelResult
from harness.capacity_spend import spent_text
from reports import figures
from reports.parts import badges
from reports.terminal import STYLES

_COLUMNS = ("load", "verdict", "violating", "p95", "p99", "goodput", "$/1,000 good", "requests")


def print_capacity(console: Console, record: CapacityRecord) -> None:
    """A table where somebody looks, plain lines elsewhere; the same figures in both."""
    if console.is_terminal:
        table = Table(*(Column(name, justify="left" if name in ("load", "verdict") else "right") for name in _COLUMNS))
        for level in record.by_load:
            load, verdict, *rest = _cells(record, level)
            table.add_row(load, Text(verdict, style=STYLES.get(level.verdict, "")), *rest)
        console.print(table)
    else:
        for level in record.by_load:
            console.print(Text(level_line(record, level)), soft_wrap=True)
    for text in summary(record):
        console.print(Text(text), soft_wrap=True)


def level_line(record: CapacityRecord, level: LevelResult) -> str:
    """One level in one line."""
    load, verdict, violating, p95, p99, goodput, usd, requests = _cells(record, level)
    return (
        f"{verdict:<12} {load}: {violating} violate {level.check or 'the SLA'}, p95 {p95}, p99 {p99},"
        f" goodput {goodput}, {usd} per 1,000 good, {requests} requests"
    )


def summary(record: CapacityRecord) -> list[str]:
    marks = "".join(f" [{mark}]" for mark in badges(record.marks))
    lines = [f"{record.verdict.value}  {record.scenario} / {record.stack}{marks}: {record.sentence}"]
    lines.append(f"the search ended because {record.ended}" if record.ended else "")
    lines.append(spent_text(record.spent_usd, record.cap_usd))
    sizing = record.sizing
    if sizing is not None:
        plan = sizing.replicas
        if plan is not None:
            lines.append(f"replicas: {plan.needed} and {plan.spare} spare; {plan.arithmetic}")
        lines += [f"{each.label}: {each.arithmetic}" for each in sizing.figures]
        if sizing.break_even is not None:
            lines.append(sizing.break_even.sentence)
        lines += sizing.notes
    lines += [tag.flag for tag in record.prices]
    if record.confirmation is not None:
        lines.append(record.confirmation.sentence)
    return [figures.clean(line) for line in lines if line]


def _cells(record: CapacityRecord, level: LevelResult) -> tuple[str, ...]:
    return (
        load_text(record.settings.kind, level.load),
        level.verdict.value,
        figures.share(level.violating),
        figures.seconds(level.p95_s),
        figures.seconds(level.p99_s),
        figures.rate(level.goodput_rps),
        figures.usd(level.usd_per_1000_good),
        figures.count(level.judged),
    )
