"""The slowest requests of a run whose times are known."""

from __future__ import annotations

from pathlib import Path

from harness.judge import judge
from harness.records import Outcome
from tests.runs import failed, load, sample, scenario, unfinished, write_run

ISSUED_S = 20.0


def test_the_longest_come_first_whatever_became_of_them(tmp_path: Path) -> None:
    samples = [sample(ISSUED_S + place, 0.5 + place / 10, user=place, prompt_id=f"p{place}") for place in range(30)]
    samples += [
        failed(ISSUED_S, 30.0, Outcome.TIMEOUT, user=40, prompt_id="late"),
        unfinished(ISSUED_S, 10.0, user=41, sequence=3),
        sample(1.0, 8.0, user=42),  # over before warm-up was: not judged
    ]
    write_run(tmp_path / "run", samples, scenario(), load())
    found = judge(tmp_path / "run").slowest
    assert len(found) == 10
    assert [round(each.took_s, 6) for each in found[:4]] == [30.0, 10.0, 3.4, 3.3]
    assert [each.request_id for each in found[:3]] == ["r/0/40/0", "r/0/41/3", "r/0/29/0"]
    first, second, third = found[:3]
    assert (first.outcome, first.prompt_id, first.ttft_s, first.output_tokens) == ("timeout", "late", None, 0)
    assert (second.outcome, second.ttft_s) == ("in_flight", None)
    assert third.ttft_s is not None
    assert (round(third.issued_s, 6), round(third.ttft_s, 6), third.output_tokens) == (49.0, 0.34, 11)


def test_whole_answers_have_no_first_token(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [sample(ISSUED_S, 1.0)], scenario(), load(), stream=False)
    assert [each.ttft_s for each in judge(tmp_path / "run").slowest] == [None]


def test_nothing_judged_nothing_slow(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [sample(5.0, 1.0)], scenario(), load())
    assert judge(tmp_path / "run").slowest == ()
