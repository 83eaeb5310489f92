"""The history page: every figure of every cell over time, where its level changed, and what else changed then."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from harness.history.changepoints import change_points
from harness.history.rows import METRICS, Cell, Row
from harness.judgement import Verdict
from reports import figures
from reports.parts import Chip, Column, Figure, Item, Key, Table
from reports.rendering import render_page
from reports.trend_chart import VERDICTS, Series, history_chart, verdict_strip

LEAST_CHANGE = 0.01
"""A new level nearer than this to the old one (1%, or a tenth of a point of a share) is real perhaps, and no news."""
MOST_NOTED = 40
"""Changes of versions and flags listed for a cell, the latest first."""

WRITERS: dict[str, Callable[[float | None], str]] = {
    "s": figures.seconds,
    "share": figures.share,
    "req/s": figures.rate,
    "tokens/s": lambda value: figures.rate(value, "tokens/s"),
    "USD": figures.usd,
    "J": lambda value: figures.MISSING if value is None else f"{figures.number(value)}{figures.NBSP}J",
}

KEYS = (
    Key("median, with the range where launches share a point", ""),
    Key("level between changes", "second"),
    Key("a change of level", "change"),
    Key("versions or flags changed", "noted"),
)


@dataclass(frozen=True, slots=True)
class CellTrend:
    anchor: str
    chip: Chip
    over: str
    title: str
    badges: tuple[str, ...]
    strip: Figure
    figures: tuple[Figure, ...]
    noted: Table | None


@dataclass(frozen=True, slots=True)
class Page:
    title: str
    subtitle: str
    summary: Table
    keys: tuple[Key, ...]
    cells: tuple[CellTrend, ...]


@dataclass(frozen=True, slots=True)
class _Noted:
    time_s: float
    lines: tuple[str, ...]


def render(rows: Mapping[Cell, Sequence[Row]], title: str = "History") -> str:
    """Render the whole page; ``rows`` are oldest first in each cell. The same input gives the same text."""
    return render_page("trend.html.j2", build(rows, title))


def build(rows: Mapping[Cell, Sequence[Row]], title: str = "History") -> Page:
    cells, lines = [], []
    for place, (cell, launches) in enumerate(rows.items()):
        trend, changes = _cell(cell, launches, f"cell-{place + 1}")
        cells.append(trend)
        lines.append(
            (
                Item(text=cell.label, href=trend.anchor),
                Item(chip=trend.chip),
                Item(text=_day(launches[-1].started_s)),
                Item(text=figures.count(len(launches)), number=True),
                Item(text=changes),
            )
        )
    columns = (
        Column("Cell"),
        Column("Last verdict"),
        Column("Last launch"),
        Column("Launches", number=True),
        Column("Latest change of a level", wide=True),
    )
    times = [row.started_s for launches in rows.values() for row in launches]
    counted = f"{_many(len(times), 'launch', 'launches')} of {_many(len(rows), 'cell', 'cells')}"
    subtitle = f"{counted}, {_day(min(times))} to {_day(max(times))}"
    summary = Table("Each cell's last launch", columns, tuple(lines))
    return Page(title, subtitle, summary, KEYS, tuple(cells))


def _cell(cell: Cell, launches: Sequence[Row], anchor: str) -> tuple[CellTrend, str]:
    span = (launches[0].started_s, launches[-1].started_s)
    noted = _noted(launches)
    drawn: list[Figure] = []
    latest: tuple[float, str] = (-math.inf, "none")
    for name, metric in METRICS.items():
        valid = [row for row in launches if name in row.values and row.verdict != Verdict.INVALID]
        if not valid:
            continue
        values = tuple(row.values[name] for row in valid)
        series = Series(
            tuple(row.started_s for row in valid),
            values,
            _news(values, share=metric.unit == "share"),
            tuple(each.time_s for each in noted),
        )
        write = WRITERS[metric.unit]
        caption, change = _caption(series, write, share=metric.unit == "share")
        if series.changes and series.times_s[series.changes[-1]] > latest[0]:
            latest = (series.times_s[series.changes[-1]], f"{_day(series.times_s[series.changes[-1]])}: {metric.title}")
        image = history_chart(series, span, write, _day, f"{metric.title} of {cell.label}. {change}")
        drawn.append(Figure(metric.title, image, (), caption))
    tally = Counter(row.verdict for row in launches)
    counted = ", ".join(f"{tally[verdict]:,} {verdict}" for verdict in VERDICTS if tally[verdict])
    strip = verdict_strip([row.started_s for row in launches], [row.verdict for row in launches], span, counted)
    return (
        CellTrend(
            anchor=anchor,
            chip=Chip.of(Verdict(launches[-1].verdict)),
            over=cell.scenario,
            title=f"{cell.stack}, {cell.load}, {cell.profile}",
            badges=tuple(cell.marks.split(", ")) if cell.marks else (),
            strip=Figure("Verdicts", strip, (), counted),
            figures=tuple(drawn),
            noted=_noted_table(noted),
        ),
        latest[1],
    )


def _news(values: Sequence[float], *, share: bool) -> tuple[int, ...]:
    """Change points whose levels differ by more than ``LEAST_CHANGE``, with those that do not taken out one by one."""
    places = change_points(values)
    while places:
        levels = [level for _, _, level in Series(tuple(values), tuple(values), tuple(places), ()).levels()]
        sizes = [_size(a, b, share) for a, b in itertools.pairwise(levels)]
        least = min(range(len(sizes)), key=sizes.__getitem__)
        if sizes[least] >= (LEAST_CHANGE / 10 if share else LEAST_CHANGE):
            break
        del places[least]
    return tuple(places)


def _size(before: float, after: float, share: bool) -> float:
    if before == after:
        return 0.0
    if share or before == 0 or not math.isfinite(before):
        return abs(after - before)
    return abs(after / before - 1)


def _caption(series: Series, write: Callable[[float | None], str], *, share: bool) -> tuple[str, str]:
    levels = series.levels()
    text = f"Last {write(series.values[-1])}; level {write(levels[-1][2])}"
    if not series.changes:
        return f"{text}, without a change.", f"Level {write(levels[-1][2])}, without a change."
    before, since = levels[-2][2], _day(series.times_s[series.changes[-1]])
    grown = f" ({figures.signed_share(levels[-1][2] / before - 1)})" if 0 < before < math.inf and not share else ""
    change = f"{write(before)} before {since}{grown}"
    return f"{text}, {change}; {len(series.changes)} in all.", f"Level {write(levels[-1][2])}, {change}."


def _noted(launches: Sequence[Row]) -> list[_Noted]:
    """Launches whose versions or flags differ from those of the launch before."""
    found = []
    for before, after in itertools.pairwise(launches):
        if before.annotations == after.annotations:
            continue
        names = sorted(before.annotations.keys() | after.annotations.keys())
        pairs = [(name, before.annotations.get(name), after.annotations.get(name)) for name in names]
        lines = (f"{name}: {old or 'none'} → {new or 'none'}" for name, old, new in pairs if old != new)
        found.append(_Noted(after.started_s, tuple(lines)))
    return found


def _noted_table(noted: Sequence[_Noted]) -> Table | None:
    if not noted:
        return None
    shown = noted[::-1][:MOST_NOTED]
    caption = "Versions and flags that changed, the latest first"
    if len(shown) < len(noted):
        caption += f" ({len(noted) - len(shown):,} earlier ones are not listed)"
    rows = tuple((Item(text=_day(each.time_s)), Item(lines=each.lines)) for each in shown)
    return Table(caption, (Column("Launch of"), Column("What", wide=True)), rows)


def _day(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d")


def _many(count: int, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}"
