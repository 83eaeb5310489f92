"""Quality in a report: a cell's scores as a table, and how quality goes with load over the runs of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import altair as alt

from harness.capacity_record import CapacityRecord
from harness.judgement import Judgement, QualitySummary, ScoreSummary
from harness.quality import SCORERS
from reports import charts, figures
from reports.parts import Column, Fact, Figure, Item, Key, Table
from reports.svg import stacked

COLUMNS = (
    Column("Score, 0 to 1"),
    Column("Mean", number=True),
    Column("Answers", number=True),
    Column("Acceptable from", number=True),
    Column("Below it", number=True),
    Column("Whole set", number=True),
    Column("Signature", wide=True),
)


def interval(value: float | None, low: float | None, high: float | None, *, share: bool = False) -> str:
    """``0.512 (0.480 to 0.544)``."""
    write = figures.share if share else figures.number
    if value is None or low is None or high is None:
        return write(value)
    return f"{write(value)} ({write(low)} to {write(high)})"


def table(judgement: Judgement) -> Table | None:
    """Every score of a run; None where its answers were not scored."""
    found = judgement.quality
    if found is None or not found.scores:
        return None
    level = figures.whole_share(found.confidence)
    caption = (
        f"Quality of {figures.count(found.judged)} answers to {figures.count(found.prompts)} prompts, the share of the"
        f" judged requests that was drawn before they were sent; bounds each at {level} confidence"
    )
    return Table(caption, COLUMNS, tuple(_row(each) for each in found.scores))


def _row(each: ScoreSummary) -> tuple[Item, ...]:
    about = SCORERS[each.scorer].about if each.scorer in SCORERS else ""
    bounds = () if each.low is None else (f"{figures.number(each.low)} to {figures.number(each.high)}",)
    return (
        Item(each.scorer, lines=(about,) if about else ()),
        Item(figures.number(each.mean), lines=bounds, number=True),
        Item(figures.count(each.samples), number=True),
        Item(figures.MISSING if each.limit is None else figures.exact(each.limit), number=True),
        Item(figures.count(each.below), number=True),
        Item(figures.number(None if each.corpus is None else 100 * each.corpus), number=True),
        Item(each.signature or figures.MISSING),
    )


def facts(judgement: Judgement) -> tuple[Fact, ...]:
    """The stack's own word, and what was measured beside it."""
    word = Fact("Claimed", judgement.quality_word or figures.MISSING)
    found = judgement.quality
    if found is None:
        return (word, Fact("Measured", "NOT MEASURED"))
    return (
        word,
        Fact("On time and acceptable", interval(found.good_share, found.good_low, found.good_high, share=True)),
        Fact("Late or failed", figures.count(found.late)),
        Fact("On time, not acceptable", figures.count(found.not_acceptable)),
        Fact("Scored of all judged", figures.share(found.scored_share)),
        *_llm_judge(found),
    )


def _llm_judge(found: QualitySummary) -> tuple[Fact, ...]:
    told = found.llm_judge
    if told is None:
        return ()
    cost = "" if told.spent_usd is None else f", {figures.usd(told.spent_usd)} spent"
    asked = f"{figures.count(told.judged)} of {figures.count(told.asked)} asked{cost}"
    return (
        Fact(f"Judge {told.model}", interval(told.mean, told.low, told.high), asked),
        Fact("Its two orders agree on", figures.share(told.agreement), told.stopped),
    )


@dataclass(frozen=True, slots=True)
class Point:
    """A run, by its load: users of a closed loop, requests a second of an open one."""

    load: float
    good_share: float | None
    acceptable_on_time: float | None
    means: Mapping[str, float]
    """Of each score that was made."""


def figures_over_load(judgements: Sequence[Judgement]) -> tuple[Figure, ...]:
    """One chart for each stack in a scenario whose quality was measured under more than one load."""
    groups: dict[tuple[str, str, bool], list[Point]] = {}
    for each in judgements:
        point = _point(each)
        if point is not None:
            groups.setdefault((each.scenario, each.stack, each.load.open_loop is not None), []).append(point)
    found = []
    for number, ((scenario, stack, open_loop), points) in enumerate(groups.items()):
        if len({point.load for point in points}) > 1:
            found.append(_figure(f"quality-load-{number}", f"{stack} in {scenario}", points, open_loop=open_loop))
    return tuple(found)


def figures_over_levels(record: CapacityRecord, anchor: str) -> tuple[Figure, ...]:
    """One chart of a capacity search whose levels were scored; ``anchor`` makes its key one of its page."""
    points = [
        Point(level.load, level.quality.good_share, level.quality.acceptable_on_time, level.quality.means)
        for level in record.levels
        if level.quality is not None and level.quality.good_share is not None
    ]
    if len({point.load for point in points}) < 2:
        return ()
    where = f"{record.stack} in {record.scenario}"
    return (_figure(f"{anchor}--quality", where, points, open_loop=record.settings.kind != "users"),)


def _point(judgement: Judgement) -> Point | None:
    load, found = judgement.load, judgement.quality
    if found is None or found.good_share is None:
        return None
    at = load.open_loop.offered_rps if load.open_loop is not None else float(load.users)
    if at is None:
        return None
    means = {each.scorer: each.mean for each in found.scores if each.mean is not None}
    return Point(at, found.good_share, found.acceptable_on_time, means)


def _figure(key: str, where: str, points: Sequence[Point], *, open_loop: bool) -> Figure:
    title = f"Quality against load: {where}"
    points = sorted(points, key=lambda point: point.load)
    top = max(point.load for point in points) * 1.08
    axis = alt.Axis(
        values=charts.linear_ticks(top, 6), title="Requests per second offered" if open_loop else "Users", grid=False
    )
    x = alt.X("x:Q", scale=alt.Scale(domain=[0, top], nice=False), axis=axis)
    y = alt.Y(
        "y:Q",
        scale=alt.Scale(domain=[0, 1], nice=False),
        axis=alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".0%", title=None, ticks=False, domain=False),
    )
    good = [(point.load, point.good_share) for point in points]
    acceptable = [(point.load, point.acceptable_on_time) for point in points]
    # The first score that every run has.
    name = next((name for name in points[0].means if all(name in point.means for point in points)), "")
    layers = [charts.line(_rows(good), x, y), charts.line(_rows(acceptable), x, y, second=True)]
    keys = [Key("on time and acceptable", "line"), Key("acceptable of those on time", "line second")]
    if name:
        layers.append(charts.line(_rows([(point.load, point.means[name]) for point in points]), x, y, other=True))
        keys.append(Key(f"mean {name}", "line other"))
    desc = f"Share of good answers of {where} over {len(points)} runs of different load."
    image = stacked([charts.draw(layers, 170, top=20, bottom=42)], key, title, desc)
    return Figure(title, image, tuple(keys), "One point a run; a scored answer that came late or never is not good.")


def _rows(points: Sequence[tuple[float, float | None]]) -> list[charts.Row]:
    return [{"x": load, "y": value} for load, value in points if value is not None]
