"""Verdicts for a terminal: a matrix and the checks behind it; the same facts as plain lines where nobody looks."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from harness.judgement import CheckResult, Judgement, Verdict
from harness.recommend import Recommendation
from reports import checks, figures, recommendations, view
from reports.parts import Chip, badges

STYLES = {
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.INVALID: "bold magenta",
    Verdict.NOT_MEASURED: "dim",
}


def print_verdicts(console: Console, judgements: Sequence[Judgement], advice: Sequence[Recommendation] = ()) -> None:
    """Tables on a terminal; one line a fact in a file or a pipe, as in :func:`plain`."""
    if not console.is_terminal:
        console.print(Text(plain(judgements, advice)), soft_wrap=True)
        return
    console.print(matrix(judgements))
    console.print(check_table(judgements))
    for line in _advice(advice):
        console.print(Text(line))
    console.print(Text(view.summary(judgements)))


def plain(judgements: Sequence[Judgement], advice: Sequence[Recommendation] = ()) -> str:
    """Lines without colour, width or control characters, to be read by people and ``grep``."""
    lines = []
    for judgement in judgements:
        lines.append(verdict_line(judgement))
        lines.extend(
            f"  {check.verdict.value:<12} {_line(check.text)}: {_numbers(check)}" for check in judgement.checks
        )
    return "\n".join([*lines, *_advice(advice), view.summary(judgements)])


def verdict_line(judgement: Judgement) -> str:
    """A cell's verdict in one line."""
    marks = "".join(f" [{mark}]" for mark in badges(judgement.marks))
    return f"{judgement.verdict.value:<12} {_name(judgement)}{marks}: {_line(judgement.sentence)}"


def matrix(judgements: Sequence[Judgement]) -> Table:
    """Stacks down, scenarios across; two runs of one cell are both shown."""
    scenarios = list(dict.fromkeys(each.scenario for each in judgements))
    table = Table("stack", *(Column(Text(_line(name))) for name in scenarios), title="Verdicts")
    for stack in dict.fromkeys(each.stack for each in judgements):
        table.add_row(
            Text(_line(stack)),
            *(
                Text("\n").join(_cell(each) for each in judgements if (each.stack, each.scenario) == (stack, scenario))
                for scenario in scenarios
            ),
        )
    return table


def check_table(judgements: Sequence[Judgement]) -> Table:
    table = Table("cell", "check", "verdict", "value", "bounds", "violations", "to decide", title="Checks")
    for judgement in judgements:
        for check in judgement.checks:
            table.add_row(
                Text(_name(judgement)),
                Text(_line(check.text)),
                _verdict(check.verdict),
                Text(figures.measured(check.value, check.metric, check.limit)),
                Text(checks.value_bounds(check)),
                Text(_violations(check)),
                Text(checks.needed(check)),
            )
    return table


def _cell(judgement: Judgement) -> Text:
    check = checks.primary(judgement)
    text = _verdict(judgement.verdict)
    if check is not None:
        text.append(f" {figures.measured(check.value, check.metric, check.limit)}")
    for mark in badges(judgement.marks):
        text.append(f"\n{mark}", style="dim")
    return text


def _verdict(verdict: Verdict) -> Text:
    chip = Chip.of(verdict)
    return Text(f"{chip.symbol} {chip.word}", style=STYLES[verdict])


def _numbers(check: CheckResult) -> str:
    facts = [figures.measured(check.value, check.metric, check.limit)]
    if bounds := checks.value_bounds(check):
        facts[0] += f" ({bounds})"
    if violations := _violations(check):
        facts.append(f"violations {violations}")
    if check.verdict is Verdict.INCONCLUSIVE:
        facts.append(checks.needed(check))
    if check.verdict is Verdict.NOT_MEASURED:
        facts.append(_line(check.reason))
    return ", ".join(facts)


def _violations(check: CheckResult) -> str:
    return "" if check.violations is None else f"{figures.count(check.violations)} of {figures.count(check.samples)}"


def _advice(found: Sequence[Recommendation]) -> list[str]:
    return [
        line
        for each in found
        for line in (
            f"{_line(each.scenario)}: {_line(recommendations.sentence(each))}",
            *(f"  {_line(text)}" for text in recommendations.details(each)),
        )
    ]


def _name(judgement: Judgement) -> str:
    return _line(f"{judgement.scenario} / {judgement.stack}")


def _line(text: str) -> str:
    return " ".join(figures.clean(text).split())
