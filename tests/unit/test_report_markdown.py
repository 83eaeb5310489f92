"""``verdict.md``: what a pull request shows, and nothing that a foreign text asks for."""

from __future__ import annotations

import re

from harness.judgement import Verdict
from reports import markdown
from tests import factories
from tests.conftest import Golden

HOSTILE = "<script>alert(1)</script> | **x** [a](http://e.x) `c` @everyone &lt; # \n| row |\x00\u202e"


def test_the_text_is_what_it_was(golden: Golden) -> None:
    advice = [factories.recommendation(), factories.no_recommendation()]
    golden("report/verdict.md", markdown.render(factories.mixed(), advice))


def test_the_worst_come_first() -> None:
    text = markdown.render(factories.mixed())
    seen = re.findall(r"^\| . \*\*(\w+)\*\* \| support|^\| . \*\*(\w+)\*\* \| translation", text, re.MULTILINE)
    order = [Verdict(left or right) for left, right in seen]
    assert order == sorted(order, key=[Verdict.FAIL, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.PASS].index)
    assert len(order) == 6


def test_foreign_texts_are_neither_markup_nor_rows_nor_mentions() -> None:
    check = factories.latency_check().model_copy(update={"text": HOSTILE, "reason": HOSTILE})
    cell = factories.judgement(scenario=HOSTILE, stack=HOSTILE, checks=(check,), sentence=HOSTILE)
    text = markdown.render([cell], [factories.recommendation(HOSTILE, sentence=HOSTILE)])
    assert not re.search(r"(?<!\\)<(?!/?(details|summary)>|!-- -->)", text)
    assert not re.search(r"@(?!<!-- -->)", text)
    outside = re.sub(r"<summary>.*?</summary>", "", text)  # HTML, in which Markdown has no meaning
    assert not re.search(
        r"(?<!\\)[\[\]`*]", outside.replace("**FAIL**", "").replace("**PASS**", "").replace("`EMULATED`", "")
    )
    assert "\x00" not in text
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")]
    assert columns == [6, 6, 6, 7, 7, 7]


def test_an_invalid_run_says_that_its_checks_decide_nothing() -> None:
    text = markdown.render([factories.invalid()])
    assert text.count("The run is invalid, so these checks decide nothing.") == 1


def test_it_fits_into_a_comment() -> None:
    cells = [factories.judgement(stack=f"stack-{number}") for number in range(100)]
    text = markdown.render(cells)
    assert len(text) < 65_536
    assert "40 more cells are in the report." in text
