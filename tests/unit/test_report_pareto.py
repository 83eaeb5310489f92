"""Cost against latency: what is drawn, what is left out and why, and which stacks are the best."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree

from harness.judgement import CostSummary, Judgement, Verdict
from reports import html, pareto
from tests import factories

CHARTLESS: dict[str, Any] = {"timeline": (), "curves": ()}


def cell(stack: str, median_s: float, usd: float | None, **changes: Any) -> Judgement:
    cost = None if usd is None else CostSummary(usd_per_query=usd)
    return factories.judgement(stack=stack, median_s=median_s, cost=cost, **CHARTLESS, **changes)


CELLS = [
    cell("dear-fast", 0.5, 0.02),
    cell("cheap-slow", 1.0, 0.001),
    cell("beaten", 1.05, 0.01),
    cell("cheapest-fails", 3.0, 0.0001),
]


def build(cells: list[Judgement]) -> Any:
    return pareto.build(cells, {"support-chatbot": "Support chatbot"}, [f"anchor-{each.stack}" for each in cells])


def test_the_best_are_passing_stacks_that_none_beats() -> None:
    found, left = pareto.spots(CELLS)
    assert [each.judgement.verdict for each in found] == [Verdict.PASS, Verdict.PASS, Verdict.PASS, Verdict.FAIL]
    assert [each.judgement.stack for each in found if each.best] == ["dear-fast", "cheap-slow"]
    assert [each.letter for each in found] == ["A", "B", "C", "D"]
    assert [each.usd_per_1000 for each in found] == [20.0, 1.0, 10.0, 0.1]
    assert left == []


def test_table_and_chart_say_the_same() -> None:
    (row,) = build(CELLS).rows
    texts = [found.text for found in ElementTree.fromstring(row.figure.image).iter("text")]
    assert [text for text in texts if text in ("A", "B", "C", "D")] == ["A", "B", "C", "D"]
    assert "Cost of 1,000 requests, US dollars" in texts
    assert "limit 2\u00a0s" in texts
    rows = {cells[1].text: cells for cells in row.table.rows}
    assert rows["BEATEN"][0].text == "C"
    assert rows["BEATEN"][5].text == "B"
    assert rows["BEATEN"][1].href == "anchor-beaten"
    assert rows["BEATEN"][4].text == "$10.00"
    assert rows["CHEAPEST FAILS"][5].text == "none"
    assert {key.text for key in row.figure.keys} == {"PASS", "FAIL", "best that pass", "limit"}


def test_what_has_no_place_is_named() -> None:
    left = [
        cell("free", 1.0, None),
        cell("lost", 1.0, 0.1, verdict=Verdict.INVALID),
        cell("never", 1.0, 0.1, checks=(factories.latency_check().model_copy(update={"value": math.inf}),)),
    ]
    (row,) = build([*CELLS, *left]).rows
    assert row.figure.caption == (
        "Left out, without a valid latency or a price: FREE (PASS), LOST (INVALID), NEVER (PASS)."
    )
    assert len(row.table.rows) == 4


def test_one_stack_alone_is_no_comparison() -> None:
    assert build(CELLS[:1]) is None
    assert 'id="across"' not in html.render(CELLS[:1])


def test_letters_go_on_after_z() -> None:
    found, _ = pareto.spots([cell(f"s{number}", 1.0, 0.1) for number in range(28)])
    assert [each.letter for each in found[24:]] == ["Y", "Z", "A2", "B2"]
