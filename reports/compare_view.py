"""A Comparison to its page: every text that the template prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.comparison import ArmResult, Comparison, Difference, Finding, Launch, Pair
from harness.differences import effect_text
from reports import figures
from reports.anchors import anchors
from reports.compare_chart import forest
from reports.parts import Chip, Column, Fact, Figure, Item, Key, Table, badges

STYLES = {
    Finding.BETTER: ("↑", "pass"),
    Finding.WORSE: ("↓", "fail"),
    Finding.MIXED: ("↕", "fail"),
    Finding.NO_DIFFERENCE: ("=", "no-pick"),
    Finding.TOO_FEW: ("?", "inconclusive"),
    Finding.NOT_MEASURED: ("–", "not-measured"),
}
MEANINGS = {
    Finding.BETTER: "The interval excludes that nothing differs, and the difference is large enough to matter.",
    Finding.WORSE: "The same, in the other direction.",
    Finding.MIXED: "Of the headline as a whole: better in one metric and worse in another.",
    Finding.NO_DIFFERENCE: "Nothing that matters was shown; the reason says whether it is excluded or merely not seen.",
    Finding.TOO_FEW: "Fewer than three launches of an arm, or too few requests for the percentile.",
    Finding.NOT_MEASURED: "One arm lacks the metric, or so many requests failed that it is no number.",
}


@dataclass(frozen=True, slots=True)
class Meaning:
    chip: Chip
    text: str


@dataclass(frozen=True, slots=True)
class Versus:
    """One arm against the first."""

    anchor: str
    title: str
    over: str
    chip: Chip
    sentence: str
    figure: Figure | None
    table: Table
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Page:
    anchor: str
    title: str
    subtitle: str
    question: str
    badges: tuple[str, ...]
    pairs: tuple[Versus, ...]
    arms: Table
    parts: Table | None
    launches: tuple[Table, ...]
    notes: tuple[str, ...]
    reading: tuple[Fact, ...]
    meanings: tuple[Meaning, ...]
    command: str


def chip(finding: Finding) -> Chip:
    symbol, style = STYLES[finding]
    return Chip(symbol, finding.value, style)


def build(found: Comparison, anchor: str = "") -> Page:
    """``anchor`` keeps the identifiers of several comparisons on one page apart."""
    names = anchors(f"against {pair.b}" for pair in found.pairs)
    if anchor:
        names = [f"{anchor}--{name}" for name in names]
    marks = dict.fromkeys(mark for arm in found.arms for launch in arm.launches for mark in launch.marks)
    return Page(
        anchor=anchor,
        title=found.title,
        subtitle=_subtitle(found),
        question=found.question,
        badges=badges(tuple(marks)),
        pairs=tuple(_versus(pair, found, name) for pair, name in zip(found.pairs, names, strict=True)),
        arms=_arms(found),
        parts=_parts(found.arms),
        launches=tuple(_launches(arm, found) for arm in found.arms),
        notes=found.notes,
        reading=_reading(found),
        meanings=tuple(Meaning(chip(finding), text) for finding, text in MEANINGS.items()),
        command=found.command,
    )


def value_text(each: Difference, value: float | None) -> str:
    match each.unit:
        case "s":
            return figures.seconds(value)
        case "share":
            return figures.share(value)
        case "req/s":
            return figures.rate(value)
        case "USD":
            return figures.usd(value)
        case "J":
            return figures.rate(value, "J")


def change_text(each: Difference) -> str:
    return figures.MISSING if each.effect is None else effect_text(each, each.effect)


def interval_text(each: Difference) -> str:
    if each.low is None or each.high is None:
        return ""
    return f"{effect_text(each, each.low)} to {effect_text(each, each.high)}"


def _subtitle(found: Comparison) -> str:
    days = sorted({launch.started[:10] for arm in found.arms for launch in arm.launches if launch.started})
    when = " to ".join(dict.fromkeys([days[0], days[-1]])) if days else ""
    how = "launched in turn" if found.interleaved else ""
    return " · ".join(text for text in (found.scenario_title or found.scenario, how, when) if text)


def _versus(pair: Pair, found: Comparison, anchor: str) -> Versus:
    shown = [each for each in pair.differences if each.effect is not None and each.low is not None]
    image = forest(shown, found.min_effect, f"{anchor}--chart", f"{pair.b} against {pair.a}")
    figure = None
    if image is not None:
        keys = (
            Key("difference with its interval", ""),
            Key("too small to matter", "block warm-up"),
        )
        figure = Figure("How much each metric differs", image, keys, "Shares (errors, attainment) are in the table.")
    columns = (
        Column("Metric"),
        Column("Finding"),
        Column(pair.a, number=True),
        Column(pair.b, number=True),
        Column("Difference", number=True),
        Column(f"{figures.whole_share(found.confidence)} interval", number=True),
        Column("Why", wide=True),
    )
    return Versus(
        anchor=anchor,
        title=pair.b,
        over=f"against {pair.a}",
        chip=chip(pair.finding),
        sentence=f"{pair.sentence[:1].upper()}{pair.sentence[1:]}.",
        figure=figure,
        table=Table("Each metric by itself; those of the headline first", columns, _rows(pair.differences), "checks"),
        notes=pair.notes,
    )


def _rows(differences: Sequence[Difference]) -> tuple[tuple[Item, ...], ...]:
    ordered = sorted(differences, key=lambda each: not each.headline)
    return tuple(
        (
            Item(each.label, lines=(f"{each.better} is better",), badges=("HEADLINE",) if each.headline else ()),
            Item(chip=chip(each.finding), lines=_corrected(each)),
            Item(value_text(each, each.a), number=True),
            Item(value_text(each, each.b), number=True),
            Item(change_text(each), number=True),
            Item(interval_text(each), number=True),
            Item(each.reason, lines=(each.basis,) if each.basis else ()),
        )
        for each in ordered
    )


def _corrected(each: Difference) -> tuple[str, ...]:
    if each.headline_finding is None or each.headline_finding is each.finding:
        return ()
    return (f"{each.headline_finding} in the headline, corrected for its number of metrics",)


def _arms(found: Comparison) -> Table:
    columns = (
        Column("Arm"),
        Column("Stack"),
        Column("Changes"),
        Column("Launches", number=True),
        Column("Compared", number=True),
        Column("Requests", number=True),
    )
    rows = []
    for arm in found.arms:
        used = [launch for launch in arm.launches if not launch.left_out]
        changes = ", ".join(f"{name} {value}" for name, value in arm.changes.items())
        rows.append(
            (
                Item(arm.label),
                Item(arm.launches[0].stack_title or arm.launches[0].stack),
                Item(changes or figures.MISSING),
                Item(figures.count(len(arm.launches)), number=True),
                Item(figures.count(len(used)), number=True),
                Item(figures.count(sum(launch.requests for launch in used)), number=True),
            )
        )
    return Table("The arms", columns, tuple(rows))


def _parts(arms: Sequence[ArmResult]) -> Table | None:
    """Hits and misses of each launch, beside each other."""
    rows = [
        (
            Item(arm.label, lines=(_name(launch),)),
            Item(part.name),
            Item(figures.count(part.requests), number=True),
            Item(figures.seconds(part.ttft_p50_s), number=True),
            Item(figures.seconds(part.e2e_p50_s), number=True),
            Item(figures.seconds(part.e2e_p95_s), number=True),
        )
        for arm in arms
        for launch in arm.launches
        for part in launch.parts
    ]
    if not rows:
        return None
    columns = (
        Column("Launch"),
        Column("Answered requests"),
        Column("Count", number=True),
        Column("p50(TTFT)", number=True),
        Column("p50(E2E)", number=True),
        Column("p95(E2E)", number=True),
    )
    return Table("Hits and misses apart", columns, tuple(rows))


def _launches(arm: ArmResult, found: Comparison) -> Table:
    """The values that the intervals were made of, for the headline's metrics."""
    headline = [each for each in found.pairs[0].differences if each.headline]
    columns = (
        Column("Launch"),
        Column("SLA verdict"),
        Column("Requests", number=True),
        *(Column(each.label, number=True) for each in headline),
        Column("Left out"),
    )
    rows = tuple(
        (
            Item(_name(launch), lines=(launch.directory,) if launch.directory else ()),
            Item(chip=Chip.of(launch.verdict)),
            Item(figures.count(launch.requests), number=True),
            *(Item(value_text(each, launch.values.get(each.metric)), number=True) for each in headline),
            Item(launch.left_out),
        )
        for launch in arm.launches
    )
    return Table(f"Launches of {arm.label}", columns, rows)


def _name(launch: Launch) -> str:
    return launch.run if launch.round is None else f"round {launch.round}"


def _reading(found: Comparison) -> tuple[Fact, ...]:
    least = f"{figures.whole_share(found.min_effect)}, and {found.min_points * 100:g} points of a share"
    return (
        Fact("The unit", "A launch. Requests of one launch say how that launch was; only several say how a stack is."),
        Fact(
            "The interval",
            "Student's t over the rounds' differences where launches were made in turn, Welch's t otherwise; "
            "for one metric alone. Of twenty that do not differ, one may seem to.",
        ),
        Fact("The headline", "The metrics of the SLA, corrected for their number and that of the arms (Holm)."),
        Fact("What matters", f"Differences of at least {least}."),
        Fact("Perceived latency", "Until something is to be seen: TTFT of a streamed answer, E2E of a whole one."),
    )
