"""Cost against latency: the stacks of one scenario beside each other, and those that none beats in both."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.frontier import frontier
from harness.judgement import CheckResult, Judgement, Verdict
from reports import charts, checks, figures
from reports.parts import Beside, Chip, Column, Figure, Item, Key, Part, Table, badges
from reports.svg import stacked

SHAPES = {Verdict.PASS: "circle", Verdict.FAIL: charts.CROSS, Verdict.INCONCLUSIVE: "triangle-up"}
INTRO = (
    "What a thousand requests cost at the load of the run, against the latency that the SLA judges: "
    "down and to the left is better. The line joins the stacks that pass and that no other passing stack beats in both."
)


@dataclass(frozen=True, slots=True)
class Spot:
    """One cell in the plane; ``letter`` is its label in the chart and in the table."""

    letter: str
    judgement: Judgement
    check: CheckResult
    latency_s: float
    usd_per_1000: float
    best: bool = False


def build(judgements: Sequence[Judgement], titles: Mapping[str, str], anchors: Sequence[str]) -> Part | None:
    """A chart for each scenario in which at least two cells have a latency and a cost."""
    places = {id(each): anchor for each, anchor in zip(judgements, anchors, strict=True)}
    rows = (
        _beside([each for each in judgements if each.scenario == name], title, f"pareto--{place + 1}", places)
        for place, (name, title) in enumerate(titles.items())
    )
    shown = tuple(row for row in rows if row is not None)
    return Part("pareto", "Cost against latency", INTRO, shown) if shown else None


def spots(judgements: Sequence[Judgement]) -> tuple[list[Spot], list[Judgement]]:
    """What can be placed, with its letter, and what cannot: invalid runs, and those without a latency or a price."""
    found: list[Spot] = []
    left: list[Judgement] = []
    for each in judgements:
        check = checks.primary(each)
        latency_s = check.value if check is not None and figures.dimension(check.metric) == "latency" else None
        usd = each.cost.usd_per_query if each.cost is not None else None
        usable = each.verdict in SHAPES and _drawable(latency_s) and _drawable(usd)
        if not usable or check is None or latency_s is None or usd is None:
            left.append(each)
            continue
        found.append(Spot(_letter(len(found)), each, check, latency_s, 1000 * usd))
    passing = [each for each in found if each.judgement.verdict is Verdict.PASS]
    best = {passing[index].letter for index in frontier([(each.latency_s, each.usd_per_1000) for each in passing])}
    marked = [
        Spot(each.letter, each.judgement, each.check, each.latency_s, each.usd_per_1000, each.letter in best)
        for each in found
    ]
    return marked, left


def _beside(judgements: Sequence[Judgement], title: str, key: str, places: Mapping[int, str]) -> Beside | None:
    found, left = spots(judgements)
    if len(found) < 2:
        return None
    names = ", ".join(f"{each.stack_title} ({each.verdict.value})" for each in left)
    caption = f"Left out, without a valid latency or a price: {names}." if left else ""
    return Beside(Figure(title, _image(found, title, key), _keys(found), caption), _table(found, title, places))


def _image(found: Sequence[Spot], title: str, key: str) -> Markup:
    check = found[0].check
    latencies, costs = [each.latency_s for each in found], [each.usd_per_1000 for each in found]
    name = f"{check.aggregate}({check.metric})"
    x = charts.time_axis(min(latencies), max([*latencies, check.limit]), name, room=1.35)
    y = charts.money_axis(min(costs), max(costs))
    layers = [charts.upright(check.limit, f"limit {figures.limit(check.limit, check.metric)}", x)]
    line = sorted((each.latency_s, each.usd_per_1000) for each in found if each.best)
    if len(line) > 1:
        layers.append(charts.line([{"x": left, "y": low} for left, low in line], x, y))
    for verdict, shape in SHAPES.items():
        rows = [(each.latency_s, each.usd_per_1000, each.letter) for each in found if each.judgement.verdict is verdict]
        if rows:
            layers.append(charts.points(rows, shape, f"var(--{Chip.of(verdict).style})", x, y))
    desc = "; ".join(
        f"{each.letter}, {each.judgement.stack}: {each.judgement.verdict.value}, {figures.seconds(each.latency_s)}, "
        f"{figures.usd(each.usd_per_1000)}"
        for each in found
    )
    heading = charts.heading("Cost of 1,000 requests, US dollars", row=1)
    return stacked(
        [charts.draw([heading, *layers], 230, top=38, bottom=44)], key, f"Cost against latency: {title}", desc
    )


def _keys(found: Sequence[Spot]) -> tuple[Key, ...]:
    seen = {each.judgement.verdict for each in found}
    marks = tuple(Key(verdict.value, f"mark {Chip.of(verdict).style}") for verdict in SHAPES if verdict in seen)
    best = (Key("best that pass", "line"),) if sum(each.best for each in found) > 1 else ()
    return (*marks, *best, Key("limit", "limit"))


def _table(found: Sequence[Spot], title: str, places: Mapping[int, str]) -> Table:
    columns = (
        Column("Label"),
        Column("Stack"),
        Column("Verdict"),
        Column("Latency", number=True),
        Column("1,000 requests", number=True),
        Column("Beaten by"),
    )
    caption = f"{title}: cost against latency; a stack is beaten by one that passes and is no worse in either"
    return Table(caption, columns, tuple(_row(each, found, places) for each in found), "spots")


def _row(spot: Spot, found: Sequence[Spot], places: Mapping[int, str]) -> tuple[Item, ...]:
    cell = spot.judgement
    return (
        Item(spot.letter),
        Item(cell.stack_title, badges=badges(cell.marks), href=places[id(cell)]),
        Item(chip=Chip.of(cell.verdict)),
        Item(figures.measured(spot.latency_s, spot.check.metric, spot.check.limit), number=True),
        Item(figures.usd(spot.usd_per_1000), number=True),
        Item(_beaten_by(spot, found)),
    )


def _beaten_by(spot: Spot, found: Sequence[Spot]) -> str:
    mine = (spot.latency_s, spot.usd_per_1000)
    better = [
        each.letter
        for each in found
        if each.judgement.verdict is Verdict.PASS
        and each is not spot
        and each.latency_s <= mine[0]
        and each.usd_per_1000 <= mine[1]
        and (each.latency_s, each.usd_per_1000) != mine
    ]
    return ", ".join(better) or "none"


def _drawable(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0


def _letter(index: int) -> str:
    """A to Z, then A2 and on."""
    turn, place = divmod(index, 26)
    return string.ascii_uppercase[place] + (str(turn + 1) if turn else "")
