"""Capacity searches and comparisons within the report: complete, apart from each other, harmless and small."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from harness.capacity_record import CapacityRecord
from harness.comparison import Comparison
from harness.judgement import ClaimAudit, Mark, Verdict
from harness.studies import Studies
from reports import html
from reports.claim_chart import draw_claim, words
from tests import factories
from tests.conftest import Golden
from tests.hostile import STUDIED, hostile
from tests.unit.test_capacity_page import level, record
from tests.unit.test_compare_page import comparison
from tests.unit.test_report import (
    CHARTLESS,
    HOSTILE,
    assert_harmless,
    parse,
    section,
    test_headings_captions_and_images_are_named,
    test_links_lead_somewhere_and_identifiers_are_unique,
)

SMALL = (level(10, Verdict.PASS, 0.0, 1.1), level(20, Verdict.FAIL, 0.4, 3.0))
STUDIES = Studies(
    (
        record(SMALL, scenario="support-chatbot", stack="7b-t4-vllm", stack_title="7B on one T4"),
        record(scenario="support-chatbot", stack="13b-a100-vllm"),
        record((level(25, Verdict.PASS, 0.0, 1.0),), kind="rate", scenario="support-chatbot", stack="13b-a100-vllm"),
    ),
    (comparison(), comparison()),
)
CELLS = (factories.judgement(**CHARTLESS), factories.judgement(stack="13b-a100-vllm", median_s=0.9, **CHARTLESS))


@pytest.fixture(scope="module")
def page() -> str:
    return html.render(CELLS, [factories.recommendation(headroom="Room for all.")], studies=STUDIES)


def test_the_sections_are_what_they_were(page: str, golden: Golden) -> None:
    said = section(page, "capacities") + section(page, "comparisons")
    said = re.sub(r'(<svg class="chart".*?</desc>).*?</svg>', r"\1…</svg>", said, flags=re.DOTALL)
    golden("report/studies.html", said + "\n")


def test_structure_and_links_hold_with_several_of_each(page: str) -> None:
    test_links_lead_somewhere_and_identifiers_are_unique(page)
    test_headings_captions_and_images_are_named(page)


def test_the_first_screen_leads_to_each(page: str) -> None:
    summary = section(page, "summary")
    assert "50 users within the SLA" not in summary
    assert "55 users within the SLA, and 71 users no more" in summary
    assert "Cache is better in p95(E2E)" in summary
    assert 'href="#capacity-support-chatbot-7b-t4-vllm-users"' in summary
    assert summary.count(">EMULATED<") >= 5


def test_the_largest_capacity_of_a_gpu_comes_first(page: str) -> None:
    overview = section(page, "capacities").partition("</table>")[0]
    order = re.findall(r'<th scope="row"><a href="#capacity-support-chatbot-([^"]+)"', overview)
    assert order == ["13b-a100-vllm-rate", "13b-a100-vllm-users", "7b-t4-vllm-users"]
    assert re.findall(r"fails at \d+ users", overview) == ["fails at 71 users", "fails at 20 users"]


def test_headroom_is_on_the_first_screen_only_where_a_capacity_tells_it(page: str) -> None:
    assert "Room for all." in section(page, "summary")
    without = html.render(CELLS, [factories.recommendation(headroom="Room for all.")])
    assert "Room for all." not in section(without, "summary")
    assert {"capacities", "comparisons"}.isdisjoint(parse(without).values("id"))


def test_foreign_texts_stay_texts() -> None:
    found = Studies(
        tuple(CapacityRecord.model_validate(hostile(each.model_dump(), kept=STUDIED)) for each in STUDIES.capacities),
        tuple(Comparison.model_validate(hostile(each.model_dump(), kept=STUDIED)) for each in STUDIES.comparisons),
    )
    assert_harmless(html.render(CELLS, title=HOSTILE, studies=found))


def test_a_matrix_with_three_searches_and_two_comparisons_stays_small() -> None:
    cells = [factories.judgement(f"scenario-{a}", f"stack-{b}", failures=60) for a in range(3) for b in range(5)]
    page = html.render(cells, studies=STUDIES)
    assert page.count('<article class="study"') == 3 + 2 * 3
    assert len(page.encode()) < 2_000_000


def test_nothing_found_has_a_section_too() -> None:
    none = record((level(1, Verdict.FAIL, 1.0, math.inf, throughput_rps=0.0, usd_per_1000_good=None),))
    text = parse(html.render([], studies=Studies((none, record(()))))).text
    assert "none was found" in text
    assert "NaN" not in text


# Claim, floor and measurement -------------------------------------------------------------------


def audit(**changes: Any) -> ClaimAudit:
    facts = {"scenario": "s", "stack": "t", "claim_latency_s": 0.8, "floor_s": 2.1, "feasible": False, "factor": 2.625}
    return ClaimAudit.model_validate({**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "marks", "said"),
    [
        ({}, (), "Claim 800 ms is under the floor of 2.10 s by a factor of 2.62: impossible."),
        (
            {"claim_latency_s": 3.0, "feasible": True, "factor": 0.7, "measured_p50_s": 6.0},
            (),
            "Claim 3.00 s is not under the floor of 2.10 s: physics allows it. "
            "The measured median is 6.00 s, 2.00 times the claim.",
        ),
        ({"floor_s": None, "feasible": None}, (), "Claim 800 ms has no physical floor to be held against."),
        (
            {"floor_s": None, "feasible": None, "measured_p50_s": 0.8},
            (Mark.EMULATED, Mark.CLAIM_REPLAYED),
            "Claim 800 ms has no physical floor to be held against. "
            "The emulated 800 ms replays the claim and cannot confirm it.",
        ),
        ({"claim_latency_s": None, "feasible": None}, (), ""),
    ],
)
def test_claim_and_floor_in_words(changes: dict[str, Any], marks: tuple[Mark, ...], said: str) -> None:
    assert words(audit(**changes), marks).replace("\u00a0", " ") == said


def drawn(**changes: Any) -> str:
    return str(draw_claim(factories.judgement(claim=audit(**changes), **CHARTLESS), "key") or "")


def test_a_claim_is_drawn_with_its_floor_and_its_measurement() -> None:
    picture = drawn(measured_p50_s=4.2)
    texts = re.findall(r"<text[^>]*>([^<]+)</text>", picture)
    assert {"claim 800\u00a0ms", "physical floor 2.10\u00a0s", "emulated median 4.20\u00a0s"} <= set(texts)
    assert "Seconds a request" in texts
    assert "impossible." in picture.partition("</desc>")[0]


def test_far_factors_get_a_logarithmic_axis() -> None:
    assert "Seconds a request (logarithmic)" in drawn(claim_latency_s=0.1, measured_p50_s=4.2)


@pytest.mark.parametrize("changes", [{"claim_latency_s": None}, {"claim_latency_s": 0.0}])
def test_without_a_claim_nothing_is_drawn(changes: dict[str, Any]) -> None:
    assert drawn(**changes) == ""


def test_a_claim_alone_and_infinite_measurements_are_drawn() -> None:
    picture = drawn(floor_s=None, feasible=None, measured_p50_s=math.inf)
    assert "claim 800" in picture
    assert "median" not in picture
