"""The charts of a cell, drawn when the report is built: Altair describes, vl_convert draws, no browser, no network.

Colours are the page's CSS variables, so that a chart follows light, dark and print. Sizes are fixed and nothing is laid
out by the width of a text (``autosize: none``), so that a machine without fonts draws the same.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

from harness.judgement import Curve, TimelinePoint
from reports import figures
from reports.svg import Panel, panel, stacked

WIDTH = 440
LEFT, RIGHT = 54, 14
PLOT_WIDTH = WIDTH - LEFT - RIGHT
LABEL_WIDTH = 52
"""Of ``500 ms`` and the gap to the next."""
MOST_POINTS = 140
"""Of one line: about three pixels a point."""

INK, MUTED, GRID, SHADE = "var(--ink)", "var(--muted)", "var(--grid)", "var(--shade)"
FIRST, SECOND, BAD = "var(--series-1)", "var(--series-2)", "var(--fail)"
OTHER_DASH = [6, 3]
SECOND_DASH = [3, 2]
LIMIT_DASH = [2, 3]

_TIME_LABEL = (
    "datum.value == 0 ? '0' : "
    "datum.value < 1 ? format(datum.value * 1000, ',~r') + ' ms' : format(datum.value, ',~r') + ' s'"
)
_CONFIG = {
    "aria": False,
    "view": {"stroke": None},
    "axis": {
        "domainColor": GRID,
        "gridColor": GRID,
        "tickColor": GRID,
        "labelColor": MUTED,
        "titleColor": MUTED,
        "labelFontSize": 12.5,
        "titleFontSize": 12.5,
        "titleFontWeight": "normal",
        "titlePadding": 6,
        "labelOverlap": False,
        "labelLimit": 0,
        "titleLimit": 0,
        "tickSize": 4,
    },
    "text": {"fontSize": 12.5, "color": INK, "limit": 0},
}

CROSS = "M-0.7,-0.7L0.7,0.7M-0.7,0.7L0.7,-0.7"
"""A shape of two strokes; Vega's own cross is a plus."""

Chart = alt.Chart | alt.LayerChart | alt.FacetChart
Row = dict[str, float]


@dataclass(frozen=True, slots=True)
class Judged:
    """The check that the charts show: its limit in seconds, and the share that must keep it."""

    metric: str
    label: str
    limit_s: float | None = None
    share: float | None = None
    share_label: str = ""


def latency_chart(
    curves: Sequence[Curve], judged: Sequence[Judged], key: str, title: str, desc: str, axis: str = "Latency"
) -> Markup | None:
    """Share of what was done by a time, with each limit and judged percentile of the metrics drawn.

    The first curve is solid, the second another colour and dashed, the third thin.
    """
    lines = [(curve.metric, points) for curve in curves if (points := _steps(curve))]
    if not lines:
        return None
    times = [row["x"] for _, rows in lines for row in rows]
    checks = [each for each in judged if each.metric in {metric for metric, _ in lines}]
    limits = {each.limit_s: each.label for each in checks if each.limit_s is not None and math.isfinite(each.limit_s)}
    x = time_axis(min(times), max([*times, *limits]), axis)
    y = alt.Y(
        "y:Q",
        scale=alt.Scale(domain=[0, 1], nice=False),
        axis=alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".0%", title=None, ticks=False, domain=False),
    )
    layers: list[Chart] = []
    for place, (_, rows) in enumerate(lines):
        layers.append(line(rows, x, y, other=place == 1, second=place > 1, step=True))
    shares = {each.share: each.share_label for each in checks if each.share is not None}
    layers.extend(across(share, label, y, under=share > 0.8) for share, label in shares.items())
    layers.extend(upright(limit, label, x, row) for row, (limit, label) in enumerate(sorted(limits.items())))
    return stacked([draw(layers, 196, top=8 + 14 * max(len(limits), 1), bottom=44)], key, title, desc)


def timeline_panels(
    points: Sequence[TimelinePoint],
    window: tuple[float, float] | None,
    warm_up_s: float,
    judged: Judged,
    *,
    last: bool = True,
) -> list[Panel]:
    """Latency, requests in flight and rates over the run, one under the other; warm-up shaded, judged window marked.

    Not ``last``: more panels follow on the same axis, and the lowest of them has its labels.
    """
    if not points:
        return []
    bins = merged(points)
    span = run_span(bins)
    bare, x = run_axis(span, bare=True), run_axis(span, bare=not last)
    foot = 44 if last else 8
    return [
        draw([*backdrop(span, window, warm_up_s, bare), *_latency_panel(bins, bare, judged)], 110, top=24, bottom=8),
        draw([*backdrop(span, window, warm_up_s, bare), *_flight_panel(bins, bare)], 54, top=24, bottom=8),
        draw([*backdrop(span, window, warm_up_s, x), *_rate_panel(bins, x)], 54, top=24, bottom=foot),
    ]


def run_span(bins: Sequence[Bin]) -> tuple[float, float]:
    return bins[0].point.t_s, bins[-1].end_s


@dataclass(frozen=True, slots=True)
class Bin:
    """One point of the timeline chart and how long it lasted."""

    point: TimelinePoint
    width_s: float

    @property
    def end_s(self) -> float:
        return self.point.t_s + self.width_s

    @property
    def middle_s(self) -> float:
        return self.point.t_s + self.width_s / 2


def bin_width(points: Sequence[TimelinePoint]) -> float:
    gaps = [after.t_s - before.t_s for before, after in itertools.pairwise(points)]
    return min((gap for gap in gaps if gap > 0), default=1.0)


def merge_size(points: Sequence[TimelinePoint]) -> int:
    """How many bins one point of the chart covers."""
    return math.ceil(len(points) / MOST_POINTS) or 1


def merged(points: Sequence[TimelinePoint]) -> list[Bin]:
    """Join neighbouring bins of a long run: counts add, latencies are the largest of them, in flight the mean."""
    size, width = merge_size(points), bin_width(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [Bin(_joined(group), width * len(group)) for group in groups]


def _joined(group: Sequence[TimelinePoint]) -> TimelinePoint:
    return TimelinePoint(
        t_s=group[0].t_s,
        users=max(point.users for point in group),
        in_flight=sum(point.in_flight for point in group) / len(group),
        sent=sum(point.sent for point in group),
        completed=sum(point.completed for point in group),
        failed=sum(point.failed for point in group),
        ttft_p50_s=_largest(point.ttft_p50_s for point in group),
        e2e_p50_s=_largest(point.e2e_p50_s for point in group),
        e2e_p95_s=_largest(point.e2e_p95_s for point in group),
    )


def _largest(values: Any) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _steps(curve: Curve) -> list[Row]:
    pairs = [
        (max(x, 1e-6), share)
        for x, share in zip(curve.x_s, curve.share, strict=False)
        if math.isfinite(x) and math.isfinite(share)
    ]
    if not pairs:
        return []
    stride = max(1, math.ceil(len(pairs) / MOST_POINTS))
    kept = pairs[::stride]
    if kept[-1] != pairs[-1]:
        kept.append(pairs[-1])
    return [{"x": kept[0][0], "y": 0.0}, *({"x": x, "y": min(max(y, 0.0), 1.0)} for x, y in kept)]


def _latency_panel(bins: Sequence[Bin], x: alt.X, judged: Judged) -> list[Chart]:
    median = [_at(each, each.point.e2e_p50_s) for each in bins]
    tail = [_at(each, each.point.e2e_p95_s) for each in bins]
    seen = [row["y"] for row in (*median, *tail) if "y" in row]
    limit = judged.limit_s if judged.metric in ("e2e", "response_time") else None
    top = max([*seen, limit or 0.0]) or 1.0
    y = value_axis(top * 1.08, _TIME_LABEL, most=5)
    title = "E2E latency: p95, p50 dashed"
    layers: list[Chart] = [heading(title), line(median, x, y, second=True), line(tail, x, y)]
    if limit is not None:
        layers.append(across(limit, "", y))
    return layers


def _flight_panel(bins: Sequence[Bin], x: alt.X) -> list[Chart]:
    users = [_at(each, float(each.point.users)) for each in bins]
    flight = [_at(each, each.point.in_flight) for each in bins]
    y = value_axis(max([row["y"] for row in (*users, *flight) if "y" in row] + [1.0]) * 1.08)
    return [heading("Requests in flight; users dashed"), line(users, x, y, second=True), line(flight, x, y)]


def _rate_panel(bins: Sequence[Bin], x: alt.X) -> list[Chart]:
    top = max(max(each.point.completed, each.point.sent, each.point.failed) / each.width_s for each in bins)
    y = value_axis((top or 1.0) * 1.08)
    done = [_at(each, each.point.completed / each.width_s) for each in bins]
    sent = [_at(each, each.point.sent / each.width_s) for each in bins]
    failed: list[Row] = [
        {"x": each.point.t_s, "x2": each.end_s, "y": each.point.failed / each.width_s, "y2": 0.0}
        for each in bins
        if each.point.failed
    ]
    title = "Requests per second: completed; sent dashed" + ("; failed as bars" if failed else "")
    layers: list[Chart] = [heading(title), line(sent, x, y, second=True), line(done, x, y)]
    if failed:
        bars = _data(failed).mark_rect(color=BAD, opacity=0.85)
        layers.append(bars.encode(x=x, x2=alt.X2("x2"), y=y, y2=alt.Y2("y2")))
    return layers


def _at(each: Bin, value: float | None) -> Row:
    """A moment without a value is left as a gap in its line."""
    return {"x": each.middle_s, "y": value} if value is not None and math.isfinite(value) else {"x": each.middle_s}


def line(
    rows: list[Row], x: alt.X, y: alt.Y, *, second: bool = False, other: bool = False, step: bool = False
) -> Chart:
    """``second`` is thin and dashed beside its own kind, ``other`` is another metric in another colour."""
    mark = _data(rows).mark_line(
        color=SECOND if other else MUTED if second else FIRST,
        strokeWidth=1.4 if second else 2,
        strokeDash=OTHER_DASH if other else SECOND_DASH if second else alt.Undefined,
        interpolate="step-after" if step else "linear",
    )
    drawn: alt.Chart = mark.encode(x=x, y=y)
    return drawn


def backdrop(span: tuple[float, float], window: tuple[float, float] | None, warm_up_s: float, x: alt.X) -> list[Chart]:
    """The shaded time before the judged window, and a rule at each of its ends."""
    layers: list[Chart] = []
    until = min(warm_up_s, span[1])
    if until > span[0]:
        layers.append(_data([{"x": span[0], "x2": until}]).mark_rect(color=SHADE).encode(x=x, x2=alt.X2("x2")))
    if window is not None:
        edges: list[Row] = [{"x": edge} for edge in window if span[0] <= edge <= span[1]]
        layers.append(_data(edges).mark_rule(color=MUTED, strokeWidth=1).encode(x=x))
    return layers


def across(value: float, label: str, y: alt.Y, *, under: bool = False) -> Chart:
    base = _data([{"y": value}]).encode(y=y)
    rule = base.mark_rule(color=INK, strokeWidth=1.2, strokeDash=LIMIT_DASH)
    text = base.mark_text(
        align="left", dx=4, dy=4 if under else -3, baseline="top" if under else "bottom", text=figures.clean(label, 60)
    )
    return alt.layer(rule, text.encode(x=alt.value(0)))


def upright(value: float, label: str, x: alt.X, row: int = 0) -> Chart:
    """``row`` keeps the labels of several apart."""
    base = _data([{"x": value}]).encode(x=x)
    rule = base.mark_rule(color=INK, strokeWidth=1.2, strokeDash=LIMIT_DASH)
    text = base.mark_text(align="right", baseline="bottom", dx=3, dy=-4 - 14 * row, text=figures.clean(label, 60))
    return alt.layer(rule, text.encode(y=alt.value(0)))


def heading(text: str, row: int = 0) -> Chart:
    mark = _data([{}]).mark_text(
        align="left", baseline="bottom", dy=-6 - 16 * row, color=MUTED, text=figures.clean(text, 60)
    )
    drawn: alt.Chart = mark.encode(x=alt.value(0), y=alt.value(0))
    return drawn


def points(rows: Sequence[tuple[float, float, str]], shape: str, color: str, x: alt.X, y: alt.Y) -> Chart:
    """Places with their labels: (x, y, label)."""
    base = _data([{"x": left, "y": low, "label": label} for left, low, label in rows]).encode(x=x, y=y)
    mark = base.mark_point(
        shape=shape, size=80, filled=shape != CROSS, color=color, stroke=color, strokeWidth=2.2, opacity=1
    )
    return alt.layer(
        mark, base.mark_text(align="left", dx=8, baseline="middle", fontWeight="bold").encode(text="label:N")
    )


def money_axis(low: float, high: float) -> alt.Y:
    """Dollars, on the same rule as :func:`time_axis`."""
    scale, ticks = _scale(low, high, 1.15)
    label = "'$' + format(datum.value, datum.value >= 0.01 && datum.value < 1 ? '.2f' : ',~r')"
    return alt.Y(
        "y:Q", scale=scale, axis=alt.Axis(values=ticks, labelExpr=label, title=None, ticks=False, domain=False)
    )


def _scale(low: float, high: float, room: float) -> tuple[alt.Scale, list[float]]:
    """Logarithmic where the values span a factor of ten, linear from zero where they do not."""
    if high / low < 10:
        return alt.Scale(domain=[0, high * room], nice=False), linear_ticks(high * room, 5)
    domain = [low * 0.8, high * max(room, 1.25)]
    return alt.Scale(type="log", domain=domain, nice=False), log_ticks(*domain)


def time_axis(low: float, high: float, title: str = "Latency", room: float = 1.08) -> alt.X:
    """``room`` is left beyond the largest."""
    scale, ticks = _scale(low, high, room)
    title = figures.clean(title, 60) + ("" if high / low < 10 else " (logarithmic)")
    return alt.X("x:Q", scale=scale, axis=alt.Axis(values=ticks, labelExpr=_TIME_LABEL, title=title, grid=False))


def run_axis(span: tuple[float, float], *, bare: bool = False) -> alt.X:
    """``bare`` leaves the labels to the panel below."""
    ticks = [tick for tick in linear_ticks(max(span[1], 1.0), 6) if span[0] <= tick <= span[1]]
    axis = alt.Axis(
        values=ticks,
        labelExpr="format(datum.value, ',~r') + ' s'",
        title=None if bare else "Time since all users were up",
        labels=not bare,
        ticks=not bare,
        grid=False,
    )
    return alt.X("x:Q", scale=alt.Scale(domain=list(span), nice=False, zero=False), axis=axis)


def value_axis(top: float, label: str = "format(datum.value, ',~r')", most: int = 3) -> alt.Y:
    axis = alt.Axis(values=linear_ticks(top, most), labelExpr=label, title=None, ticks=False, domain=False)
    return alt.Y("y:Q", scale=alt.Scale(domain=[0, top], nice=False), axis=axis)


def linear_ticks(top: float, most: int) -> list[float]:
    """Round numbers from 0 to at most ``top``, no more than ``most`` steps."""
    raw = top / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    return [round(step * index, 9) for index in range(int(top / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers of a logarithmic axis, as dense as their labels leave room."""
    decades = math.log10(high / low)
    closest = {(1, 2, 5): math.log10(2), (1, 3): math.log10(3), (1,): 1.0}
    mantissas = next((each for each, gap in closest.items() if gap / decades * PLOT_WIDTH >= LABEL_WIDTH), (1,))
    return [
        round(mantissa * 10.0**power, 9)
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for mantissa in mantissas
        if low <= mantissa * 10.0**power <= high
    ]


def _data(rows: Sequence[Mapping[str, object]]) -> alt.Chart:
    """Rows as one JSON text: Altair would copy and check a list at every step, which is most of its time."""
    return alt.Chart(alt.InlineData(values=json.dumps(rows), format=alt.JsonDataFormat(type="json")))


def draw(layers: Sequence[Chart], height: int, *, top: int, bottom: int) -> Panel:
    spec = (
        alt.layer(*layers)
        .properties(
            width=PLOT_WIDTH,
            height=height,
            padding={"left": LEFT, "right": RIGHT, "top": top, "bottom": bottom},
            autosize=alt.AutoSizeParams(type="none"),
            background="transparent",
        )
        .to_dict(validate=False)  # half the time of drawing; the shape is ours, and vl_convert refuses a broken one
    )
    return panel(vl_convert.vegalite_to_svg(spec, config=_CONFIG, allowed_base_urls=[]))
