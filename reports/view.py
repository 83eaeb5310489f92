"""Judgements to the page: every text a template prints, in the order it prints it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.audit import NO_CLAIMS, Audit
from harness.errors import ExitCode
from harness.judgement import Judgement, Mark, Verdict
from harness.plan import PlanRow
from harness.recommend import Recommendation
from harness.studies import NO_STUDIES, Studies
from reports import capacity_view, cells, checks, claims, downloads, figures, pareto, quality, recommendations, studies
from reports.anchors import anchors
from reports.claims import StandingMeaning
from reports.parts import Chip, Column, Download, Fact, Figure, Item, Part, Table, badges

VERDICT_MEANINGS = {
    Verdict.PASS: "The SLA is met: even the upper bound of the violation rate is within what the SLA allows.",
    Verdict.FAIL: "The SLA is missed: even the lower bound of the violation rate is above what the SLA allows.",
    Verdict.INCONCLUSIVE: "The data do not decide: the bounds contain the limit. It is neither a pass nor a fail.",
    Verdict.INVALID: "The harness itself spoiled the run (a client at its limit, lost samples, the wrong model). "
    "Nothing is said of the server.",
}
MARK_MEANINGS = {
    Mark.EMULATED: "Numbers come from a simulation of the hardware, not from the hardware.",
    Mark.OTHER_GPU: "Measured on another GPU than the stack's: nothing is said of its own hardware, claims or price.",
    Mark.CLAIM_REPLAYED: "The simulation was calibrated from the claim itself, so it cannot confirm that claim.",
    Mark.REDUCED: "A smaller load than the scenario's, because the engine stands in for a GPU.",
    Mark.CUT_OFF: "The run ended early; it passes only if it would with every unfinished request a violation.",
    Mark.EARLY_STOP: "The run was ended because FAIL was decided, at a moment fixed beforehand.",
    Mark.DECIDED: "The run ended as soon as it was decided, at a moment fixed beforehand, with its part of the risk.",
    Mark.ABORTED: "The run was ended because a condition given beforehand showed it to be hopeless; it cannot pass.",
    Mark.FORCED_LENGTH: "Answers were forced to an exact length, so their quality is not scored.",
}
OTHER_EXITS = {
    ExitCode.USAGE: "a mistake in a specification or on the command line",
    ExitCode.SERVER: "the server did not stand up",
    ExitCode.LOAD: "the load generator crashed",
}
PICK, NO_PICK = Chip("✓", "PICK", "pass"), Chip("–", "NO PICK", "no-pick")


@dataclass(frozen=True, slots=True)
class Tally:
    chip: Chip
    count: str


@dataclass(frozen=True, slots=True)
class Headline:
    """A scenario on the first screen: one sentence, and a link to the recommendation behind it."""

    scenario: str
    pick: str
    sentence: str
    tally: str
    badges: tuple[str, ...]
    href: str
    chip: Chip
    headroom: str = ""
    """By a capacity search of the pick; empty where there was none."""
    capacity: str = ""
    """Section of that search."""


@dataclass(frozen=True, slots=True)
class Meaning:
    chip: Chip | None
    badge: str
    text: str
    exit_code: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    anchor: str
    title: str
    facts: tuple[Fact, ...]
    digests: str


@dataclass(frozen=True, slots=True)
class Page:
    title: str
    subtitle: str
    tallies: tuple[Tally, ...]
    summary: str
    headlines: tuple[Headline, ...]
    matrix: Table | None
    download: Download | None
    across: tuple[Part, ...]
    capacity: studies.CapacitySection | None
    comparison: studies.ComparisonSection | None
    found: tuple[studies.Found, ...]
    advice: tuple[recommendations.Advice, ...]
    claims: tuple[Table, ...]
    standings: tuple[StandingMeaning, ...]
    expected: tuple[Table, ...]
    quality: tuple[Figure, ...]
    cells: tuple[cells.Cell, ...]
    verdicts: tuple[Meaning, ...]
    marks: tuple[Meaning, ...]
    of_capacity: tuple[str, ...]
    exits: tuple[Meaning, ...]
    origins: tuple[Origin, ...]


def build(
    judgements: Sequence[Judgement],
    advice: Sequence[Recommendation],
    plan_rows: Sequence[PlanRow],
    title: str,
    audit: Audit = NO_CLAIMS,
    found: Studies = NO_STUDIES,
) -> Page:
    names = anchors(f"cell {each.scenario} {each.stack}" for each in judgements)
    links = {(each.scenario, each.stack): name for each, name in zip(judgements, names, strict=True)}
    scenarios = _scenarios(judgements, advice, plan_rows)
    titles = {name: name for name in scenarios} | {each.scenario: each.scenario_title for each in judgements}
    places = dict(zip(scenarios, anchors(f"scenario {name}" for name in scenarios), strict=True))
    capacities = studies.capacity_links(found.capacities)
    searches = studies.capacity_section(found.capacities, links)
    comparisons = studies.comparison_section(found.comparisons)
    known = {name: _known(name, judgements, names) for name in scenarios}
    return Page(
        title=title,
        subtitle=_subtitle(judgements),
        tallies=tallies(judgements),
        summary=summary(judgements),
        headlines=tuple(
            _headline(name, titles[name], places[name], judgements, advice, capacities)
            for name in _scenarios(judgements, advice)
        ),
        matrix=_matrix(judgements, names, titles),
        download=downloads.checks(judgements) if judgements else None,
        across=tuple(part for part in (pareto.build(judgements, titles, names),) if part is not None),
        capacity=searches,
        comparison=comparisons,
        found=(*(searches.found if searches else ()), *(comparisons.found if comparisons else ())),
        advice=tuple(
            recommendations.build(each, titles[each.scenario], places[each.scenario], known[each.scenario])
            for each in advice
        ),
        claims=claims.audited(audit, titles, links),
        standings=claims.standings(),
        expected=_tables(claims.expected(name, titles[name], plan_rows, links) for name in scenarios),
        quality=quality.figures_over_load(judgements),
        cells=tuple(
            cells.build(each, name, capacities.get((each.scenario, each.stack), ""))
            for each, name in zip(judgements, names, strict=True)
        ),
        verdicts=tuple(
            Meaning(Chip.of(verdict), "", text, str(int(verdict.exit_code)))
            for verdict, text in VERDICT_MEANINGS.items()
        ),
        marks=tuple(Meaning(None, mark.value, text) for mark, text in MARK_MEANINGS.items()),
        of_capacity=capacity_view.READING if found.capacities else (),
        exits=tuple(Meaning(None, "", text, str(int(code))) for code, text in OTHER_EXITS.items()),
        origins=tuple(_origin(each, f"{name}--origin") for each, name in zip(judgements, names, strict=True)),
    )


def _scenarios(
    judgements: Sequence[Judgement], advice: Sequence[Recommendation], plan_rows: Sequence[PlanRow] = ()
) -> list[str]:
    """In the order of the recommendations, which is the catalog's; then what is left."""
    names = [each.scenario for each in advice] + [each.scenario for each in judgements]
    return list(dict.fromkeys(names + [row.scenario for row in plan_rows]))


def _tables(tables: Iterable[Table | None]) -> tuple[Table, ...]:
    return tuple(table for table in tables if table is not None)


def tallies(judgements: Sequence[Judgement]) -> tuple[Tally, ...]:
    verdicts = [each.verdict for each in judgements]
    return tuple(
        Tally(Chip.of(verdict), figures.count(verdicts.count(verdict)))
        for verdict in (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.INVALID)
    )


def summary(judgements: Sequence[Judgement]) -> str:
    """``15 cells: 6 PASS, 7 FAIL, 1 INCONCLUSIVE, 1 INVALID``."""
    counted = ", ".join(f"{each.count} {each.chip.word}" for each in tallies(judgements))
    return f"{figures.count(len(judgements))} {'cell' if len(judgements) == 1 else 'cells'}: {counted}"


def _subtitle(judgements: Sequence[Judgement]) -> str:
    known = [each.provenance for each in judgements if each.provenance is not None]
    days = sorted({each.started[:10] for each in known if each.started})
    hosts = list(dict.fromkeys(each.host for each in known if each.host))
    when = " to ".join(dict.fromkeys([days[0], days[-1]])) if days else ""
    versions = list(dict.fromkeys(f"harness {each.harness_version}" for each in known))
    return " · ".join(text for text in (when, ", ".join(hosts), ", ".join(versions)) if text)


def _headline(
    name: str,
    title: str,
    anchor: str,
    judgements: Sequence[Judgement],
    advice: Sequence[Recommendation],
    capacities: claims.Links,
) -> Headline:
    mine = [each for each in judgements if each.scenario == name]
    verdicts = ", ".join(f"{each.count} {each.chip.word}" for each in tallies(mine) if each.count != "0")
    counted = f"Stacks judged: {verdicts or 'none'}."
    found = next((each for each in advice if each.scenario == name), None)
    if found is None:
        return Headline(title, "Not compared", "", counted, (), "", NO_PICK)
    stacks = _known(name, judgements, [""] * len(judgements))
    marks = recommendations.marks(found, stacks)
    sentence = recommendations.lead(found)
    if found.pick is None:
        sentence = sentence.removeprefix("No recommendation. ")
        return Headline(title, "No recommendation", sentence, counted, marks, anchor, NO_PICK)
    pick = stacks[found.pick].title if found.pick in stacks else found.pick
    searched = capacities.get((name, found.pick), "")
    headroom = found.headroom if searched else ""
    return Headline(title, pick, sentence, counted, marks, anchor, PICK, headroom, searched)


def _known(scenario: str, judgements: Sequence[Judgement], names: Sequence[str]) -> dict[str, recommendations.Known]:
    return {
        each.stack: recommendations.Known(each.stack_title, name, badges(each.marks))
        for each, name in zip(judgements, names, strict=True)
        if each.scenario == scenario
    }


def _matrix(judgements: Sequence[Judgement], names: Sequence[str], titles: dict[str, str]) -> Table | None:
    """Stacks down, scenarios across: a page gets long more easily than wide."""
    if not judgements:
        return None
    scenarios = [name for name in titles if any(each.scenario == name for each in judgements)]
    titles_of_stacks = {each.stack: each.stack_title for each in judgements}
    found: dict[tuple[str, str], list[Item]] = {}
    for each, name in zip(judgements, names, strict=True):
        found.setdefault((each.stack, each.scenario), []).append(_matrix_item(each, name))
    rows = []
    for stack, title in titles_of_stacks.items():
        cells_of = [found.get((stack, scenario), []) for scenario in scenarios]
        for run in range(max(map(len, cells_of))):
            heading = Item(title, lines=() if run == 0 else (f"run {figures.count(run + 1)}",))
            rows.append(
                (heading, *(items[run] if run < len(items) else Item(lines=("not run",)) for items in cells_of))
            )
    columns = (Column("Stack"), *(Column(titles[scenario]) for scenario in scenarios))
    return Table(
        "Verdict of each stack in each scenario; a verdict leads to its evidence", columns, tuple(rows), "matrix"
    )


def _matrix_item(judgement: Judgement, anchor: str) -> Item:
    check = checks.primary(judgement)
    if judgement.verdict is Verdict.INVALID:
        line = judgement.reasons[0] if judgement.reasons else judgement.sentence
    else:
        line = checks.value_against_limit(check) if check is not None else "no load was sent"
    return Item(chip=Chip.of(judgement.verdict), lines=(line,), badges=badges(judgement.marks), href=anchor)


def _origin(judgement: Judgement, anchor: str) -> Origin:
    made = judgement.provenance
    title = f"{judgement.scenario} / {judgement.stack}"
    run = (Fact("Run", judgement.run or figures.MISSING), Fact("Profile", judgement.profile or figures.MISSING))
    if made is None:
        return Origin(anchor, title, run, "")
    facts = (
        *run,
        Fact("Started", made.started or figures.MISSING),
        Fact("Host", f"{made.host}, {figures.count(made.cores)} cores"),
        Fact("GPUs", ", ".join(made.gpus) or "none"),
        Fact("Harness", " ".join(filter(None, (made.harness_version, made.git)))),
        Fact("Python", made.python),
        Fact("Locust", made.locust or figures.MISSING),
        Fact("Seeds", ", ".join(f"{name} {seed}" for name, seed in made.seeds.items()) or figures.MISSING),
        Fact("Command", made.command or figures.MISSING, "code"),
        Fact("To repeat it", made.repeat or figures.MISSING, "code"),
    )
    return Origin(anchor, title, facts, "\n".join(f"{name}  {digest}" for name, digest in made.digests.items()))
