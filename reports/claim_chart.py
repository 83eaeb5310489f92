"""Claim, floor and measurement of one cell on one axis of seconds, and the same in words."""

from __future__ import annotations

import json
import math

import altair as alt
from markupsafe import Markup

from harness.judgement import ClaimAudit, Judgement, Mark
from reports import figures
from reports.charts import BAD, FIRST, INK, LIMIT_DASH, MUTED, SHADE, Chart, draw, time_axis
from reports.svg import stacked

ROW = 34
ROOM_FOR_LABELS = 1.9
"""Of the axis beyond its largest value, on a logarithmic scale as on a linear one."""


def words(audit: ClaimAudit, marks: tuple[Mark, ...]) -> str:
    """``Claim 800 ms is under the floor of 2.10 s by a factor of 2.62: impossible.`` and what was measured."""
    claim, floor, measured = audit.claim_latency_s, audit.floor_s, _finite(audit.measured_p50_s)
    if claim is None:
        return ""
    said = f"Claim {figures.seconds(claim)}"
    if floor is None:
        said += " has no physical floor to be held against."
    elif audit.feasible is False:
        factor = audit.factor or floor / claim
        said += f" is under the floor of {figures.seconds(floor)} by a factor of {figures.number(factor)}: impossible."
    else:
        said += f" is not under the floor of {figures.seconds(floor)}: physics allows it."
    if measured is None:
        return said
    if Mark.CLAIM_REPLAYED in marks:
        return f"{said} The {_measurement(marks)} {figures.seconds(measured)} replays the claim and cannot confirm it."
    times = figures.number(measured / claim)
    return f"{said} The {_measurement(marks)} median is {figures.seconds(measured)}, {times} times the claim."


def draw_claim(judgement: Judgement, key: str) -> Markup | None:
    """A row for each of the three that is known; below the floor the plot is shaded. None without a claim."""
    audit = judgement.claim
    if audit is None or not audit.claim_latency_s:
        return None
    floor, measured = audit.floor_s, _finite(audit.measured_p50_s)
    beyond = audit.feasible is False
    rows = [("claim", audit.claim_latency_s, BAD if beyond else FIRST)]
    if floor:
        rows.append(("physical floor", floor, INK))
    if measured:
        rows.append((f"{_measurement(judgement.marks)} median", measured, FIRST))
    values = [value for _, value, _ in rows]
    x = time_axis(min(values), max(values), "Seconds a request", room=ROOM_FOR_LABELS)
    left = x["scale"]["domain"][0]
    y = alt.Y("y:Q", scale=alt.Scale(domain=[len(rows), 0], nice=False), axis=None)
    layers: list[Chart] = []
    if floor:
        band = {"x": left, "x2": floor, "y": 0, "y2": len(rows)}
        layers.append(_data([band]).mark_rect(color=SHADE).encode(x=x, x2=alt.X2("x2"), y=y, y2=alt.Y2("y2")))
        layers.append(_data([{"x": floor}]).mark_rule(color=MUTED, strokeDash=LIMIT_DASH).encode(x=x))
    for place, (name, value, color) in enumerate(rows):
        base = _data([{"x": left, "x2": value, "y": place + 0.62}])
        layers.append(base.mark_rule(color=color, strokeWidth=2.5).encode(x=x, x2=alt.X2("x2"), y=y))
        end = _data([{"x": value, "y": place + 0.62}])
        layers.append(end.mark_point(filled=True, size=60, color=color, opacity=1).encode(x=x, y=y))
        label = f"{name} {figures.seconds(value)}"
        at_start = _data([{"y": place + 0.42}]).mark_text(
            align="left", baseline="bottom", text=figures.clean(label, 60)
        )
        layers.append(at_start.encode(x=alt.value(4), y=y))
    title = f"Claim, floor and measurement: {judgement.stack} in {judgement.scenario}"
    return stacked([draw(layers, ROW * len(rows), top=6, bottom=42)], key, title, words(audit, judgement.marks))


def _measurement(marks: tuple[Mark, ...]) -> str:
    return "emulated" if Mark.EMULATED in marks else "measured"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and value > 0 else None


def _data(rows: list[dict[str, float]]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=json.dumps(rows), format=alt.JsonDataFormat(type="json")))
