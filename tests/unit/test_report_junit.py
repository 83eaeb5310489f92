"""JUnit XML: valid for Ant and Jenkins, and no build is green on what is not a PASS."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from lxml import etree

from harness.judgement import Judgement, Verdict
from reports import junit
from tests import factories
from tests.conftest import Golden

FORM = etree.XMLSchema(etree.parse(Path(__file__).with_name("junit_form.xsd")))
HOSTILE = "]]></failure><script>&'\"\x00\x1b\ud800\u202e\ufffe"


def suites(judgements: list[Judgement]) -> list[ElementTree.Element]:
    text = junit.render(judgements)
    FORM.assertValid(etree.fromstring(text.encode()))
    return list(ElementTree.fromstring(text))


def test_the_document_is_what_it_was(golden: Golden) -> None:
    golden("report/junit.xml", junit.render(factories.mixed()))


def test_one_case_a_check_and_one_for_the_cell() -> None:
    for cell, suite in zip(factories.mixed(), suites(factories.mixed()), strict=True):
        names = [case.get("name") for case in suite.iter("testcase")]
        assert names == ["verdict", *(check.text for check in cell.checks)]


@pytest.mark.parametrize(
    ("verdict", "element"),
    [
        (Verdict.PASS, None),
        (Verdict.FAIL, "failure"),
        (Verdict.INCONCLUSIVE, "error"),
        (Verdict.INVALID, "error"),
        (Verdict.NOT_MEASURED, "skipped"),
    ],
)
def test_a_check_is_what_its_verdict_is(verdict: Verdict, element: str | None) -> None:
    check = factories.latency_check().model_copy(update={"verdict": verdict})
    (suite,) = suites([factories.judgement(checks=(check,), verdict=Verdict.PASS)])
    cell, case = suite.iter("testcase")
    assert [child.tag for child in case] == ([element] if element else [])
    assert not list(cell)
    if element in ("failure", "error"):
        assert case[0].get("type") == verdict.value
        assert "27 of 2,400" in (case[0].text or "")


def test_an_invalid_run_has_no_passing_case() -> None:
    (suite,) = suites([factories.invalid()])
    assert suite.get("errors") == suite.get("tests") == "3"


def test_a_cell_that_fails_without_any_check_fails() -> None:
    (suite,) = suites([factories.unloaded()])
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    assert "Does not fit" in (suite[1][0].get("message") or "")


def test_counts_add_up() -> None:
    for suite in suites(factories.mixed()):
        for attribute, element in junit.COUNTS.items():
            assert suite.get(attribute) == str(len(list(suite.iter(element))))


def test_foreign_texts_stay_texts() -> None:
    check = factories.latency_check().model_copy(update={"text": HOSTILE, "reason": HOSTILE})
    cell = factories.judgement(
        scenario=HOSTILE, stack=HOSTILE, checks=(check,), sentence=HOSTILE, notes=(HOSTILE,), server_log_tail=(HOSTILE,)
    )
    (suite,) = suites([cell])
    assert not list(suite.iter("script"))
    assert "]]></failure><script>&'\"" in (suite.find("system-err").text or "")  # type: ignore[union-attr]


def test_no_cells_no_suites() -> None:
    assert suites([]) == []
