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
from reports import claims, figures
from reports.claims import StandingMeaning
from reports.parts import Table, badges
from reports.rendering import render_page, write_page

STYLES = {
    Standing.IMPOSSIBLE: "bold red",
    Standing.CONTRADICTED: "bold red",
    Standing.INCONSISTENT: "bold yellow",
    Standing.UNPROVEN: "bold magenta",
    Standing.PLAUSIBLE: "cyan",
    Standing.CONFIRMED: "bold green",
}


@dataclass(frozen=True, slots=True)
class AuditPage:
    title: str
    summary: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    meanings: tuple[StandingMeaning, ...]


def build(audit: Audit) -> AuditPage:
    return AuditPage(
        title="Claims audit",
        summary=audit.summary,
        tables=claims.audited(audit, {}, {}),
        notes=audit.notes,
        meanings=claims.standings(),
    )


def write(path: Path, audit: Audit) -> Path:
    return write_page(path, render_page("audit.html.j2", build(audit)))


def print_audit(console: Console, audit: Audit) -> None:
    """A table for each scenario on a terminal, then each claim's sentence with its arithmetic; lines in a pipe."""
    for name, lines in claims.by_scenario(audit.lines):
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
        chip = claims.CHIPS[line.standing]
        table.add_row(
            Text(figures.clean(line.stack)),
            line.subject,
            claims.amount(line, line.claimed),
            claims.bound(line),
            claims.amount(line, line.measured) + "".join(f" {mark}" for mark in badges(line.marks)),
            Text(f"{chip.symbol} {chip.word}{claims.factor(line)}", style=STYLES[line.standing]),
        )
    return table
