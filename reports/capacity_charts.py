"""The charts of a capacity search: latency, rates and cost against load, and the tornado of its cost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

import altair as alt
from markupsafe import Markup

from harness.capacity_record import Bar, CapacityRecord, LevelResult
from reports import figures
from reports.charts import (
    FIRST,
    INK,
    LIMIT_DASH,
    MUTED,
    SECOND,
    SHADE,
    Chart,
    Row,
    draw,
    line,
    linear_ticks,
    log_ticks,
    value_axis,
)
from reports.svg import stacked

LOG_FROM = 20.0
"""Latencies that span more than this factor get a logarithmic axis."""
BAR_HEIGHT = 46
_SECONDS = "datum.value < 1 ? format(datum.value * 1000, ',~r') + ' ms' : format(datum.value, ',~r') + ' s'"
_DOLLARS = "'$' + format(datum.value, ',~r')"

Value = Callable[[LevelResult], float | None]


def latency_chart(record: CapacityRecord, key: str, title: str, desc: str) -> Markup | None:
    """p50, p95 and p99 against load, with the limit; a percentile that holds failures is a gap."""
    levels = record.by_load
    columns: list[list[Row]] = [
        _rows(levels, lambda level: level.p50_s),
        _rows(levels, lambda level: level.p95_s),
        _rows(levels, lambda level: level.p99_s),
    ]
    seen = [row["y"] for rows in columns for row in rows if "y" in row]
    if not seen:
        return None
    limit = record.limit_s
    y = _latency_axis([*seen, *([limit] if limit else [])])
    x = _load_axis(record)
    median, tail, far = columns
    layers: list[Chart] = [*_interval(record, x)]
    layers += [line(median, x, y, second=True), line(tail, x, y), _dots(tail, x, y), line(far, x, y, other=True)]
    if limit is not None:
        layers.append(_data([{"y": limit}]).mark_rule(color=INK, strokeWidth=1.2, strokeDash=LIMIT_DASH).encode(y=y))
    return stacked([draw(layers, 196, top=14, bottom=42)], key, title, desc)


def rates_chart(record: CapacityRecord, key: str, title: str, desc: str) -> Markup | None:
    """Throughput and goodput against load: they part where answers come too late."""
    through = _rows(record.by_load, lambda level: level.throughput_rps)
    good = _rows(record.by_load, lambda level: level.goodput_rps)
    seen = [row["y"] for row in (*through, *good) if "y" in row]
    if not seen:
        return None
    x, y = _load_axis(record), value_axis((max(seen) or 1.0) * 1.08, most=5)
    layers = [*_interval(record, x), line(through, x, y, second=True), line(good, x, y), _dots(good, x, y)]
    return stacked([draw(layers, 196, top=14, bottom=42)], key, title, desc)


def cost_chart(record: CapacityRecord, key: str, title: str, desc: str) -> Markup | None:
    """Dollars per 1,000 good requests against load."""
    rows = _rows(record.by_load, lambda level: level.usd_per_1000_good)
    seen = [row["y"] for row in rows if "y" in row]
    if not seen:
        return None
    x, y = _load_axis(record), value_axis((max(seen) or 1.0) * 1.08, _DOLLARS, most=5)
    layers = [*_interval(record, x), line(rows, x, y), _dots(rows, x, y)]
    return stacked([draw(layers, 196, top=14, bottom=42)], key, title, desc)


def tornado(bars: Sequence[Bar], base_usd: float, key: str, title: str, desc: str) -> Markup | None:
    """What the cost becomes when one assumption moves, the one that matters most on top."""
    shown = [bar for bar in bars if _ends(bar)]
    if not shown:
        return None
    every = [end for bar in shown for end in _ends(bar)] + [base_usd]
    low, high = min(every), max(every)
    room = 0.12 * ((high - low) or high)
    domain = [max(0.0, low - room), high + room]
    ticks = [tick for tick in linear_ticks(domain[1], 6) if tick >= domain[0]]
    x = alt.X(
        "x:Q",
        scale=alt.Scale(domain=domain, nice=False, zero=False),
        axis=alt.Axis(values=ticks, labelExpr=_DOLLARS, title="$ per 1,000 good requests", grid=False),
    )
    y = alt.Y("y:Q", scale=alt.Scale(domain=[len(shown), 0], nice=False), axis=None)
    layers: list[Chart] = []
    for place, bar in enumerate(shown):
        for usd, text, colour in ((bar.low_usd, bar.low_text, FIRST), (bar.high_usd, bar.high_text, SECOND)):
            if usd is None:
                continue
            rows: list[Row] = [{"x": base_usd, "x2": usd, "y": place + 0.45, "y2": place + 0.85}]
            rect = _data(rows).mark_rect(color=colour, opacity=0.85)
            layers.append(rect.encode(x=x, x2=alt.X2("x2"), y=y, y2=alt.Y2("y2")))
            below = usd < base_usd or (usd == base_usd and text == bar.low_text)
            label = _data([{"x": usd, "y": place + 0.65}]).mark_text(
                align="right" if below else "left",
                baseline="middle",
                dx=-4 if below else 4,
                text=figures.clean(text, 20),
            )
            layers.append(label.encode(x=x, y=y))
        named = _data([{"y": place + 0.4}]).mark_text(
            align="left", baseline="bottom", color=MUTED, text=figures.clean(bar.label, 60)
        )
        layers.append(named.encode(x=alt.value(0), y=y))
    layers.append(_data([{"x": base_usd}]).mark_rule(color=INK, strokeWidth=1.2).encode(x=x))
    return stacked([draw(layers, BAR_HEIGHT * len(shown), top=8, bottom=42)], key, title, desc)


def _ends(bar: Bar) -> list[float]:
    return [usd for usd in (bar.low_usd, bar.high_usd) if usd is not None and math.isfinite(usd)]


def _rows(levels: Sequence[LevelResult], value: Value) -> list[Row]:
    """A level without a value, or with an infinite one, is left as a gap in its line."""
    rows: list[Row] = []
    for level in levels:
        found = value(level)
        rows.append({"x": level.load} if found is None or not math.isfinite(found) else {"x": level.load, "y": found})
    return rows


def _dots(rows: list[Row], x: alt.X, y: alt.Y) -> Chart:
    known = [row for row in rows if "y" in row]
    drawn: alt.Chart = _data(known).mark_circle(color=FIRST, size=34, opacity=1).encode(x=x, y=y)
    return drawn


def _interval(record: CapacityRecord, x: alt.X) -> list[Chart]:
    """A rule at the capacity, and the shaded interval up to where it fails."""
    found = record.interval
    layers: list[Chart] = []
    if found.feasible is not None and found.infeasible is not None:
        rect = _data([{"x": found.feasible, "x2": found.infeasible}]).mark_rect(color=SHADE)
        layers.append(rect.encode(x=x, x2=alt.X2("x2")))
    if found.feasible is not None:
        layers.append(_data([{"x": found.feasible}]).mark_rule(color=MUTED, strokeWidth=1).encode(x=x))
    return layers


def _load_axis(record: CapacityRecord) -> alt.X:
    top = max(level.load for level in record.levels) * 1.05
    unit = "Users" if record.settings.kind == "users" else "Requests/s offered"
    axis = alt.Axis(values=linear_ticks(top, 6), labelExpr="format(datum.value, ',~r')", title=unit, grid=False)
    return alt.X("x:Q", scale=alt.Scale(domain=[0, top], nice=False), axis=axis)


def _latency_axis(values: Sequence[float]) -> alt.Y:
    low, high = max(min(values), 1e-6), max(values)
    if high / low < LOG_FROM:
        return value_axis(high * 1.08, f"datum.value == 0 ? '0' : {_SECONDS}", most=5)
    scale = alt.Scale(type="log", domain=[low * 0.8, high * 1.25], nice=False)
    axis = alt.Axis(values=log_ticks(low * 0.8, high * 1.25), labelExpr=_SECONDS, title=None, ticks=False, domain=False)
    return alt.Y("y:Q", scale=scale, axis=axis)


def _data(rows: list[Row]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=json.dumps(rows), format=alt.JsonDataFormat(type="json")))
