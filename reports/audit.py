"""The audit of claims as a page of its own and for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from harness.audit import Audit
from harness.audit.lines import AuditLine, Standing
from reports import figures
from reports.html import render_page, write_page
from reports.parts import Chip, Column, Item, Table, badges

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
STYLES = {
    Standing.IMPOSSIBLE: "bold red",
    Standing.CONTRADICTED: "bold red",
    Standing.INCONSISTENT: "bold yellow",
    Standing.UNPROVEN: "bold magenta",
    Standing.PLAUSIBLE: "cyan",
    Standing.CONFIRMED: "bold green",
}
COLUMNS = (
    Column("Stack"),
    Column("Claim"),
    Column("Claimed", number=True),
    Column("Physics allows", number=True),
    Column("Measured", number=True),
    Column("Standing"),
    Column("In a sentence", wide=True),
)


@dataclass(frozen=True, slots=True)
class Meaning:
    chip: Chip
    text: str


@dataclass(frozen=True, slots=True)
class AuditPage:
    title: str
    summary: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    meanings: tuple[Meaning, ...]


def build(audit: Audit) -> AuditPage:
    return AuditPage(
        title="Claims audit",
        summary=audit.summary,
        tables=tuple(
            Table(f"{name}: what was claimed, and what holds", COLUMNS, tuple(map(_row, lines)))
            for name, lines in _by_scenario(audit.lines)
        ),
        notes=audit.notes,
        meanings=tuple(Meaning(CHIPS[standing], text) for standing, text in MEANINGS.items()),
    )


def write(path: Path, audit: Audit) -> Path:
    return write_page(path, render_page("audit.html.j2", build(audit)))


def print_audit(console: Console, audit: Audit) -> None:
    """A table for each scenario on a terminal, then each claim's sentence with its arithmetic; lines in a pipe."""
    for name, lines in _by_scenario(audit.lines):
        if console.is_terminal:
            console.print(_terminal_table(name, lines))
        for line in lines:
            standing = Text(f"{line.standing.value:<12} ", STYLES[line.standing])
            head = f"{name} / {line.stack}, {line.subject}: {line.sentence}"
            console.print(standing + Text(figures.clean(head), "default"), soft_wrap=True)
            for step in line.arithmetic:
                console.print(Text(f"    {figures.clean(step)}", "dim"), soft_wrap=True)
    for note in audit.notes:
        console.print(Text(figures.clean(note)), soft_wrap=True)
    console.print(Text(audit.summary), soft_wrap=True)


def _terminal_table(name: str, lines: Sequence[AuditLine]) -> RichTable:
    table = RichTable(title=Text(figures.clean(name)), title_justify="left", box=None, pad_edge=False)
    for column in ("stack", "claim", "claimed", "physics allows", "measured", "standing"):
        table.add_column(column, overflow="fold")
    for line in lines:
        chip = CHIPS[line.standing]
        table.add_row(
            Text(figures.clean(line.stack)),
            line.subject,
            _amount(line, line.claimed),
            _bound(line),
            _amount(line, line.measured) + "".join(f" {mark}" for mark in badges(line.marks)),
            Text(f"{chip.symbol} {chip.word}{_factor(line)}", style=STYLES[line.standing]),
        )
    return table


def _by_scenario(lines: Sequence[AuditLine]) -> list[tuple[str, list[AuditLine]]]:
    names = dict.fromkeys(line.scenario for line in lines)
    return [(name, [line for line in lines if line.scenario == name]) for name in names]


def _row(line: AuditLine) -> tuple[Item, ...]:
    return (
        Item(line.title),
        Item(line.subject),
        Item(_amount(line, line.claimed), number=True),
        Item(_bound(line), number=True),
        Item(_amount(line, line.measured), badges=badges(line.marks), number=True),
        Item(chip=CHIPS[line.standing], lines=(_factor(line).strip(),) if line.factor else ()),
        Item(line.sentence, details="\n".join(line.arithmetic)),
    )


def _factor(line: AuditLine) -> str:
    return "" if line.factor is None else f" {figures.number(line.factor)} times"


def _bound(line: AuditLine) -> str:
    if line.floor is None:
        return figures.MISSING
    return f"{'at most' if line.subject == 'users' else 'at least'} {_amount(line, line.floor)}"


def _amount(line: AuditLine, value: float | None) -> str:
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
