"""Verdicts by region: each on its own requests, and only where there are several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.judge import judge
from harness.judgement import Judgement, Verdict
from harness.records import Sample
from tests.runs import Loop, load, scenario, write_run

FAST = Loop()


def tagged(directory: Path, tag: dict[bool, str], slow: str = "") -> Judgement:
    """Users of even and odd numbers are of two regions; all answers of one region may take three seconds more."""
    samples = [_tag(each, tag[each.user % 2 == 0], slow) for each in FAST.samples()]
    write_run(directory, samples, scenario(users=20), load(users_asked=20, users_reached=20))
    return judge(directory)


def _tag(sample: Sample, region: str, slow: str) -> Sample:
    later = 3.0 if slow and region == slow else 0.0
    return replace(sample, region=region, end_s=sample.end_s + later, last_token_s=sample.last_token_s + later)


def test_one_region_has_no_table(tmp_path: Path) -> None:
    for name in ("", "eu"):
        judgement = tagged(tmp_path / f"run{name}", {True: name, False: name})
        assert judgement.regions == ()
        assert not any("regions" in note for note in judgement.notes)


def test_each_region_is_judged_by_its_own_requests(tmp_path: Path) -> None:
    judgement = tagged(tmp_path / "run", {True: "eu", False: "us"}, slow="us")
    eu, us = judgement.regions
    assert (eu.region, us.region) == ("eu", "us")
    assert eu.requests + us.requests == judgement.load.judged
    assert eu.check == us.check == "p95(e2e) < 2 s"
    assert (eu.verdict, us.verdict) == (Verdict.PASS, Verdict.FAIL)
    assert eu.violations == 0
    assert us.violations == us.samples == us.requests
    assert eu.p_value == 1.0
    assert us.p_value is not None
    assert us.p_value < 1e-9
    assert us.value is not None
    assert us.value > 3.0
    assert any("2 regions, each also judged by itself" in note for note in judgement.notes)


def test_workers_without_a_tag_are_a_region_too(tmp_path: Path) -> None:
    judgement = tagged(tmp_path / "run", {True: "", False: "us"})
    assert [each.region for each in judgement.regions] == ["", "us"]
