"""Judgements as JUnit XML, which every CI shows: a test suite for each cell, a test case for each check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from harness.judgement import CheckResult, Judgement, Verdict
from reports.figures import clean


def write_junit(path: Path, judgements: Sequence[Judgement], *, allow_inconclusive: bool = False) -> None:
    """Write the file whole, or leave the old one.

    FAIL is a failure, INCONCLUSIVE one too or, with ``allow_inconclusive``, skipped; INVALID is an error; what was not
    measured is skipped. A cell without a check, or whose verdict none of its checks explains, has a case ``cell``.
    """
    root = ElementTree.Element("testsuites", name="SLA")
    for judgement in judgements:
        _suite(root, judgement, allow_inconclusive)
    for tag in ("tests", "failures", "errors", "skipped"):
        root.set(tag, str(sum(int(suite.get(tag, "0")) for suite in root)))
    ElementTree.indent(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.half")
    half.write_bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")
    half.replace(path)


def _suite(root: ElementTree.Element, judgement: Judgement, allow_inconclusive: bool) -> None:
    name = f"{judgement.scenario} / {judgement.stack}"
    suite = ElementTree.SubElement(root, "testsuite", name=clean(name))
    made = judgement.provenance
    if made is not None and made.started:
        suite.set("timestamp", made.started[:19])
    for check in judgement.checks:
        seen = Verdict.INVALID if judgement.verdict is Verdict.INVALID else check.verdict
        text = judgement.sentence if seen is Verdict.INVALID else check.reason
        _case(suite, name, check.text, seen, text, check, allow_inconclusive)
    if not any(check.verdict is judgement.verdict for check in judgement.checks):
        _case(suite, name, "cell", judgement.verdict, judgement.sentence, None, allow_inconclusive)
    suite.set("tests", str(len(suite)))
    for tag, count in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(tag, str(len(suite.findall(f"testcase/{count}"))))


def _case(
    suite: ElementTree.Element,
    cell: str,
    name: str,
    verdict: Verdict,
    text: str,
    check: CheckResult | None,
    allow_inconclusive: bool,
) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=clean(cell), name=clean(name))
    tag = {
        Verdict.PASS: "",
        Verdict.FAIL: "failure",
        Verdict.INCONCLUSIVE: "skipped" if allow_inconclusive else "failure",
        Verdict.INVALID: "error",
        Verdict.NOT_MEASURED: "skipped",
    }[verdict]
    if not tag:
        return
    outcome = ElementTree.SubElement(case, tag, message=clean(text))
    if tag != "skipped":
        outcome.set("type", str(verdict))
    if check is not None and check.violations is not None:
        outcome.text = f"{check.violations} of {check.samples} requests violate {clean(check.text)}"
