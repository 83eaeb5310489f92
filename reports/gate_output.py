"""What a gate says: Markdown for a step summary, and GitHub's annotations."""

from __future__ import annotations

from harness.gate import Finding, GateResult
from reports.figures import clean
from reports.markdown_escape import escape

MOST_ANNOTATIONS = 10
"""GitHub shows so many errors, and as many warnings, of one step, and drops the rest without a word."""
MOST_BYTES = 1_000_000
"""GitHub refuses a step summary of more than 1 MiB as a whole."""


def markdown(result: GateResult) -> str:
    """The gate as one heading, one sentence and one table."""
    word = "open" if result.exit_code == 0 else "closed"
    lines = [f"## SLA gate: {word}", "", escape(result.sentence), ""]
    if result.findings:
        lines += ["| | verdict | cell | check | why |", "|---|---|---|---|---|"]
        for finding in result.findings:
            why = escape(clean(finding.reason, 500))
            why += f" ({escape(finding.rule_reason)})" if finding.rule_reason else ""
            name = f"{escape(finding.scenario)} / {escape(finding.stack)}"
            lines.append(f"| {finding.action} | {_verdict(finding)} | {name} | {escape(finding.check)} | {why} |")
        lines.append("")
    if result.ignored:
        lines.append(f"Policy {escape(result.policy)} ignores {result.ignored} more.")
    lines += [f"Rule {place} of policy {escape(result.policy)} met no check." for place in result.unused_rules]
    text = "\n".join(lines).rstrip() + "\n"
    if len(text.encode()) <= MOST_BYTES:
        return text
    return text.encode()[:MOST_BYTES].decode("utf-8", "ignore").rpartition("\n")[0] + "\n\nThe rest was cut off.\n"


def workflow_commands(result: GateResult) -> list[str]:
    """GitHub's annotations, one line each: an error for what blocks, a warning for what only warns."""
    return [*_commands("error", result.blocking), *_commands("warning", result.warnings)]


def _commands(level: str, findings: tuple[Finding, ...]) -> list[str]:
    shown = findings if len(findings) <= MOST_ANNOTATIONS else findings[: MOST_ANNOTATIONS - 1]
    lines = []
    for each in shown:
        title = f"{_verdict(each)} {each.scenario} / {each.stack}"
        lines.append(f"::{level} title={_property(title)}::{_data(f'{each.check}: {clean(each.reason, 500)}')}")
    if len(shown) < len(findings):
        lines.append(f"::{level}::{len(findings) - len(shown)} more are in the step summary")
    return lines


def _verdict(finding: Finding) -> str:
    return str(finding.verdict) if finding.verdict is not None else "FAILED"


def _data(text: str) -> str:
    """As GitHub's own toolkit escapes a command's message (actions/toolkit, ``command.ts``)."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
