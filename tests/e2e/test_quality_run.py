"""A tenth of the answers is spoiled under load, and the run says so within its interval."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from harness.catalog import ROOT as CATALOG
from harness.judgement import Judgement, QualitySummary, Verdict
from harness.quality_file import QUALITY
from harness.runlog import RunReader
from tests.e2e.processes import HARNESS, LONGEST_S, Ended, judgement_of, server_started, started, unstarved

SPOILED = 0.1
KEY = {"OPENAI_API_KEY": "sk-right-key-0123456789"}


class Left(NamedTuple):
    run_dir: Path
    judgement: Judgement
    spoiled: dict[str, bool]

    @property
    def quality(self) -> QualitySummary:
        assert self.judgement.quality is not None, self.judgement.quality_note
        return self.judgement.quality


def door(folder: Path, *arguments: str | Path) -> Ended:
    """A command that also scores: seconds, but minutes on a machine with other work."""
    with started([*HARNESS, *arguments], folder, KEY) as command:
        return command.end(3 * LONGEST_S)


def own_scenario(folder: Path) -> Path:
    """The catalog's translation with few users, a slow limit and half of the texts kept."""
    spec = yaml.safe_load((CATALOG / "scenarios" / "translation.yaml").read_text(encoding="utf-8"))
    spec["sla"] = ["p95(e2e) < 4 s", "good_share >= 99 %", "quality(chrf) > 0.45", "goodput > 1 req/s"]
    spec["workload"]["output_share"] = 0.5
    path = folder / "translation.yaml"
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    folder = tmp_path_factory.mktemp("quality")
    catalog = own_scenario(folder)
    own = ("--users", "10", "--think-time", "0.2", "--run-time", "8", "--model", "like-gpt", "--catalog", catalog)
    seen: list[dict[str, bool]] = []

    def play(run_dir: Path) -> Judgement:
        command = [sys.executable, "-m", "tests.translating", "--spoil", str(SPOILED)]
        with server_started(command, folder / f"server-{len(seen)}") as url:
            door(folder / f"door-{len(seen)}", "run", "translation", "--attach", url, *own, "--run-dir", run_dir)
            with urllib.request.urlopen(f"{url}/spoiled", timeout=10) as answer:
                seen.append(json.load(answer))
        return judgement_of(run_dir)

    run_dir, judgement = unstarved(play, folder)
    return Left(run_dir, judgement, seen[-1])


def test_the_share_of_good_answers_is_found_within_its_interval(left: Left) -> None:
    sent = list(left.spoiled.values())
    truth = 1 - sum(sent) / len(sent)
    found = left.quality
    assert found.good_low is not None
    assert found.good_high is not None
    assert abs((1 - truth) - SPOILED) < 0.05, "the server spoils what it should"
    # Each bound misses the truth once in twenty: a margin of a further 3% makes that once in many thousands.
    assert found.good_low - 0.03 <= truth <= found.good_high + 0.03
    assert found.good_high - found.good_low < 0.15, "an interval that says something"
    assert found.late == 0


def test_each_spoiled_answer_that_was_kept_is_known_by_name(left: Left) -> None:
    """All that the texts can say: every spoiled one is not acceptable, and every whole one is."""
    from harness.quality_join import joined

    reader = RunReader(left.run_dir)
    scored, _ = joined(left.run_dir, reader.manifest, reader.samples())
    names = [
        f"{reader.manifest.run}/{row['worker']}/{row['user']}/{row['sequence']}"
        for row in reader.samples().select(["worker", "user", "sequence"]).to_pylist()
    ]
    kept = {names[row]: bool(good) for row, good in zip(scored.rows, scored.acceptable, strict=True)}  # type: ignore[union-attr]
    answered = {name: good for name, good in kept.items() if name in left.spoiled}
    wrong = {name for name, good in answered.items() if good == left.spoiled[name]}
    assert len(answered) > 100
    assert len(wrong) <= 0.02 * len(answered), "but for a sentence too short to have a language"


def test_the_checks_and_the_goodput_know_it(left: Left) -> None:
    judgement, found = left.judgement, left.quality
    checks = {check.text: check for check in judgement.checks}
    assert checks["good_share >= 99 %"].verdict is Verdict.FAIL
    assert checks["quality(chrf) > 0.45"].verdict is Verdict.PASS
    assert checks["p95(e2e) < 4 s"].verdict is Verdict.PASS
    assert judgement.verdict is Verdict.FAIL
    assert judgement.slo_attainment == 1.0, "of latencies alone"
    rate = judgement.load.throughput_rps
    assert rate is not None
    assert judgement.goodput_rps == pytest.approx(rate * (found.acceptable_on_time or 0), rel=0.03)
    assert checks["goodput > 1 req/s"].value == pytest.approx(judgement.goodput_rps, rel=0.1)
    assert 0.4 < found.scored_share < 0.6


def test_scoring_again_gives_the_same_bytes_and_says_what_it_found(left: Left, tmp_path: Path) -> None:
    before = (left.run_dir / QUALITY).read_bytes()
    ended = door(tmp_path, "score", left.run_dir)
    assert ended.code == 0, ended.err
    assert (left.run_dir / QUALITY).read_bytes() == before
    assert "good: " in ended.out
    assert "nrefs:1|case:mixed|eff:yes|nc:6" in ended.out
    assert "nrefs:1|case:mixed|eff:yes|nc:6" in (left.run_dir / "report.html").read_text(encoding="utf-8")


def test_fewer_answers_are_spread_over_the_run(left: Left, tmp_path: Path) -> None:
    ended = door(tmp_path / "few", "score", left.run_dir, "--most", "60", "--json")
    (found,) = json.loads(ended.out)
    assert found["quality"]["scored"] == 60
    assert found["quality"]["kept"] == left.quality.kept
    door(tmp_path / "all", "score", left.run_dir)
