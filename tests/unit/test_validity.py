"""Faults on the harness's own side: each takes the verdict away, whatever the server did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.judge import judge, read_judgement, write_judgement
from harness.judgement import Judgement, Verdict
from harness.runlog import OUTPUTS
from tests.runs import MONOTONIC, WALL, WORKER, Loop, load, loop_run, sample, scenario, write_run

FAST = Loop()
SLOW = Loop(answer=lambda rng, now: 1 + 2 * rng.random())


def judged(directory: Path, loop: Loop = FAST, **changes: Any) -> Judgement:
    loop_run(directory / "run", loop, **changes)
    return judge(directory / "run")


def test_a_late_event_loop_is_invalid(tmp_path: Path) -> None:
    worker = WORKER.model_copy(update={"samples_sent": len(FAST.samples()), "hub_lag_p99_s": 0.11})
    judgement = judged(tmp_path, workers=(worker,))
    assert judgement.verdict is Verdict.INVALID
    assert "its event loop ran late by 110 ms at p99, more than 5% of the smallest limit (100 ms)" in judgement.sentence
    assert judgement.client.hub_lag_p99_s == 0.11


def test_requests_sent_late_are_invalid(tmp_path: Path) -> None:
    samples = [replace(each, scheduled_s=each.scheduled_s - 0.2) for each in FAST.samples()]
    write_run(tmp_path, samples, scenario(users=20), load(users_asked=20, users_reached=20))
    judgement = judge(tmp_path)
    assert judgement.verdict is Verdict.INVALID
    assert any("requests were sent late by 200 ms" in reason for reason in judgement.reasons)


@pytest.mark.parametrize("loop", [FAST, SLOW])
def test_lost_samples_are_invalid_even_when_the_rest_fails(tmp_path: Path, loop: Loop) -> None:
    sent = len(loop.samples())
    lost = judged(tmp_path / "a", loop, workers=(WORKER.model_copy(update={"samples_sent": sent + 3}),))
    assert lost.verdict is Verdict.INVALID
    assert "samples and" in lost.sentence
    silent = judged(tmp_path / "b", loop, workers=(WORKER.model_copy(update={"samples_sent": None}),))
    assert silent.verdict is Verdict.INVALID
    assert "never reported its end" in silent.sentence
    facts = load(users_asked=20, users_reached=20, samples_written=sent + 1)
    unread = judged(tmp_path / "c", loop, load=facts)
    assert unread.verdict is Verdict.INVALID
    assert "can be read" in unread.sentence


def test_missing_users_are_invalid(tmp_path: Path) -> None:
    few = judged(tmp_path / "a", load=load(users_asked=25, users_reached=20))
    assert few.sentence == "INVALID: only 20 of 25 users ran."
    samples = [each for each in FAST.samples() if each.user or each.sent_s < MONOTONIC + 20]
    write_run(tmp_path / "b", samples, scenario(users=20), load(users_asked=20, users_reached=20))
    silent = judge(tmp_path / "b")
    assert silent.verdict is Verdict.INVALID
    assert "requests and think times account for 19.2 users, not the 20 asked" in silent.sentence
    assert silent.load.little_holds is False


def test_problems_and_altered_files_are_invalid(tmp_path: Path) -> None:
    assert judged(tmp_path / "a", problems=("the disk was full",)).sentence == "INVALID: the disk was full."
    loop_run(tmp_path / "b", FAST)
    (tmp_path / "b" / OUTPUTS).write_text("{}\n", encoding="utf-8")
    assert judge(tmp_path / "b").sentence == "INVALID: changed since the run was sealed: outputs.jsonl."


def test_samples_without_an_anchor_are_invalid(tmp_path: Path) -> None:
    samples = [replace(each, worker=1) for each in FAST.samples()]
    write_run(tmp_path, samples, scenario(users=20), load(users_asked=20, users_reached=20))
    judgement = judge(tmp_path)
    assert judgement.verdict is Verdict.INVALID
    assert "no clock anchor" in judgement.sentence


def test_no_samples_at_all(tmp_path: Path) -> None:
    write_run(tmp_path, [], scenario(), load())
    judgement = judge(tmp_path)
    assert judgement.verdict is Verdict.INVALID
    assert "no request was recorded (run time)" in judgement.reasons
    assert all(check.verdict is Verdict.INCONCLUSIVE for check in judgement.checks)
    write_judgement(tmp_path, judgement)
    assert read_judgement(tmp_path) == judgement


def test_nothing_judged(tmp_path: Path) -> None:
    facts = load(judged_until_s=WALL + 5, complete=False, ended_by="interrupted")
    write_run(tmp_path / "a", [sample(1.0)], scenario(), facts)
    assert judge(tmp_path / "a").sentence == (
        "INVALID: no request was issued after the warm-up of 10 s (interrupted): the run was too short."
    )
    facts = load(started_s=None, judged_until_s=None, complete=False, ended_by="spawning too slow")
    write_run(tmp_path / "b", [sample(1.0)], scenario(), facts)
    judgement = judge(tmp_path / "b")
    assert "before all 1 users were up (spawning too slow)" in judgement.sentence
    assert judgement.timeline


def test_a_doubtful_clock_is_a_note_and_no_fault(tmp_path: Path) -> None:
    sent = len(FAST.samples())
    far = {"samples_sent": sent, "host": "far", "clock_offset_s": 0.0}
    near = judged(tmp_path / "a", workers=(WORKER.model_copy(update={**far, "clock_round_trip_s": 0.19}),))
    doubtful = judged(tmp_path / "b", workers=(WORKER.model_copy(update={**far, "clock_round_trip_s": 0.25}),))
    unknown = judged(tmp_path / "c", workers=(WORKER.model_copy(update=far),))
    assert near.verdict is doubtful.verdict is unknown.verdict is Verdict.PASS
    assert not any("clock of load worker" in note for note in near.notes)
    (note,) = [note for note in doubtful.notes if "clock of load worker" in note]
    assert "0 on far is known only within 125 ms" in note
    assert "more than 5% of the smallest limit (100 ms)" in note
    assert any("load worker 0 on far was not compared with the master's" in note for note in unknown.notes)
