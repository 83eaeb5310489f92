"""What a run's certificate does to its verdict, and how it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.certificate import Certificate, Spread
from harness.errors import RunDirectoryError
from harness.judge import judge
from harness.judgement import Judgement, Verdict
from harness.runlog import CERTIFICATE, RunReader, read_certificate, seal, write_certificate
from reports.html import render
from tests.runs import Loop, loop_run

FAST = Loop()
SLOW = Loop(answer=lambda rng, now: 2 + rng.random())
RATE_PER_S = 1e4


def spread(size_s: float) -> Spread:
    return Spread(**dict.fromkeys(Spread.model_fields, size_s))


def judged(directory: Path, loop: Loop = FAST, **facts: Any) -> Judgement:
    made = {"ttft": spread(0.001), "e2e": spread(0.002), "requests": 50, "events_per_s": RATE_PER_S, "headroom": 7.0}
    manifest = loop_run(directory, loop)
    write_certificate(directory, Certificate(**{**made, **facts}))
    seal(directory, manifest)
    return judge(directory)


def test_a_good_certificate_changes_nothing_and_is_shown(tmp_path: Path) -> None:
    judgement = judged(tmp_path)
    assert judgement.verdict is Verdict.PASS
    assert judgement.client.certificate == read_certificate(tmp_path)
    page = render([judgement], [], [], title="A test")
    assert "Own error of E2E, p50 / p99" in page
    assert "7 times the rate needed" in page


@pytest.mark.parametrize("loop", [FAST, SLOW])
def test_an_error_above_five_percent_of_a_limit_is_invalid_whatever_the_server_did(tmp_path: Path, loop: Loop) -> None:
    judgement = judged(tmp_path, loop, e2e=spread(0.101))
    assert judgement.verdict is Verdict.INVALID
    assert judgement.sentence.startswith(
        "INVALID: the load generator's own error of p95(e2e) was 101 ms before the run"
    )
    assert "use more processes (--processes), more hosts (--worker), or fewer users per process" in judgement.sentence


def test_a_run_faster_than_its_certificate_is_invalid(tmp_path: Path) -> None:
    judgement = judged(tmp_path, events_per_s=10.0)
    assert judgement.verdict is Verdict.INVALID
    assert "the load generator was certified for 10: use more processes" in judgement.sentence


def test_a_failed_rehearsal_is_invalid(tmp_path: Path) -> None:
    judgement = judged(tmp_path, problem="a load process did not answer", ttft=None, e2e=None)
    assert judgement.sentence == "INVALID: the load generator could not be certified: a load process did not answer."


def test_a_skipped_reused_or_absent_certificate_is_a_note(tmp_path: Path) -> None:
    skipped = judged(tmp_path / "a", skipped="few users", ttft=None, e2e=None, events_per_s=0.0)
    assert skipped.verdict is Verdict.PASS
    assert "the load generator was not certified: few users" in skipped.notes
    reused = judged(tmp_path / "b", reused_from="chatbot--x", age_s=12.3)
    assert any("that of chatbot--x, of the same shape on this host, 12 s before" in note for note in reused.notes)
    loop_run(tmp_path / "c", FAST)
    assert any("has no certificate.json" in note for note in judge(tmp_path / "c").notes)


def test_it_is_sealed(tmp_path: Path) -> None:
    judged(tmp_path)
    assert CERTIFICATE in RunReader(tmp_path).manifest.digests
    write_certificate(tmp_path, Certificate())
    assert judge(tmp_path).sentence == f"INVALID: changed since the run was sealed: {CERTIFICATE}."


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1, "surprise": 2}', '{"format": 99}'])
def test_a_damaged_one_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / CERTIFICATE).write_text(text, encoding="utf-8")
    with pytest.raises(RunDirectoryError, match=CERTIFICATE):
        read_certificate(tmp_path)
