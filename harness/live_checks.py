"""The checks of a running cell on a terminal: value, interval, a bar against the limit, and what would decide."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Column, Table
from rich.text import Text

from harness.judgement import CheckResult, Verdict
from reports import checks, figures
from reports.parts import Chip
from reports.terminal import STYLES

Signs = tuple[str, str, str, str, str]
UNICODE: Signs = ("·", "━", "●", "│", "▸")
ASCII: Signs = (".", "=", "o", "|", ">")
"""Ground, interval, value, limit, and what lies off the end."""
WIDE = 110
"""Columns of a terminal that shows whole words."""


def check_table(found: Sequence[CheckResult], width: int, signs: Signs = UNICODE) -> Table:
    """All checks of one cell."""
    wide = width >= WIDE
    table = Table(
        Column("check", ratio=1, overflow="fold"),
        Column("now", justify="right", no_wrap=True),
        Column("interval", justify="right"),
        Column("against limit" if wide else "limit", no_wrap=True),
        Column("violations, allowed" if wide else "bad/may", justify="right"),
        Column("judged", justify="right"),
        Column("to decide" if wide else "needs", justify="right"),
        box=None,
        expand=True,
        pad_edge=False,
        padding=(0, 2 if wide else 1, 0, 0),
        header_style="dim",
    )
    for check in found:
        table.add_row(
            _signed(check, _line(check.text)),
            Text(figures.measured(check.value, check.metric, check.limit).partition(" (")[0]),
            Text(_bounds(check)),
            bar(check, 24 if wide else 10, signs),
            Text(_broke(check, wide=wide)),
            Text(figures.count(check.samples)),
            Text(
                checks.needed(check).removesuffix(" at this rate of violations")
                if wide
                else short_need(check).removesuffix(" more")
            ),
        )
    return table


def check_line(check: CheckResult, width: int, signs: Signs = UNICODE) -> Text:
    """One check in one line: what decides a cell, where many cells run side by side."""
    long = width >= WIDE
    text = _signed(check, f"{_line(check.text)}  ")
    text.append(figures.measured(check.value, check.metric, check.limit).partition(" (")[0])
    text.append("  ")
    text.append_text(bar(check, 24 if long else 10, signs))
    text.append(f"  {_broke(check, wide=long)}{' allowed' if long else ''}, {short_need(check)}", style="dim")
    text.truncate(width, overflow="ellipsis")
    return text


def bar(check: CheckResult, width: int, signs: Signs = UNICODE) -> Text:
    """The interval and the value in it, and the limit, on a line from 0 to beyond the limit.

    The interval is green where all of it keeps the limit, red where none of it does, and yellow where it holds it.
    """
    drawn = checks.bar(check)
    if drawn is None:
        return Text(" " * width)
    ground, interval, value, limit, beyond = signs
    low, high, at, edge = (_place(each, width) for each in (drawn.low, drawn.high, drawn.value, drawn.limit))
    cells = [ground] * width
    for place in range(low, high + 1):
        cells[place] = interval
    if at == edge and check.value != check.limit:  # too close to be told apart: its own side of the limit
        at = min(max(at + (1 if (check.value or 0.0) > check.limit else -1), 0), width - 1)
    cells[at] = value
    cells[edge] = limit
    if drawn.beyond:
        cells[-1] = beyond
    text = Text("".join(cells))
    text.stylize(_interval_style(check), low, high + 1)
    text.stylize("bold", edge, edge + 1)
    return text


def short_need(check: CheckResult) -> str:
    """``about 500 more``, ``decided``, ``at the limit`` or ``not measured``."""
    if check.verdict is Verdict.NOT_MEASURED:
        return "not measured"
    if check.at_limit:
        return "at the limit"
    if check.more_samples is not None:
        return f"~{figures.count(check.more_samples)} more"
    return "decided" if check.verdict in (Verdict.PASS, Verdict.FAIL) else figures.MISSING


def _interval_style(check: CheckResult) -> str:
    low = check.value if check.value_low is None else check.value_low
    high = check.value if check.value_high is None else check.value_high
    if low is None or high is None or low <= check.limit <= high:
        return "yellow"
    return "green" if (high < check.limit) == (check.comparison in ("<", "<=")) else "red"


def _place(percent: str, width: int) -> int:
    return min(width - 1, int(float(percent.removesuffix("%")) / 100 * width))


def _bounds(check: CheckResult) -> str:
    """``1.62 to 1.80 s``: a unit that both bounds have is said once."""
    low, to, high = checks.value_bounds(check).partition(" to ")
    unit = high.rpartition(figures.NBSP)[2]
    return f"{low.removesuffix(figures.NBSP + unit)}{to}{high}"


def _broke(check: CheckResult, *, wide: bool) -> str:
    if check.violations is None:
        return figures.MISSING
    most = checks.most_violations(check)
    allowed = figures.MISSING if most is None else figures.count(most)
    return f"{figures.count(check.violations)}{', ' if wide else '/'}{allowed}"


def _signed(check: CheckResult, text: str) -> Text:
    return Text.assemble((f"{Chip.of(check.verdict).symbol} ", STYLES[check.verdict]), text)


def _line(text: str) -> str:
    return " ".join(figures.clean(text, 200).split())
