"""A real model of 135 million parameters translates badly, and the run says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness.catalog import ROOT as CATALOG
from harness.judgement import Mark, Verdict
from servers.environments import ENVIRONMENTS, make
from tests.e2e.processes import HARNESS, Started, judgement_of
from tests.engines.scored_quality import assert_translates_as_smollm2_does
from tests.engines.standing import say, standing

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1200)]


def test_its_translations_are_scored_and_those_of_a_small_model(tmp_path: Path) -> None:
    with standing("llamacpp-smollm2", tmp_path) as server:
        assert_translates_as_smollm2_does(server, tmp_path / "run")


def test_smollm2_fails_translation_quality_and_the_report_says_so(tmp_path: Path) -> None:
    make(ENVIRONMENTS["llamacpp"], say)
    spec = yaml.safe_load((CATALOG / "scenarios" / "translation.yaml").read_text(encoding="utf-8"))
    # Its speed is another matter: a latency that it misses would end the run before it has answered enough.
    spec["sla"] = ["p95(e2e) < 30 s", "quality(chrf) > 0.45", "good_share >= 80 %"]
    own = tmp_path / "translation.yaml"
    own.write_text(yaml.safe_dump(spec), encoding="utf-8")
    run_dir = tmp_path / "run"
    # As many users as it has slots, and room for a whole sentence.
    options = ("--users", "4", "--output-tokens", "40", "--think-time", "0.2", "--run-time", "150", "--catalog", own)
    command = [*HARNESS, "run", "translation", "--stack", "llamacpp-smollm2", *options, "--run-dir", run_dir]
    ended = Started(command, tmp_path / "door").end(600)
    assert ended.code == Verdict.FAIL.exit_code, ended.err
    judgement = judgement_of(run_dir)
    assert Mark.EMULATED not in judgement.marks
    checks = {check.text: check for check in judgement.checks}
    for text in ("quality(chrf) > 0.45", "good_share >= 80 %"):
        assert checks[text].verdict is Verdict.FAIL, checks[text].reason
    found = judgement.quality
    assert found is not None
    assert found.judged >= 30
    scores = {each.scorer: each for each in found.scores}
    assert (scores["chrf"].mean or 1) < 0.35
    assert scores["chrf"].signature.startswith("nrefs:1|case:mixed")
    report = (run_dir / "report.html").read_text(encoding="utf-8")
    assert "quality(chrf) is" in report
    assert scores["chrf"].signature in report
    chrf = scores["chrf"]
    say(f"chrF {chrf.mean:.3f} ({chrf.low:.3f} to {chrf.high:.3f}) of {found.judged} answers")
    say(f"good {found.good_share:.3f}, language {scores['language'].mean:.3f}")
