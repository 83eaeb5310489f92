"""The list of a folder's runs as a page; each leads to its report, where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from harness.run_heads import RunHead
from reports import figures
from reports.parts import Chip
from reports.rendering import render_page

NO_VERDICT = Chip("–", "NO VERDICT", "invalid")


@dataclass(frozen=True, slots=True)
class Row:
    started: str
    scenario: str
    stack: str
    users: str
    chip: Chip
    badges: tuple[str, ...]
    sentence: str
    href: str
    """Relative to the folder; empty: no report was written."""
    directory: str


@dataclass(frozen=True, slots=True)
class RunsPage:
    title: str
    subtitle: str
    rows: tuple[Row, ...]
    damaged: tuple[str, ...]


def build(heads: Sequence[RunHead], root: Path) -> RunsPage:
    whole = [head for head in heads if not head.damage]
    runs = f"{figures.count(len(whole))} run{'' if len(whole) == 1 else 's'}"
    return RunsPage(
        title="Runs",
        subtitle=f"{runs} in {root}, the newest first",
        rows=tuple(_row(head, root) for head in whole),
        damaged=tuple(f"{head.directory}: {head.damage}" for head in heads if head.damage),
    )


def render(heads: Sequence[RunHead], root: Path) -> str:
    return render_page("runs.html.j2", build(heads, root))


def _row(head: RunHead, root: Path) -> Row:
    report = head.report
    return Row(
        started=head.started[:19].replace("T", " "),
        scenario=head.scenario,
        stack=head.stack,
        users="open" if head.arrivals else figures.count(head.users),
        chip=NO_VERDICT if head.verdict is None else Chip.of(head.verdict),
        badges=head.marks,
        sentence=head.sentence,
        href=quote(report.relative_to(root).as_posix()) if report and report.is_relative_to(root) else "",
        directory=head.directory.relative_to(root).as_posix(),
    )
