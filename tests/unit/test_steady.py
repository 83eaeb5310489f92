"""Warm-up and drift: what is cut, what is not, and what a run that changed is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.judge import judge
from harness.judgement import Judgement, Verdict
from harness.metrics import FloatArray, Requests, Window, read_requests
from harness.records import Sample
from harness.steady import mser, warm_up_end_s
from tests.runs import WORKER, failed, load, sample, scenario, table, write_run

WINDOW = Window(10.0, 100.0)


def requests_of(made: list[Sample]) -> Requests:
    return read_requests(table(made), [WORKER], load())


def run_of(latency: Callable[[float], float], count: int = 900, seed: int = 1) -> list[Sample]:
    """``count`` requests, evenly from 1 s to 102 s, each ``latency(now)`` with 10% noise."""
    rng = np.random.default_rng(seed)
    return [
        sample(float(now), float(latency(now) * rng.uniform(0.9, 1.1)), user=index)
        for index, now in enumerate(np.linspace(1, 102, count))
    ]


def judged(directory: Path, made: list[Sample], *sla: str) -> Judgement:
    write_run(directory, made, scenario(*(sla or ("p95(e2e) < 2 s",))), load(loop="open"))
    return judge(directory)


def test_mser_drops_what_differs() -> None:
    steady: FloatArray = np.tile([1.0, 1.1, 0.9, 1.05], 25)
    assert mser(np.r_[np.full(7, 5.0), steady]) == 7
    assert mser(np.ones(100)) == 0
    assert mser(np.ones(1)) == mser(np.zeros(0)) == 0


def test_a_slow_start_is_cut(tmp_path: Path) -> None:
    made = run_of(lambda now: 3.0 if now < 22 else 1.0)
    assert warm_up_end_s(requests_of(made), WINDOW) == pytest.approx(25, abs=0.6)
    judgement = judged(tmp_path, made)
    assert judgement.verdict is Verdict.PASS
    assert judgement.warm_up_s == pytest.approx(25, abs=0.6)
    assert judgement.window == (judgement.warm_up_s, 100.0)
    assert "after the profile's 10 s latencies still differed" in judgement.warm_up_note


def test_a_steady_run_keeps_its_window(tmp_path: Path) -> None:
    judgement = judged(tmp_path, run_of(lambda now: 1.0))
    assert judgement.window == (10.0, 100.0)
    assert judgement.warm_up_note == "10 s, the profile's; the run was steady by then"


def test_steady_noise_is_rarely_cut() -> None:
    """A cut of steady data would drop slow spells that belong to the result."""
    cut = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        made = requests_of([])
        issued = np.sort(rng.uniform(10, 100, 600))
        values = rng.lognormal(0, 0.5, 600)
        cut += warm_up_end_s(_requests(made, issued, values), WINDOW) > WINDOW.low_s
    assert cut <= 2


def _requests(like: Requests, issued_s: FloatArray, values: FloatArray) -> Requests:
    ok = np.ones(len(values), dtype=bool)
    return replace(like, issued_s=issued_s, values={"e2e": values}, ok=ok, unfinished=~ok)


def test_what_changes_late_is_no_warm_up() -> None:
    made = run_of(lambda now: 3.0 if now < 60 else 1.0)
    assert warm_up_end_s(requests_of(made), WINDOW) == WINDOW.low_s


def test_failures_are_never_cut() -> None:
    made = run_of(lambda now: 3.0 if now < 22 else 1.0)
    assert warm_up_end_s(requests_of([*made, failed(15.0)]), WINDOW) == WINDOW.low_s


def test_few_requests_are_never_cut() -> None:
    made = run_of(lambda now: 3.0 if now < 22 else 1.0, count=60)
    assert warm_up_end_s(requests_of(made), WINDOW) == WINDOW.low_s


def test_growth_into_violation_fails(tmp_path: Path) -> None:
    """A queue that grows: the first half keeps the limit, the second breaks it."""
    judgement = judged(tmp_path, run_of(lambda now: 0.5 + 3.0 * max(0.0, now - 50) / 50))
    assert judgement.verdict is Verdict.FAIL


def test_a_late_break_fails_though_the_whole_run_might_pass(tmp_path: Path) -> None:
    """30% of the second half violate a p80 check: 15% of the whole."""
    rng = np.random.default_rng(3)
    made = [
        sample(float(now), 3.0 if now > 55 and rng.random() < 0.32 else 1.0, user=index)
        for index, now in enumerate(np.linspace(1, 102, 2000))
    ]
    judgement = judged(tmp_path, made, "p80(e2e) < 2 s")
    assert judgement.checks[0].verdict is not Verdict.FAIL
    assert judgement.verdict is Verdict.FAIL
    assert "is kept in the first half of the judged window and broken in the second" in judgement.sentence


def test_growth_without_violations_is_inconclusive(tmp_path: Path) -> None:
    judgement = judged(tmp_path, run_of(lambda now: 0.3 if now < 55 else 0.5))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.sentence.startswith("INCONCLUSIVE: drift: the median e2e grew from 0.29")


def test_getting_faster_is_no_growth(tmp_path: Path) -> None:
    judgement = judged(tmp_path, run_of(lambda now: 0.5 if now < 55 else 0.3))
    assert judgement.verdict is Verdict.PASS


@pytest.mark.parametrize("count", [0, 1, 3, 30])
def test_few_requests_never_pass_and_never_crash(tmp_path: Path, count: int) -> None:
    assert judged(tmp_path, run_of(lambda now: 1.0, count)).verdict is not Verdict.PASS


def test_clocks_that_jumped_never_pass(tmp_path: Path) -> None:
    """Every time is the same: nothing is known of how the requests depend on each other."""
    made = [sample(50.0, 1.9 + 0.0005 * index, user=index) for index in range(200)]
    judgement = judged(tmp_path, made)
    assert judgement.verdict is not Verdict.PASS
