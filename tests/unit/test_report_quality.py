"""Quality in the report: a cell's scores, what is only claimed, and how it goes with load."""

from __future__ import annotations

from typing import Any

from harness.capacity_record import CapacityRecord
from harness.judgement import Judgement, LlmJudgeSummary, QualitySummary, ScoreSummary
from harness.level import level_result
from reports import quality
from reports.html import render
from reports.quality_text import lines
from tests.factories import judgement
from tests.unit.test_capacity_page import page, record

SIGNATURE = "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0"


def summary(**changes: Any) -> QualitySummary:
    facts: dict[str, Any] = {
        "kept": 480,
        "scored": 480,
        "judged": 400,
        "scored_share": 0.2,
        "prompts": 180,
        "good": 312,
        "late": 40,
        "not_acceptable": 48,
        "good_share": 0.78,
        "good_low": 0.742,
        "good_high": 0.815,
        "acceptable_on_time": 0.867,
        "scores": (
            ScoreSummary(
                scorer="chrf", mean=0.512, low=0.49, high=0.534, samples=400, limit=0.3, below=31, corpus=0.527,
                signature=SIGNATURE,
            ),
            ScoreSummary(scorer="language", mean=0.97, low=0.95, high=0.99, samples=390, limit=1.0, below=12),
            ScoreSummary(scorer="complete", mean=None, samples=0),
        ),
    }  # fmt: skip
    return QualitySummary(**{**facts, **changes})


def measured(users: int = 100, **changes: Any) -> Judgement:
    return judgement(users=users, marks=(), quality=summary(**changes), quality_note="Acceptable: chrF of 0.3 or more.")


def test_a_cell_shows_every_score_with_its_signature() -> None:
    page = render([measured()])
    for text in (SIGNATURE, "0.512", "0.490 to 0.534", "chrF of the answer against its references", "52.7"):
        assert text in page
    assert "78.0\u00a0% (74.2\u00a0% to 81.5\u00a0%)" in page
    assert "Acceptable: chrF of 0.3 or more." in page
    assert "On time, not acceptable" in page


def test_what_was_not_measured_is_the_claims_word_and_marked_so() -> None:
    page = render([judgement(quality=None, quality_note="NOT MEASURED because an emulator's answers say nothing")])
    assert "Claimed" in page
    assert "sufficient" in page
    assert "NOT MEASURED because an emulator" in page
    assert "On time and acceptable" not in page


def test_the_judge_model_is_shown_with_its_agreement() -> None:
    told = LlmJudgeSummary(
        model="<judge>", prompt_digest="sha256:x", asked=100, judged=98, mean=0.7, low=0.65, high=0.75, wins=0.4,
        agreement=0.91, spent_usd=0.12, cap_usd=1.0, stopped="stopped before the cap of $1",
    )  # fmt: skip
    page = render([measured(llm_judge=told)])
    assert "Judge &lt;judge&gt;" in page
    assert "91.0\u00a0%" in page
    assert "stopped before the cap" in page
    assert any("both orders agree on 91.0" in line for line in lines(measured(llm_judge=told)))


def test_quality_against_load_is_drawn_where_a_stack_ran_under_more_than_one() -> None:
    runs = [measured(users, good_share=share, good_low=None) for users, share in ((20, 0.9), (100, 0.7), (50, 0.8))]
    (figure,) = quality.figures_over_load(runs)
    assert "Quality against load" in figure.title
    assert {key.text for key in figure.keys} == {"on time and acceptable", "acceptable of those on time", "mean chrf"}
    page = render(runs)
    assert 'id="quality"' in page
    assert 'href="#quality"' in page
    assert "<svg" in str(figure.image)


def test_quality_against_the_levels_of_a_capacity_search() -> None:
    """Answers that are cut off as users rise: on time as before, and no longer good."""
    shares = {20: 0.95, 40: 0.9, 80: 0.4}
    judged = [
        measured(
            users,
            good_share=share,
            acceptable_on_time=share,
            scores=(ScoreSummary(scorer="complete", mean=share, samples=400), ScoreSummary(scorer="chrf", samples=0)),
        )
        for users, share in shares.items()
    ]
    levels = tuple(level_result(each.load.users, f"level-{each.load.users}", each, 100.0, "e2e") for each in judged)
    assert [each.quality and each.quality.means for each in levels] == [
        {"complete": share} for share in shares.values()
    ]
    found = record(levels)
    (figure,) = quality.figures_over_levels(found, "a")
    assert "mean complete" in {key.text for key in figure.keys}
    assert "Quality against load: 13b-a100 in chatbot" in page(found)
    assert CapacityRecord.model_validate_json(found.model_dump_json()) == found
    assert quality.figures_over_levels(record(levels[:1]), "a") == ()
    emulated = level_result(20, "level-20", judgement(quality=None), 100.0, "e2e")
    assert emulated.quality is None
    assert "Quality against load" not in page(record())


def test_one_load_or_another_stack_is_no_course() -> None:
    assert quality.figures_over_load([measured(20), measured(20)]) == ()
    other = judgement(stack="other", users=50, quality=summary())
    assert quality.figures_over_load([measured(20), other]) == ()
    assert quality.figures_over_load([measured(20), judgement(users=50, quality=None)]) == ()
    assert 'id="quality"' not in render([measured(20)])


def test_lines_for_a_terminal() -> None:
    told = "\n".join(lines(measured()))
    assert f"chrf: 0.512 (0.490 to 0.534) of 400; 31 under 0.3; corpus 52.7 ({SIGNATURE})" in told
    assert "400 judged answers to 180 prompts, of 480 kept and 480 scored" in told
    (_, why) = lines(judgement(quality=None, quality_note="NOT MEASURED because of a test"))
    assert why.strip() == "NOT MEASURED because of a test"
