"""Scores beside samples: what is good, how sure that is, and what is not measured."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.judge import judge
from harness.judgement import CheckResult, Judgement, Mark, Verdict
from harness.manifest import Manifest
from harness.objective import SCORES
from harness.quality_evidence import design_effect, mean_interval
from harness.quality_file import QUALITY, SCHEMA, ScoringFacts, read_quality, write_quality
from harness.quality_run import ensure_scored, spread_over_time
from harness.records import Outcome, Sample, ServerFacts
from harness.runlog import OUTPUTS, RunReader, file_digest, seal
from harness.spec import Scenario
from tests.runs import failed, load, sample, scenario, stack, write_run

OPEN = load(loop="open", users_asked=0)
"""Requests at their own times, so that no users have to be accounted for."""
SLA = ("p95(e2e) < 2 s", "quality(chrf) > 0.45", "good_share >= 90 %")


def spec(*sla: str, **quality: float) -> Scenario:
    """A user's own prompts, with what is acceptable."""
    made = scenario(*(sla or SLA), users=1, kind="dataset", data="mine.jsonl")
    own = {"acceptable": quality or {"chrf": 0.3}, "reason": "a test"}
    return Scenario.model_validate({**made.model_dump(mode="json"), "quality": own})


def scored_run(
    directory: Path,
    samples: list[Sample],
    chrf: list[float | None],
    asked: Scenario | None = None,
    prompts: list[str] | None = None,
    **changes: Any,
) -> Manifest:
    """A run of which every text was kept and scored by somebody who gave it this chrF."""
    manifest = write_run(directory, samples, asked or spec(), OPEN, **changes)
    names = prompts or [f"p{place}" for place in range(len(samples))]
    (directory / OUTPUTS).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    manifest = seal(directory, manifest)
    rows = [
        {"worker": each.worker, "user": each.user, "sequence": each.sequence, "prompt_id": name, "split": ""}
        | {"says_something": value is not None, "chrf": value}
        for each, name, value in zip(samples, names, chrf, strict=True)
    ]
    facts = ScoringFacts(
        outputs_digest=file_digest(directory / OUTPUTS), kept=len(rows), scored=len(rows), seed=1,
        signatures={"chrf": "nrefs:1"}, corpus={"chrf": 0.5},
    )  # fmt: skip
    write_quality(directory, pa.Table.from_pylist(rows, schema=SCHEMA), facts)
    return manifest


def answers(count: int, e2e: float = 1.0, start: int = 0) -> list[Sample]:
    """One user's requests, one after another, over the whole judged window."""
    return [sample(11 + 0.2 * (start + each), e2e, user=0, sequence=start + each) for each in range(count)]


def check(judgement: Judgement, text: str) -> CheckResult:
    return next(each for each in judgement.checks if each.text == text)


def quality_verdicts(tmp_path: Path, samples: list[Sample], chrf: list[float | None], **changes: Any) -> Judgement:
    scored_run(tmp_path / "run", samples, chrf, **changes)
    return judge(tmp_path / "run")


# The checks ----------------------------------------------------------------------------------


def test_good_answers_pass(tmp_path: Path) -> None:
    rng = random.Random(1)
    found = quality_verdicts(tmp_path, answers(200), [rng.uniform(0.5, 0.7) for _ in range(200)])
    assert [each.verdict for each in found.checks] == [Verdict.PASS] * 3
    quality = found.quality
    assert quality is not None
    assert (quality.judged, quality.good, quality.not_acceptable, quality.late) == (200, 200, 0, 0)
    assert quality.good_share == quality.acceptable_on_time == quality.scored_share == 1.0
    (score,) = [each for each in quality.scores if each.scorer == "chrf"]
    assert score.mean == pytest.approx(0.6, abs=0.02)
    assert (score.samples, score.below, score.signature, score.corpus) == (200, 0, "nrefs:1", 0.5)
    assert "Acceptable: a test" in found.quality_note


def test_rubbish_on_time_fails(tmp_path: Path) -> None:
    found = quality_verdicts(tmp_path, answers(200), [0.1] * 200)
    assert found.verdict is Verdict.FAIL
    assert [each.verdict for each in found.checks] == [Verdict.PASS, Verdict.FAIL, Verdict.FAIL]
    assert found.slo_attainment == 1.0
    assert found.goodput_rps == 0.0
    assert "0 late or failed, 200 on time and not acceptable" in check(found, "good_share >= 90 %").reason


def test_late_and_failed_requests_are_not_good_and_failed_ones_score_nothing(tmp_path: Path) -> None:
    late = answers(10, e2e=3.0, start=150)
    lost = [failed(60 + 0.1 * place, user=0, sequence=500 + place) for place in range(40)]
    found = quality_verdicts(tmp_path, [*answers(150), *late, *lost], [0.6] * 200)
    quality = found.quality
    assert quality is not None
    assert (quality.good, quality.late, quality.not_acceptable) == (150, 50, 0)
    assert check(found, "quality(chrf) > 0.45").value == pytest.approx(0.6 * 160 / 200)
    assert check(found, "good_share >= 90 %").value == 0.75


def test_a_request_that_is_not_over_decides_nothing(tmp_path: Path) -> None:
    pending = [failed(99.5, 0.2, Outcome.IN_FLIGHT, user=1, sequence=place) for place in range(60)]
    found = quality_verdicts(tmp_path, [*answers(100), *pending], [0.6] * 160)
    assert check(found, "good_share >= 90 %").verdict is Verdict.INCONCLUSIVE
    assert check(found, "good_share >= 90 %").samples == 100
    assert check(found, "quality(chrf) > 0.45").verdict is Verdict.INCONCLUSIVE
    assert "not over" in check(found, "quality(chrf) > 0.45").reason


def test_few_answers_decide_nothing(tmp_path: Path) -> None:
    found = quality_verdicts(tmp_path, answers(12), [0.0] * 12)
    mean = check(found, "quality(chrf) > 0.45")
    assert (mean.verdict, mean.more_samples) == (Verdict.INCONCLUSIVE, 18)


def test_cost_and_goodput_count_good_requests(tmp_path: Path) -> None:
    paid = stack(
        price={"kind": "tokens", "usd_per_million_input": 1, "usd_per_million_output": 1, "source": {"text": "t"}}
    )
    samples = answers(200)
    all_good = quality_verdicts(tmp_path / "a", samples, [0.6] * 200, stack=paid)
    half = quality_verdicts(tmp_path / "b", samples, [0.6, 0.1] * 100, stack=paid)
    assert half.goodput_rps == pytest.approx(0.5 * (all_good.goodput_rps or 0))
    assert all_good.cost is not None
    assert half.cost is not None
    assert half.cost.usd_per_1000_good == pytest.approx(2 * (all_good.cost.usd_per_1000_good or 0))
    assert half.cost.usd_per_query == all_good.cost.usd_per_query


def test_the_goodput_check_counts_good_requests_on_the_scored_share(tmp_path: Path) -> None:
    asked = spec("goodput > 1 req/s", "p95(e2e) < 2 s")
    samples = answers(400)
    scored_run(tmp_path / "run", samples, [0.6, 0.1] * 200, asked)
    table, facts = read_quality(tmp_path / "run") or pytest.fail("no scores")
    write_quality(tmp_path / "run", table.slice(0, 200), facts)  # the first half alone
    found = judge(tmp_path / "run")
    every = check(found, "goodput > 1 req/s").value
    assert every == pytest.approx(found.goodput_rps, rel=0.05)
    assert found.quality is not None
    assert found.quality.scored_share == pytest.approx(0.5)


# How sure it is --------------------------------------------------------------------------------


def test_answers_to_one_prompt_count_for_less(tmp_path: Path) -> None:
    """The same 20 prompts ten times: what is wrong with four of them is wrong forty times."""
    names = [f"p{place % 20}" for place in range(200)]
    chrf: list[float | None] = [0.1 if place % 20 < 4 else 0.6 for place in range(200)]
    alike = quality_verdicts(tmp_path / "a", answers(200), chrf, prompts=names).quality
    shuffled = random.Random(1).sample(chrf, 200)
    apart = quality_verdicts(tmp_path / "b", answers(200), shuffled).quality
    assert alike is not None
    assert apart is not None
    assert alike.good_share == apart.good_share == 0.8
    assert (alike.good_high or 0) - (alike.good_low or 0) > 2 * ((apart.good_high or 0) - (apart.good_low or 0))


def test_a_design_effect_is_that_of_whole_clusters() -> None:
    one = np.arange(400)
    clusters = np.repeat(np.arange(40), 10)
    violating = np.repeat(np.arange(40) < 10, 10)
    assert design_effect(violating, one, one) == pytest.approx(1, abs=0.01)
    assert design_effect(violating, clusters, one) == pytest.approx(10, rel=0.05)
    assert design_effect(np.zeros(400, dtype=bool), clusters, one) == 1


def test_the_interval_of_a_mean_covers_the_truth_as_often_as_it_says() -> None:
    """300 answers to 60 prompts that differ; 600 repetitions, one-sided 95% each: 19 in 20, give or take 5 sigma."""
    rng = np.random.default_rng(1)
    clusters, blocks = np.repeat(np.arange(60), 5), np.arange(300) * 20 // 300
    above = below = 0
    for _ in range(600):
        values = np.clip(0.5 + rng.normal(0, 0.1, 60)[clusters] + rng.normal(0, 0.05, 300), 0, 1)
        _, low, high = mean_interval(values, clusters, rng.permutation(blocks), 0.95)
        assert low is not None
        assert high is not None
        above += low > 0.5
        below += high < 0.5
    for missed in (above, below):
        assert missed <= 30 + 5 * (600 * 0.05 * 0.95) ** 0.5
    assert above + below > 10, "an interval that is never wrong is too wide"


# What is not measured --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"server": ServerFacts(emulated=True, calibration="claims")}, "an emulator's answers say nothing of a model"),
        ({"shortened_from": 200}, "answers were cut at 11 tokens, where the scenario allows 200"),
    ],
)
def test_it_is_said_and_left_out_of_the_verdict(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    claimed = stack(quality={"test": "good"})
    found = quality_verdicts(tmp_path, answers(200), [0.0] * 200, stack=claimed, **changes)
    assert found.quality is None
    assert [each.verdict for each in found.checks] == [Verdict.PASS, Verdict.NOT_MEASURED, Verdict.NOT_MEASURED]
    assert why in found.quality_note
    assert "'good' is the stack's own claim; left out of the verdict" in found.quality_note
    assert all(why in each.reason for each in found.checks[1:])
    assert found.verdict is Verdict.PASS
    assert ensure_scored(tmp_path / "run") is None


def test_forced_lengths_are_not_scored(tmp_path: Path) -> None:
    forced = spec().model_copy(update={"workload": spec().workload.model_copy(update={"output_length": "forced"})})
    found = quality_verdicts(tmp_path, answers(200), [0.0] * 200, asked=forced)
    assert Mark.FORCED_LENGTH in found.marks
    assert found.quality_note.startswith("NOT MEASURED because answers of a forced length")


def test_prompts_that_say_nothing_to_check_by(tmp_path: Path) -> None:
    found = quality_verdicts(tmp_path, answers(200), [None] * 200)
    assert "the prompts do not say what an acceptable answer has" in found.quality_note
    assert found.verdict is Verdict.PASS
    other = quality_verdicts(
        tmp_path / "b", answers(200), [0.6] * 200, asked=spec("p95(e2e) < 2 s", "quality(facts) > 0.5")
    )
    assert other.checks[1].verdict is Verdict.NOT_MEASURED
    assert "no prompt of this run says anything to check facts by" in other.checks[1].reason


def test_scores_of_other_answers_are_not_used(tmp_path: Path) -> None:
    manifest = scored_run(tmp_path, answers(200), [0.0] * 200)
    (tmp_path / OUTPUTS).write_text("others\n", encoding="utf-8")
    seal(tmp_path, manifest)
    found = judge(tmp_path)
    assert found.quality is None
    assert "the scores are of other answers" in found.quality_note


def test_a_damaged_file_is_said_and_the_rest_is_judged(tmp_path: Path) -> None:
    scored_run(tmp_path, answers(200), [0.0] * 200)
    (tmp_path / QUALITY).write_bytes(b"PAR1")
    found = judge(tmp_path)
    assert "is damaged" in found.quality_note
    assert found.checks[0].verdict is Verdict.PASS


def test_drift_is_said_before_what_was_not_measured(tmp_path: Path) -> None:
    slow = [
        sample(11 + 0.4 * each, (0.5 if each < 100 else 0.8) + 0.001 * (each % 7), user=0, sequence=each)
        for each in range(200)
    ]
    write_run(tmp_path / "run", slow, spec(), OPEN)
    found = judge(tmp_path / "run")
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reasons[0].startswith("drift")
    assert "not measured" in found.reasons[-1]


# Scoring ---------------------------------------------------------------------------------------


def test_a_run_is_scored_in_processes_and_the_same_way_twice(tmp_path: Path) -> None:
    samples = answers(60)
    manifest = write_run(tmp_path, samples, spec(), OPEN, seeds={"outputs": 3})
    expected = {"kind": "translation", "reference": ["Wo ist der Bahnhof?"], "target_language": "de"}
    with (tmp_path / OUTPUTS).open("w", encoding="utf-8") as file:
        for place, each in enumerate(samples):
            text = "Wo ist der Bahnhof?" if place % 3 else "Where is the station?"
            line = {"request": each.request_id, "prompt_id": "s/de", "prompt": "Where is the station?"}
            file.write(json.dumps(line | {"expected": expected, "text": text, "finish_reason": "stop"}) + "\n")
    seal(tmp_path, manifest)
    facts = ensure_scored(tmp_path)
    assert facts is not None
    assert (facts.kept, facts.scored, facts.seed) == (60, 60, 3)
    assert facts.signatures["chrf"].startswith("nrefs:1|case:mixed")
    first = (tmp_path / QUALITY).read_bytes()
    assert ensure_scored(tmp_path) == facts
    ensure_scored(tmp_path, again=True)
    assert (tmp_path / QUALITY).read_bytes() == first
    found = judge(tmp_path)
    assert found.quality is not None
    assert (found.quality.good, found.quality.not_acceptable) == (40, 20)
    assert {each.scorer for each in found.quality.scores} <= set(SCORES)
    assert RunReader(tmp_path).altered_files() == ()


@pytest.mark.parametrize("most", [1, 7, 100, 999])
def test_a_sample_is_seeded_and_spread_over_time(most: int) -> None:
    outputs = [{"n": place} for place in range(1000)]
    at_s = list(range(1000))
    random.Random(5).shuffle(at_s)
    chosen = spread_over_time(outputs, at_s, most, seed=1)
    assert len({each["n"] for each in chosen}) == most
    assert chosen == spread_over_time(outputs, at_s, most, seed=1)
    assert chosen != spread_over_time(outputs, at_s, most, seed=2)
    if most == 100:
        moments = sorted(at_s[each["n"]] for each in chosen)
        assert [moment // 20 for moment in moments] == sorted([*range(50)] * 2), "two of each fiftieth of the run"
    assert spread_over_time(outputs, at_s, 1000, seed=1) == outputs


def test_a_scorer_that_crashes_is_said_and_the_run_is_judged(tmp_path: Path) -> None:
    samples = answers(200)
    manifest = write_run(tmp_path, samples, spec("p95(e2e) < 2 s"), OPEN)
    broken = {"request": samples[0].request_id, "prompt_id": "p", "prompt": "x", "finish_reason": "stop", "text": 5}
    (tmp_path / OUTPUTS).write_text(json.dumps(broken | {"expected": {"reference": "y"}}) + "\n", encoding="utf-8")
    seal(tmp_path, manifest)
    done = CliRunner().invoke(app, ["judge", str(tmp_path)])
    assert done.exit_code == 0
    assert "answers were not scored: scoring ended with exit code 1" in done.stderr
    assert "PASS" in done.stdout
    found = judge(tmp_path)
    assert found.quality_note.startswith("NOT MEASURED because answers were not scored")
