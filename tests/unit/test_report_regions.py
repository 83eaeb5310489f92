"""Regions in the report: each row says what the judgement says of it."""

from __future__ import annotations

from harness.judgement import RegionResult, Verdict
from reports import html, regions
from tests import factories


def test_one_region_needs_no_table() -> None:
    assert regions.table(factories.judgement()) is None


def test_each_region_has_its_verdict_value_and_violations() -> None:
    check = factories.latency_check()
    near = RegionResult(
        region="near", requests=900, verdict=Verdict.PASS, check=check.text, value=0.2, samples=900, violations=3
    )
    far = near.model_copy(
        update={"region": "<far>", "verdict": Verdict.FAIL, "value": 2.5, "violations": 80, "p_value": 0.001}
    )
    untagged = RegionResult(region="", requests=1, verdict=Verdict.INCONCLUSIVE)
    judgement = factories.judgement(checks=(check,), regions=(near, far, untagged), timeline=(), curves=())
    table = regions.table(judgement)
    assert table is not None
    cells = [[item.chip.word if item.chip else item.text for item in row] for row in table.rows]
    rows = [[text.replace("\N{NO-BREAK SPACE}", " ") for text in row] for row in cells]
    assert rows[0][:5] == ["near", "PASS", "900", check.text, "200 ms"]
    assert rows[1][1:] == ["FAIL", "900", check.text, "2.50 s", "80", "0.100 %"]
    assert rows[2][0] == "(no tag)"
    page = html.render([judgement])
    assert "Regions, each judged by itself" in page
    assert "<far>" not in page
    assert "&lt;far&gt;" in page
