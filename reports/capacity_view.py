"""The page of a capacity search: every text that its template prints."""

from __future__ import annotations

from dataclasses import dataclass

from harness.capacity import load_text
from harness.capacity_record import Arithmetic, Bar, CapacityRecord, LevelResult, PriceTag, Sizing
from harness.capacity_spend import spent_text
from reports import capacity_charts, figures, quality
from reports.parts import Chip, Column, Fact, Figure, Item, Key, Table, badges

MOST_CROSSINGS = 24
"""Shown of a break-even; whole replicas may cross an API's price many times."""

READING = (
    "Each level is a run of its own, with the verdict of its own checks. The capacity is the largest level that passes"
    " and below which every level that was tried passes; it is the lower end of the interval.",
    "Levels that were not decided stay inside the interval. Where the load generator was at its end, twice,"
    " the search says so and goes no higher: that is no limit of the stack.",
    "Each level's verdict carries only its share of the search's chance of an error, so that the interval as a whole"
    " holds at the confidence stated above.",
    "Replicas and cost start from the lower end: a load that was seen to pass.",
)


@dataclass(frozen=True, slots=True)
class CapacityPage:
    """One search; ``cell`` is the section of the stack at the scenario's load, where the page has one."""

    anchor: str
    title: str
    over: str
    stack: str
    subtitle: str
    chip: Chip
    badges: tuple[str, ...]
    sentence: str
    facts: tuple[Fact, ...]
    levels: Table | None
    charts: tuple[Figure, ...]
    sizing_lead: str
    sizing: Table | None
    sizing_notes: tuple[str, ...]
    break_even_lead: str
    break_even: Table | None
    tornado: Figure | None
    bars: Table | None
    prices: Table | None
    flags: tuple[str, ...]
    confirmation: str
    confirmation_chip: Chip | None
    reading: tuple[str, ...]
    notes: tuple[str, ...]
    origin: tuple[Fact, ...]
    cell: str = ""


def build(record: CapacityRecord, anchor: str = "search") -> CapacityPage:
    """``anchor`` keeps the identifiers of several searches on one page apart."""
    sizing, confirmation = record.sizing, record.confirmation
    return CapacityPage(
        anchor=anchor,
        title=f"Capacity: {record.stack_title}",
        over=f"{record.scenario_title}, {_kind(record)}",
        stack=record.stack_title,
        subtitle=f"{record.scenario_title}, {_kind(record)}; profile {record.profile}, started {record.started}",
        chip=Chip.of(record.verdict),
        badges=badges(record.marks),
        sentence=_capital(record.sentence),
        facts=_facts(record),
        levels=_levels(record),
        charts=(*_charts(record, anchor), *quality.figures_over_levels(record, anchor)),
        sizing_lead="" if sizing is None else _sizing_lead(record, sizing),
        sizing=None if sizing is None or not sizing.figures else _figures_table(sizing.figures),
        sizing_notes=() if sizing is None else sizing.notes,
        break_even_lead="" if sizing is None or sizing.break_even is None else _capital(sizing.break_even.sentence),
        break_even=None if sizing is None else _crossings(sizing),
        tornado=None if sizing is None else _tornado(sizing, anchor),
        bars=None if sizing is None or not sizing.bars else _bars(sizing.bars),
        prices=_prices(record.prices),
        flags=tuple(tag.flag for tag in record.prices if tag.flag),
        confirmation="" if confirmation is None else _capital(confirmation.sentence),
        confirmation_chip=None
        if confirmation is None or confirmation.verdict is None
        else Chip.of(confirmation.verdict),
        reading=READING,
        notes=tuple(filter(None, (*record.notes, spent_text(record.spent_usd, record.cap_usd)))),
        origin=_origin(record),
    )


def _facts(record: CapacityRecord) -> tuple[Fact, ...]:
    found, kind = record.interval, record.settings.kind

    def at(load: float | None) -> str:
        return figures.MISSING if load is None else load_text(kind, load)

    facts = [
        Fact("Feasible up to", at(found.feasible)),
        Fact("Infeasible from", at(found.infeasible)),
        Fact("Binding check", record.binding or figures.MISSING),
        Fact("Shape", record.shape_text or figures.MISSING),
        Fact("Ended because", record.ended),
        Fact(
            "Confidence",
            figures.whole_share(record.confidence),
            f"{figures.share(record.level_confidence, 4)} a level, of at most {record.settings.levels_max} levels",
        ),
    ]
    if found.undecided:
        facts.insert(2, Fact("Undecided", ", ".join(at(load) for load in found.undecided)))
    if found.invalid is not None:
        facts.insert(2, Fact("Load generator at its end", at(found.invalid)))
    return tuple(facts)


def _levels(record: CapacityRecord) -> Table | None:
    if not record.levels:
        return None
    columns = (
        Column("Users" if record.settings.kind == "users" else "Requests/s"),
        Column("Verdict"),
        Column("Violating", number=True),
        *(Column(name, number=True) for name in ("p50", "p95", "p99", "Throughput", "Goodput", "$ per 1,000 good")),
        Column("Requests", number=True),
        Column("Run"),
    )
    tried = {level.load: place for place, level in enumerate(record.levels, 1)}
    rows = tuple(_level(level, tried[level.load]) for level in record.by_load)
    caption = f"Every level, from the lightest on. Percentiles are of {figures.metric_name(record.metric)}"
    return Table(caption, columns, rows)


def _level(level: LevelResult, place: int) -> tuple[Item, ...]:
    allowed = (f"{figures.share(level.allowed)} allowed",) if level.allowed is not None else ()
    return (
        Item(f"{level.load:,.4g}"),
        Item(chip=Chip.of(level.verdict), lines=(figures.clean(level.check, 80),) if level.check else ()),
        Item(figures.share(level.violating), lines=allowed, number=True),
        Item(figures.seconds(level.p50_s), number=True),
        Item(figures.seconds(level.p95_s), number=True),
        Item(figures.seconds(level.p99_s), number=True),
        Item(figures.rate(level.throughput_rps), number=True),
        Item(figures.rate(level.goodput_rps), number=True),
        Item(figures.usd(level.usd_per_1000_good), number=True),
        Item(figures.count(level.judged), number=True),
        Item(level.run_dir, lines=(f"tried as number {place}, {figures.clock(level.run_time_s)} of load",)),
    )


def _charts(record: CapacityRecord, anchor: str) -> tuple[Figure, ...]:
    if not record.levels:
        return ()
    unit = "users" if record.settings.kind == "users" else "offered requests/s"
    metric = figures.metric_name(record.metric)
    bounds = "In each chart the rule is the capacity, and the shaded part reaches to the smallest level that fails."
    marks = (Key("p50", "second"), Key("p95", ""), Key("p99", "other"), Key("limit", "limit"))
    title = f"{metric} against {unit}"
    rates, cost, where = f"Rates against {unit}", f"Cost against {unit}", "The table of levels holds the numbers."
    drawn = (
        (capacity_charts.latency_chart(record, f"{anchor}--latency", title, where), title, marks),
        (
            capacity_charts.rates_chart(record, f"{anchor}--rates", rates, where),
            rates,
            (Key("throughput", "second"), Key("goodput", "")),
        ),
        (
            capacity_charts.cost_chart(record, f"{anchor}--cost", cost, where),
            cost,
            (Key("$ per 1,000 good requests", ""),),
        ),
    )
    shown = [(image, name, keys) for image, name, keys in drawn if image is not None]
    return tuple(Figure(name, image, keys, "" if place else bounds) for place, (image, name, keys) in enumerate(shown))


def _sizing_lead(record: CapacityRecord, sizing: Sizing) -> str:
    plan = sizing.replicas
    hours = f"Daily profile “{sizing.profile}”: {sizing.profile_reason}."
    if plan is None:
        return hours
    spare = f" and {plan.spare} spare" if plan.spare else ""
    replicas = f"{plan.needed:,} replica{'' if plan.needed == 1 else 's'}{spare}"
    return f"{replicas} for {load_text(record.settings.kind, plan.load)}: {plan.arithmetic}. {hours}"


def _figures_table(shown: tuple[Arithmetic, ...]) -> Table:
    rows = tuple(
        (Item(_capital(each.label)), Item(figures.usd(each.value), number=True), Item(each.arithmetic))
        for each in shown
    )
    columns = (Column("Cost of"), Column("$", number=True), Column("Arithmetic", wide=True))
    return Table("What it costs at the SLA, each figure with its arithmetic", columns, rows)


def _crossings(sizing: Sizing) -> Table | None:
    found = sizing.break_even
    if found is None or not found.crossings:
        return None
    rows = tuple(
        (
            Item(figures.count(each.requests)),
            Item("own GPUs" if each.cheaper == "own" else found.api),
            Item(f"{each.replicas:,}", number=True),
            Item(figures.usd(each.usd), number=True),
        )
        for each in found.crossings[:MOST_CROSSINGS]
    )
    more = len(found.crossings) - MOST_CROSSINGS
    rest = f"; the first {MOST_CROSSINGS} of {len(found.crossings):,} crossings" if more > 0 else ""
    volume = figures.count(found.requests_per_replica_month)
    caption = (
        f"Own replicas ({figures.usd(found.usd_per_replica_month)} and {volume} requests a month each)"
        f" against {found.api} ({found.arithmetic} a query){rest}"
    )
    columns = (
        Column("From requests a month"),
        Column("Cheaper from there"),
        Column("Own replicas", number=True),
        Column("$ a month there", number=True),
    )
    return Table(caption, columns, rows)


def _tornado(sizing: Sizing, anchor: str) -> Figure | None:
    if sizing.usd_per_1000_good is None:
        return None
    title = "What moves the cost"
    image = capacity_charts.tornado(
        sizing.bars, sizing.usd_per_1000_good, f"{anchor}--tornado", title, "The table beside it holds the numbers."
    )
    if image is None:
        return None
    return Figure(title, image, (), f"The rule is the cost as planned, {figures.usd(sizing.usd_per_1000_good)}.")


def _bars(bars: tuple[Bar, ...]) -> Table:
    rows = tuple(
        (
            Item(_capital(bar.label), lines=(bar.note,) if bar.note else ()),
            Item(figures.usd(bar.low_usd), lines=(f"at {bar.low_text}",), number=True),
            Item(figures.usd(bar.high_usd), lines=(f"at {bar.high_text}",), number=True),
        )
        for bar in bars
    )
    columns = (Column("Assumption"), Column("$ per 1,000 good", number=True), Column("$ per 1,000 good", number=True))
    return Table("What the cost becomes when one assumption moves and the others stay", columns, rows)


def _prices(prices: tuple[PriceTag, ...]) -> Table | None:
    rows = tuple(
        (
            Item(tag.stack),
            Item(tag.text or "none"),
            Item(tag.read or figures.MISSING),
            Item(figures.clean(tag.source, 600)),
        )
        for tag in prices
    )
    columns = (Column("Stack"), Column("Price"), Column("Read on"), Column("Source", wide=True))
    return Table("Where the prices come from", columns, rows) if rows else None


def _origin(record: CapacityRecord) -> tuple[Fact, ...]:
    facts = [
        Fact("Harness", f"{record.harness_version} {record.git}".strip()),
        Fact("Host", record.host),
        Fact("Command", record.command, "code"),
        *(Fact(_capital(name), text) for name, text in record.options.items()),
    ]
    return tuple(fact for fact in facts if fact.value)


def _kind(record: CapacityRecord) -> str:
    return "the most users" if record.settings.kind == "users" else "the largest rate of arrivals"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
