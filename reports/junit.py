"""Verdicts as JUnit XML, in the form that Ant's schema and Jenkins' accept alike.

A cell is a suite. Its first case is the cell's own verdict, since a server that died or a client at its limit decides
without any check; then one case a check. FAIL is a failure. INCONCLUSIVE and INVALID are errors: neither is a pass, and
a build must not turn green on them. NOT MEASURED is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from harness.judgement import CheckResult, Judgement, Verdict
from reports import checks, figures

VERDICT_CASE = "verdict"
KINDS = {
    Verdict.FAIL: "failure",
    Verdict.INCONCLUSIVE: "error",
    Verdict.INVALID: "error",
    Verdict.NOT_MEASURED: "skipped",
}
"""Element of a case by verdict; PASS has none."""
COUNTS = {"failures": "failure", "errors": "error", "skipped": "skipped"}
_START = "1970-01-01T00:00:00"
"""Of a cell that was never started; the attribute is required."""
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(judgements: Sequence[Judgement], *, allow_inconclusive: bool = False) -> str:
    """The whole document; the same judgements give the same text.

    With ``allow_inconclusive`` what is undecided is skipped, as a gate that lets it through has it.
    """
    kinds = {**KINDS, Verdict.INCONCLUSIVE: "skipped"} if allow_inconclusive else KINDS
    root = ElementTree.Element("testsuites")
    for place, judgement in enumerate(judgements):
        _suite(root, judgement, place, kinds)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _suite(root: ElementTree.Element, judgement: Judgement, place: int, kinds: Mapping[Verdict, str]) -> None:
    name = f"{judgement.scenario} / {judgement.stack}"
    made, seconds = judgement.provenance, f"{judgement.load.window_s or 0.0:.3f}"
    started = re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", made.started) if made is not None else None
    about = {"name": name, "package": judgement.scenario, "id": str(place)}
    about |= {"timestamp": started[0] if started else _START, "hostname": (made.host if made else "") or "localhost"}
    suite = ElementTree.SubElement(root, "testsuite", {key: _text(value) for key, value in about.items()})
    _properties(suite, judgement)
    _case(
        suite, name, VERDICT_CASE, judgement.verdict, judgement.sentence, "\n".join(judgement.reasons), seconds, kinds
    )
    for check in judgement.checks:
        verdict = Verdict.INVALID if judgement.verdict is Verdict.INVALID else check.verdict
        _case(suite, name, check.text, verdict, check.reason, _numbers(check), "0", kinds)
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for attribute, element in COUNTS.items():
        suite.set(attribute, str(sum(case.find(element) is not None for case in cases)))
    suite.set("time", seconds)
    ElementTree.SubElement(suite, "system-out").text = _text("\n".join(judgement.notes))
    ElementTree.SubElement(suite, "system-err").text = _text("\n".join(judgement.server_log_tail))


def _properties(suite: ElementTree.Element, judgement: Judgement) -> None:
    facts = {
        "run": judgement.run,
        "profile": judgement.profile,
        "verdict": judgement.verdict.value,
        "marks": ", ".join(mark.value for mark in judgement.marks),
        "repeat": judgement.provenance.repeat if judgement.provenance else "",
    }
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": _text(value)})


def _case(
    suite: ElementTree.Element,
    class_name: str,
    name: str,
    verdict: Verdict,
    message: str,
    text: str,
    seconds: str,
    kinds: Mapping[Verdict, str],
) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", {"classname": _text(class_name), "name": _text(name), "time": seconds}
    )
    if verdict is Verdict.PASS:
        return
    kind = kinds[verdict]
    # Ant's schema knows a skipped case without any attribute or text.
    told = {} if kind == "skipped" else {"type": verdict.value, "message": _text(message)}
    element = ElementTree.SubElement(case, kind, told)
    if kind != "skipped":
        element.text = _text(text)


def _numbers(check: CheckResult) -> str:
    lines = [checks.value_against_limit(check), check.reason]
    if bounds := checks.value_bounds(check):
        lines.append(f"bounds {bounds}, each at {figures.whole_share(check.confidence)} confidence")
    if check.violations is not None:
        lines.append(f"violations {figures.count(check.violations)} of {figures.count(check.samples)}")
    return "\n".join(lines)


def _text(text: str) -> str:
    """Foreign text without what XML cannot hold."""
    return _NOT_XML.sub("\ufffd", figures.clean(text))
