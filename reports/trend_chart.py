"""A figure's history as a small SVG: thinned to what a screen shows, so that years stay a few kilobytes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from xml.etree import ElementTree

from markupsafe import Markup

from reports.figures import clean

WIDTH, HEIGHT = 460.0, 130.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 8.0, 12.0, 16.0
MOST_POINTS = 160
"""Of one line: about two pixels a point."""

VERDICTS = ("PASS", "INCONCLUSIVE", "INVALID", "FAIL")
"""From best to worst: what a thinned bin shows is its worst."""

_STRIP_COLOURS = {
    "PASS": "var(--pass)",
    "INCONCLUSIVE": "var(--inconclusive)",
    "INVALID": "var(--invalid)",
    "FAIL": "var(--fail)",
}


@dataclass(frozen=True, slots=True)
class Series:
    """One figure, oldest first. ``changes`` are places in it, ``noted_s`` the times when versions or flags changed."""

    times_s: tuple[float, ...]
    values: tuple[float, ...]
    changes: tuple[int, ...]
    noted_s: tuple[float, ...]

    def levels(self) -> list[tuple[int, int, float]]:
        """From, to (exclusive) and median of each stretch between changes."""
        edges = [0, *self.changes, len(self.values)]
        return [(a, b, median(self.values[a:b])) for a, b in itertools.pairwise(edges)]


@dataclass(frozen=True, slots=True)
class Frame:
    """From time and value to the image; every chart of a cell spans the same time."""

    first_s: float
    last_s: float
    low: float = 0.0
    high: float = 1.0

    def x(self, time_s: float) -> float:
        span = self.last_s - self.first_s
        return LEFT + (WIDTH - LEFT - RIGHT) * ((time_s - self.first_s) / span if span > 0 else 0.5)

    def y(self, value: float) -> float:
        if math.isinf(value):
            return TOP if value > 0 else HEIGHT - BOTTOM
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)


def history_chart(
    series: Series,
    span_s: tuple[float, float],
    write: Callable[[float | None], str],
    day: Callable[[float], str],
    title: str,
) -> Markup:
    """Draw the median line with its range, the levels, where they changed, and where something was noted."""
    finite = [value for value in series.values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    frame = Frame(*span_s, low - pad, high + pad)
    image = _image(title, HEIGHT)
    base = HEIGHT - BOTTOM
    _path(image, f"M{LEFT:g} {base:g}H{WIDTH - RIGHT:g}M{LEFT:g} {TOP:g}V{base:g}", stroke="var(--grid)")
    for value in dict.fromkeys((low, high)):
        _text(image, LEFT - 5, frame.y(value) + 4, write(value), "end")
    _text(image, LEFT, HEIGHT - 3, day(span_s[0]), "start")
    if span_s[1] > span_s[0]:
        _text(image, WIDTH - RIGHT, HEIGHT - 3, day(span_s[1]), "end")
    if series.noted_s:
        ticks = "".join(f"M{x:.1f} {base - 5:g}v5" for x in dict.fromkeys(round(frame.x(t), 1) for t in series.noted_s))
        _path(image, ticks, stroke="var(--series-2)", width="1.5")
    bins = list(_bins(series, frame))
    if len(bins) < len(series.values):
        edge = [f"{x:.1f} {frame.y(max(inside)):.1f}" for x, inside in bins]
        edge += [f"{x:.1f} {frame.y(min(inside)):.1f}" for x, inside in reversed(bins)]
        ElementTree.SubElement(image, "path", {"d": f"M{'L'.join(edge)}Z", "fill": "var(--shade)"})
    line = [f"{x:.1f} {frame.y(median(inside)):.1f}" for x, inside in bins]
    _path(image, f"M{'L'.join(line)}" + ("h.1" if len(line) == 1 else ""), stroke="var(--series-1)", width="1.5")
    levels = series.levels()
    steps = "".join(
        f"M{frame.x(series.times_s[a]):.1f} {frame.y(level):.1f}H{frame.x(series.times_s[b - 1]):.1f}"
        for a, b, level in levels
    )
    _path(image, steps, stroke="var(--ink)", dash="3 2")
    for (_, _, before), (place, _, after) in itertools.pairwise(levels):
        x = frame.x((series.times_s[place - 1] + series.times_s[place]) / 2)
        mark = _path(image, f"M{x:.1f} {TOP:g}V{base:g}", stroke="var(--fail)", width="1.5")
        words = f"{day(series.times_s[place])}: {write(before)} to {write(after)}"
        ElementTree.SubElement(mark, "title").text = clean(words)
    return Markup(ElementTree.tostring(image, encoding="unicode"))


def verdict_strip(times_s: Sequence[float], verdicts: Sequence[str], span_s: tuple[float, float], title: str) -> Markup:
    """One line of ticks, the worst verdict of each bin in its colour; FAIL is also taller, for who sees no colour."""
    frame = Frame(*span_s)
    worst: dict[int, str] = {}
    for time_s, verdict in zip(times_s, verdicts, strict=True):
        place = round(frame.x(time_s) / 2)
        worst[place] = max(worst.get(place, VERDICTS[0]), verdict, key=_badness)
    image = _image(title, 18.0)
    for verdict in VERDICTS:
        top = 2 if verdict == "FAIL" else 6
        ticks = "".join(f"M{2 * place} {top}V14" for place, each in sorted(worst.items()) if each == verdict)
        if ticks:
            _path(image, ticks, stroke=_STRIP_COLOURS[verdict], width="2")
    return Markup(ElementTree.tostring(image, encoding="unicode"))


def _badness(verdict: str) -> int:
    return VERDICTS.index(verdict) if verdict in VERDICTS else 0


def _bins(series: Series, frame: Frame) -> list[tuple[float, list[float]]]:
    """Launches in order, as many together as leave ``MOST_POINTS``; where each lies, and its values."""
    size = math.ceil(len(series.values) / MOST_POINTS)
    return [
        (
            frame.x(median(series.times_s[place : place + size])),
            list(series.values[place : place + size]),
        )
        for place in range(0, len(series.values), size)
    ]


def _image(title: str, height: float) -> ElementTree.Element:
    image = ElementTree.Element(
        "svg", {"class": "chart", "role": "img", "viewBox": f"0 0 {WIDTH:g} {height:g}", "font-size": "11"}
    )
    ElementTree.SubElement(image, "title").text = clean(title)
    return image


def _path(image: ElementTree.Element, d: str, *, stroke: str, width: str = "1", dash: str = "") -> ElementTree.Element:
    style = {"d": d, "fill": "none", "stroke": stroke, "stroke-width": width}
    return ElementTree.SubElement(image, "path", style | ({"stroke-dasharray": dash} if dash else {}))


def _text(image: ElementTree.Element, x: float, y: float, text: str, anchor: str) -> None:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "fill": "var(--muted)"}
    ElementTree.SubElement(image, "text", place).text = clean(text)
