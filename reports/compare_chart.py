"""The forest plot of a comparison: each metric's difference with its interval, on one axis of per cents."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import altair as alt
from markupsafe import Markup

from harness.comparison import Difference
from reports import figures
from reports.charts import FIRST, INK, LIMIT_DASH, SHADE, draw
from reports.svg import stacked

ROW = 26
SHORTEST, LONGEST = 0.12, 4.0
"""Of the axis, to either side: what is beyond is cut at its end, and the table has the figure."""
NAME_SHARE = 0.30
"""Of the plot's width, for the metrics' names."""


def forest(differences: Sequence[Difference], min_effect: float, key: str, title: str) -> Markup | None:
    """Draw the metrics that are compared by ratio and have an interval; None without any."""
    shown = [
        (each, each.low, each.effect, each.high)
        for each in differences
        if each.kind == "ratio" and each.low is not None and each.effect is not None and each.high is not None
    ]
    if not shown:
        return None
    widest = max(max(abs(low), abs(high)) for _, low, _, high in shown)
    reach = min(LONGEST, max(SHORTEST, 1.1 * widest, 1.5 * min_effect))
    least = max(-reach, -1.0)
    left = least - (reach - least) * NAME_SHARE / (1 - NAME_SHARE)
    scale = alt.Scale(domain=[left, reach], nice=False, zero=False)
    axis = alt.Axis(values=ticks(least, reach), format="+.0%", title=None, domain=False)
    y = alt.Y("y:Q", scale=alt.Scale(domain=[len(shown), 0], nice=False), axis=None)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", scale=scale, axis=axis)

    def inside(value: float) -> float:
        return min(max(value, least), reach)

    rows = [
        {
            "low": inside(low),
            "at": inside(effect),
            "high": inside(high),
            "y": place + 0.5,
            "name": figures.clean(each.label, 40),
        }
        for place, (each, low, effect, high) in enumerate(shown)
    ]
    band = {"low": max(-min_effect, least), "high": min(min_effect, reach), "y": 0, "y2": len(shown)}
    layers = [
        _data([band]).mark_rect(color=SHADE).encode(x=x("low"), x2=alt.X2("high"), y=y, y2=alt.Y2("y2")),
        _data([{"zero": 0.0}]).mark_rule(color=INK, strokeDash=LIMIT_DASH).encode(x=x("zero")),
        _data(rows).mark_rule(color=FIRST, strokeWidth=2.5).encode(x=x("low"), x2=alt.X2("high"), y=y),
        _data(rows).mark_point(filled=True, size=55, color=FIRST, opacity=1).encode(x=x("at"), y=y),
        _data(rows).mark_text(align="left", baseline="middle").encode(x=alt.value(0), y=y, text="name:N"),
    ]
    said = "; ".join(f"{each.label} {100 * effect:+.1f}%" for each, _, effect, _ in shown)
    return stacked([draw(layers, ROW * len(shown), top=8, bottom=28)], key, title, said)


def ticks(low: float, high: float) -> list[float]:
    """Round steps, zero among them."""
    rough = (high - low) / 7
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= rough * 0.999)
    return [round(place * step, 6) for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _data(rows: Sequence[Mapping[str, object]]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=json.dumps(list(rows)), format=alt.JsonDataFormat(type="json")))
