"""A night's page, and the same as Markdown: every cell with its verdict and a link to its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import ExitCode
from harness.judgement import Verdict
from harness.nightly.record import CellRecord, Night, Status, label, tally
from harness.runlog import write_atomically
from reports import figures
from reports.markdown_escape import escape
from reports.parts import Chip, Fact
from reports.rendering import render_page

SUMMARY = "summary.html"
VERDICT = "verdict.md"
COULD_NOT = Chip("!", "FAILED", "fail")
NOT_RUN = Chip("–", "NOT RUN", "invalid")


@dataclass(frozen=True, slots=True)
class Row:
    chip: Chip
    scenario: str
    stack: str
    variant: str
    href: str
    """A file beside the page; empty: nothing is left to look at."""
    badges: tuple[str, ...]
    check: str
    sentence: str
    requests: str
    seconds: str
    attempts: tuple[str, ...]
    stored: str


@dataclass(frozen=True, slots=True)
class Tally:
    chip: Chip
    count: str


@dataclass(frozen=True, slots=True)
class NightPage:
    title: str
    subtitle: str
    sentence: str
    tallies: tuple[Tally, ...]
    summary: str
    rows: tuple[Row, ...]
    facts: tuple[Fact, ...]
    notes: tuple[str, ...]
    removed: tuple[str, ...]


def build(night: Night) -> NightPage:
    chips = [_chip(cell) for cell in night.cells]
    return NightPage(
        title=f"Night {night.night}",
        subtitle=" · ".join(filter(None, (night.title or night.name, night.host, f"harness {night.harness_version}"))),
        sentence=night.sentence,
        tallies=tuple(Tally(chip, figures.count(chips.count(chip))) for chip in dict.fromkeys(chips)),
        summary=tally(night.cells),
        rows=tuple(_row(cell) for cell in night.cells),
        facts=_facts(night),
        notes=(*((night.stopped,) if night.stopped else ()), *night.notes),
        removed=night.removed,
    )


def render(night: Night) -> str:
    """Render the page; the same night gives the same text."""
    return render_page("nightly.html.j2", build(night))


def markdown(night: Night) -> str:
    """The verdict in a few lines, for a terminal, a merge request or a chat."""
    lines = [f"# Night {escape(night.night)}", "", escape(night.sentence or tally(night.cells)), ""]
    lines += ["| verdict | scenario | stack | variant | |", "|---|---|---|---|---|"]
    for cell in night.cells:
        name = f"[{label(cell)}]({cell.report})" if cell.report else label(cell)
        said = escape(figures.clean(cell.check or cell.sentence, 300))
        lines.append(f"| {name} | {escape(cell.scenario)} | {escape(cell.stack)} | {escape(cell.variant)} | {said} |")
    notes = [*((night.stopped,) if night.stopped else ()), *night.notes]
    lines += ["", *(f"- {escape(note)}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def write_pages(folder: Path, night: Night) -> None:
    """Write ``summary.html`` and ``verdict.md``, each whole."""
    write_atomically(folder / SUMMARY, render(night))
    write_atomically(folder / VERDICT, markdown(night))


def _chip(cell: CellRecord) -> Chip:
    if cell.verdict is not None:
        return Chip.of(Verdict(cell.verdict))
    return COULD_NOT if cell.status is Status.FAILED else NOT_RUN


def _row(cell: CellRecord) -> Row:
    attempts = tuple(f"attempt {each.number}: {each.reason}" for each in cell.attempts)
    return Row(
        chip=_chip(cell),
        scenario=cell.scenario,
        stack=cell.stack,
        variant=cell.variant,
        href=cell.report or cell.directory,
        badges=cell.marks,
        check=cell.check,
        sentence=cell.sentence,
        requests=figures.count(cell.requests),
        seconds=figures.clock(cell.seconds) if cell.seconds else figures.MISSING,
        attempts=attempts,
        stored=cell.stored,
    )


def _facts(night: Night) -> tuple[Fact, ...]:
    code = "" if night.exit_code is None else f"{night.exit_code} ({ExitCode(night.exit_code).name})"
    facts = (
        Fact("Started", night.started),
        Fact("Ended", night.ended),
        Fact("Ran for", figures.clock(night.seconds)),
        Fact("Resumed", f"{figures.count(night.resumed)} times" if night.resumed else ""),
        Fact("Exit code", code),
        Fact("Profile", night.profile),
        Fact("Harness", " ".join(filter(None, (night.harness_version, night.git)))),
    )
    return tuple(fact for fact in facts if fact.value)
