"""A Comparison's page and its text: self-contained, offline, with nothing in it that runs."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.comparison import Comparison, Difference, Finding, Pair
from reports import compare_view, figures
from reports.rendering import render_page, write_page

PAGE = "compare.html"
STYLES = {
    Finding.BETTER: "bold green",
    Finding.WORSE: "bold red",
    Finding.MIXED: "bold red",
    Finding.TOO_FEW: "bold yellow",
    Finding.NOT_MEASURED: "dim",
}


def render(comparison: Comparison) -> str:
    """Render the whole page; the same input gives the same text."""
    return render_page("compare.html.j2", compare_view.build(comparison))


def write_page_of(path: Path, comparison: Comparison) -> Path:
    return write_page(path, render(comparison))


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Tables on a terminal, one line a fact elsewhere."""
    if not console.is_terminal:
        console.print(Text(plain(comparison)), soft_wrap=True)
        return
    for pair in comparison.pairs:
        console.print(_table(pair))
        console.print(Text(f"{pair.finding.upper()}: {_line(pair.sentence)}", style=STYLES.get(pair.finding, "")))
        for note in pair.notes:
            console.print(Text(f"note: {_line(note)}", style="dim"))
    for note in comparison.notes:
        console.print(Text(f"note: {_line(note)}", style="dim"))


def plain(comparison: Comparison) -> str:
    """Lines without colour, width or control characters, to be read by people and ``grep``."""
    lines = []
    for pair in comparison.pairs:
        lines.append(f"{pair.finding.upper()}: {_line(pair.sentence)}")
        lines.extend(f"  {_fact(each)}" for each in pair.differences)
        lines.extend(f"  note: {_line(note)}" for note in pair.notes)
    lines.extend(f"note: {_line(note)}" for note in comparison.notes)
    return "\n".join(lines)


def _fact(each: Difference) -> str:
    interval = compare_view.interval_text(each)
    numbers = f"{compare_view.value_text(each, each.a)} to {compare_view.value_text(each, each.b)}"
    change = f", {compare_view.change_text(each)}" if each.effect is not None else ""
    within = f" [{interval}]" if interval else ""
    return f"{each.finding.value:<19} {each.label:<24} {numbers}{change}{within}; {_line(each.reason)}"


def _table(pair: Pair) -> Table:
    table = Table(
        "metric",
        "finding",
        _line(pair.a),
        _line(pair.b),
        "difference",
        "interval",
        title=_line(f"{pair.b} against {pair.a}"),
        title_justify="left",
    )
    for each in sorted(pair.differences, key=lambda each: not each.headline):
        table.add_row(
            Text(f"{each.label}{' *' if each.headline else ''}"),
            Text(each.finding.value, style=STYLES.get(each.finding, "")),
            Text(compare_view.value_text(each, each.a)),
            Text(compare_view.value_text(each, each.b)),
            Text(compare_view.change_text(each)),
            Text(compare_view.interval_text(each)),
        )
    return table


def _line(text: str) -> str:
    return " ".join(figures.clean(text).split())
