"""``verdict.md``: what a reviewer reads in a pull request; short enough for a comment, the report has the rest."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape as html_escape

from harness.judgement import CheckResult, Judgement, Verdict
from harness.recommend import Recommendation
from reports import checks, figures, recommendations, view
from reports.markdown_escape import escape, one_line
from reports.parts import Chip, badges

MOST_CELLS = 60
"""Rows and sections, worst verdict first: a comment on GitHub holds 65,536 characters."""
_WORST_FIRST = (Verdict.FAIL, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.PASS)


def render(judgements: Sequence[Judgement], advice: Sequence[Recommendation] = ()) -> str:
    """Verdicts as a table, what to run, and each undecided or failed cell's checks folded away."""
    ranked = sorted(judgements, key=lambda each: _WORST_FIRST.index(each.verdict))
    shown, left = ranked[:MOST_CELLS], len(ranked) - MOST_CELLS
    blocks = [f"## SLA verdicts: {view.summary(judgements)}", *_table(shown)]
    if left > 0:
        blocks.append(f"{figures.count(left)} more cells are in the report.")
    blocks.extend(_advice(advice))
    blocks.extend(_details(each) for each in shown if each.checks)
    return "\n\n".join(blocks) + "\n"


def _table(judgements: Sequence[Judgement]) -> list[str]:
    if not judgements:
        return []
    rows = ["| verdict | scenario | stack | value against limit | |", "| --- | --- | --- | --- | --- |"]
    for each in judgements:
        check = checks.primary(each)
        value = checks.value_against_limit(check) if check is not None else "no load was sent"
        if each.verdict is Verdict.INVALID:
            value = each.reasons[0] if each.reasons else each.sentence
        marks = " ".join(f"`{mark}`" for mark in badges(each.marks))
        about = (escape(each.scenario), escape(each.stack), escape(value))
        rows.append(f"| {_chip(each.verdict)} | {' | '.join(about)} | {marks} |")
    return ["\n".join(rows)]


def _advice(found: Sequence[Recommendation]) -> list[str]:
    lines = [f"- {escape(each.scenario)}: {escape(recommendations.sentence(each))}" for each in found]
    return ["### What to run", "\n".join(lines)] if lines else []


def _details(judgement: Judgement) -> str:
    chip = Chip.of(judgement.verdict)
    name = html_escape(one_line(f"{judgement.scenario} / {judgement.stack}")).replace("@", "@<!-- -->")
    rows = ["| check | verdict | value | bounds | violations | to decide |", "| --- | --- | --- | --- | --- | --- |"]
    rows.extend(_row(check) for check in judgement.checks)
    repeat = judgement.provenance.repeat if judgement.provenance is not None else ""
    again = f"\n\nTo repeat it: {escape(repeat)}" if repeat else ""
    void = " The run is invalid, so these checks decide nothing." if judgement.verdict is Verdict.INVALID else ""
    # Within the line of the tags there is HTML alone; after an empty line, Markdown again.
    summary = f"<summary>{chip.symbol} {chip.word} {name}</summary>"
    told = f"{escape(judgement.sentence)}{void}"
    return f"<details>{summary}\n\n{told}\n\n" + "\n".join(rows) + f"{again}\n\n</details>"


def _row(check: CheckResult) -> str:
    violations = (
        "" if check.violations is None else f"{figures.count(check.violations)} of {figures.count(check.samples)}"
    )
    value = figures.measured(check.value, check.metric, check.limit)
    texts = (check.text, "", value, checks.value_bounds(check), violations, checks.needed(check))
    shown = [escape(text) for text in texts]
    shown[1] = _chip(check.verdict)
    return f"| {' | '.join(shown)} |"


def _chip(verdict: Verdict) -> str:
    chip = Chip.of(verdict)
    return f"{chip.symbol} **{chip.word}**"
