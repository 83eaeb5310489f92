"""Verdicts of single checks and of a cell: properties, edges, and how often they are wrong."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.evidence import Terms, number, quantity
from harness.judgement import CheckResult, Verdict
from harness.metrics import Judged, judged_part, read_requests
from harness.objective import Objective
from harness.records import Outcome, Sample
from harness.sla import cell_verdict, evaluate, good_and_bad
from harness.statistics import p_value_fail, p_value_pass
from tests.runs import WORKER, failed, load, sample, table, unfinished

LIMITS = "p95(e2e) < 2 s"


def part(samples: Sequence[Sample]) -> Judged:
    return judged_part(load(), read_requests(table(samples), [WORKER], load()), 2.0)


def check(texts: str | Sequence[str], samples: Sequence[Sample], **terms: object) -> CheckResult:
    return checks([texts] if isinstance(texts, str) else texts, samples, **terms)[0]


def checks(texts: Sequence[str], samples: Sequence[Sample], **terms: object) -> tuple[CheckResult, ...]:
    objectives = [Objective.parse(text) for text in texts]
    return evaluate(objectives, part(samples), Terms(**terms))  # type: ignore[arg-type]


def answers(good: int, bad: int, failures: int = 0) -> list[Sample]:
    """In random order, evenly over the judged window: requests that have nothing to do with each other."""
    outcomes = ["good"] * good + ["bad"] * bad + ["failed"] * failures
    rng = random.Random(1)
    rng.shuffle(outcomes)
    found = []
    for index, outcome in enumerate(outcomes):
        start = 10.0 + 90.0 * (index + 0.5) / len(outcomes)
        slow = 3.0 if outcome == "bad" else 1.0
        found.append(failed(start) if outcome == "failed" else sample(start, slow * rng.uniform(0.9, 1.1)))
    return found


@pytest.mark.parametrize(
    ("good", "bad", "failures", "verdict"),
    [
        (59, 0, 0, Verdict.INCONCLUSIVE),
        (76, 0, 0, Verdict.INCONCLUSIVE),
        (80, 0, 0, Verdict.PASS),
        (92, 1, 0, Verdict.INCONCLUSIVE),
        (200, 1, 0, Verdict.PASS),
        (200, 0, 1, Verdict.PASS),
        (900, 50, 0, Verdict.INCONCLUSIVE),
        (850, 100, 0, Verdict.FAIL),
        (850, 50, 50, Verdict.FAIL),
        (0, 0, 100, Verdict.FAIL),
        (0, 0, 1, Verdict.INCONCLUSIVE),
        (0, 0, 0, Verdict.INCONCLUSIVE),
    ],
)
def test_percentile_verdicts(good: int, bad: int, failures: int, verdict: Verdict) -> None:
    result = check(LIMITS, answers(good, bad, failures))
    assert result.verdict is verdict
    assert (result.samples, result.violations) == (good + bad + failures, bad + failures)
    assert (result.more_samples is not None or result.at_limit) == (verdict is Verdict.INCONCLUSIVE)


def test_a_value_at_the_limit() -> None:
    exact = [sample(20.0, 2.0, end_s=5022.0, sent_s=5020.0)] * 100
    assert check("p95(e2e) < 2 s", exact).verdict is Verdict.FAIL
    assert check("p95(e2e) <= 2 s", exact).verdict is Verdict.PASS


def test_no_samples_is_never_pass() -> None:
    texts = ["p95(e2e) < 2 s", "mean(ttft) < 1 s", "max(tpot) < 1 s", "error_rate < 1 %", "goodput > 1 req/s"]
    results = checks(texts, [])
    assert len(results) == 5
    assert all(result.verdict is not Verdict.PASS for result in results)


def test_every_check_is_evaluated() -> None:
    texts = ["p95(e2e) < 2 s", "p99(ttft) < 1 s", "p95(itl) < 1 s", "p95(tpot) < 1 s", "error_rate < 50 %"]
    results = checks(texts, answers(0, 1000))
    assert [result.verdict for result in results] == [Verdict.FAIL] + [Verdict.PASS] * 4
    assert cell_verdict(results) is Verdict.FAIL


def test_holm_corrects_fail_and_not_pass() -> None:
    assert check(LIMITS, answers(920, 80)).verdict is Verdict.FAIL
    near = answers(925, 75)
    worth = check(LIMITS, near).effective_samples
    assert worth is not None
    # Alone it fails, among four it does not.
    assert p_value_fail(0.075 * worth, worth, 0.05) < 0.05 < 4 * p_value_fail(0.075 * worth, worth, 0.05)
    assert check(LIMITS, near).verdict is Verdict.FAIL
    others = ["p50(e2e) < 2 s", "error_rate < 50 %", "p50(ttft) < 2 s"]
    among = check([LIMITS, *others], near)
    assert among.verdict is Verdict.INCONCLUSIVE
    assert "4 checks" in among.reason
    looked = check(LIMITS, near, looks=4)
    assert looked.verdict is Verdict.INCONCLUSIVE
    good = answers(970, 30)
    assert check([LIMITS, *others], good, looks=4).verdict is check(LIMITS, good).verdict is Verdict.PASS


def test_what_forbids_a_pass_forbids_nothing_else() -> None:
    assert check(LIMITS, answers(100, 0), no_pass="it was killed").reason.endswith("it was killed")
    assert check(LIMITS, answers(100, 0), no_pass="it was killed").verdict is Verdict.INCONCLUSIVE
    assert check(LIMITS, answers(0, 100), no_pass="it was killed").verdict is Verdict.FAIL


def test_requests_of_which_nothing_is_known_weaken_a_fail() -> None:
    assert check(LIMITS, answers(5, 5)).verdict is Verdict.FAIL
    assert check(LIMITS, answers(5, 5), unseen=100).verdict is Verdict.INCONCLUSIVE


def test_unfinished_requests() -> None:
    young = unfinished(99.0, 0.5)
    aged = [unfinished(10.0 + 9 * index, 92.0 - 9 * index) for index in range(10)]
    result = check(LIMITS, [*answers(10, 0), *aged])
    assert (result.samples, result.violations, result.verdict) == (20, 10, Verdict.FAIL)
    assert result.value is not None
    assert math.isinf(result.value)
    result = check(LIMITS, [*answers(120, 0), *[young] * 2])
    assert (result.samples, result.violations, result.verdict) == (120, 0, Verdict.INCONCLUSIVE)
    assert "2 requests were not over" in result.reason
    # PASS only when it would with every unfinished request counted as a violation.
    assert check(LIMITS, [*answers(160, 0), *[young] * 2]).verdict is Verdict.PASS
    assert check(LIMITS, [*answers(140, 0), *[young] * 2]).verdict is Verdict.INCONCLUSIVE
    # FAIL only when it would with every one counted as kept.
    assert check(LIMITS, [*answers(5, 5), *[young] * 100]).verdict is Verdict.INCONCLUSIVE


def test_error_rate() -> None:
    assert check("error_rate < 1 %", answers(0, 299)).verdict is Verdict.PASS
    assert check("error_rate < 1 %", answers(298, 0)).verdict is Verdict.INCONCLUSIVE
    result = check("error_rate < 1 %", answers(95, 0, 5))
    assert (result.verdict, result.value, result.violations) == (Verdict.FAIL, 0.05, 5)
    texts = ["error_rate < 1 %", "p95(e2e) < 2 s"]
    old, young = unfinished(97.0, 2.5), unfinished(99.0, 0.5)
    result = check(texts, [*answers(300, 0), old, young])
    assert (result.samples, result.violations) == (300, 0)  # slow is not yet wrong


def test_undefined_values_are_left_out_and_counted() -> None:
    single = [sample(20.0 + index, output_tokens=1) for index in range(30)]
    several = [sample(10.0 + index / 2) for index in range(170)]
    result = check("p95(tpot) < 1 s", single + several)
    assert (result.samples, result.undefined, result.verdict) == (170, 30, Verdict.PASS)
    result = check("p95(tpot) < 1 s", [sample(20.0, output_tokens=1)] * 300)
    assert (result.samples, result.undefined, result.verdict) == (0, 300, Verdict.INCONCLUSIVE)


def test_gaps_between_chunks() -> None:
    """A failed request has a violating gap for each token that it was asked for but the first."""
    steady = [sample(10.0 + index / 10, gaps_us=(40_000,) * 10) for index in range(900)]
    lost = [failed(12.0 + 9 * index, requested_tokens=11) for index in range(9)]
    result = check("p95(itl) < 50 ms", [*steady, *lost])
    assert (result.samples, result.violations, result.verdict) == (9090, 90, Verdict.PASS)
    assert "gaps" in result.reason
    assert result.value == 0.04
    assert result.effective_samples is not None
    assert result.effective_samples < 9090 / 10  # the gaps of one request stand or fall together
    assert check("p95(itl) < 50 ms", [*steady[::4], *lost * 9]).verdict is Verdict.FAIL


def test_gaps_of_one_request_are_no_independent_samples() -> None:
    """300 gaps would do for p99; of two requests they say next to nothing."""
    two = [sample(20.0 + 30 * index, gaps_us=(40_000,) * 200) for index in range(2)]
    result = check("p99(itl) < 50 ms", [*two, sample(90.0, gaps_us=(60_000,))])
    assert (result.samples, result.verdict) == (401, Verdict.INCONCLUSIVE)


def test_mean() -> None:
    """The mean of 1.0000, 1.0025, ... 1.9975, in random order."""
    rng = random.Random(4)
    steady = [sample(10.5 + 0.22 * at, 1.0 + index / 400) for index, at in enumerate(rng.sample(range(400), 400))]
    assert check("mean(e2e) < 1.6 s", steady).verdict is Verdict.PASS
    assert check("mean(e2e) < 1.4 s", steady).verdict is Verdict.FAIL
    assert check("mean(e2e) < 1.5 s", steady).verdict is Verdict.INCONCLUSIVE
    few = check("mean(e2e) < 9 s", steady[:29])
    assert (few.verdict, few.more_samples) == (Verdict.INCONCLUSIVE, 1)
    broken = check("mean(e2e) < 1.6 s", [*steady, failed()])
    assert (broken.verdict, broken.value) == (Verdict.FAIL, math.inf)
    unknown = check("mean(e2e) < 1.6 s", [*steady, unfinished(99.0, 0.5)])
    assert unknown.verdict is Verdict.INCONCLUSIVE
    growing = [sample(10.5 + 0.9 * index, 1.0 + index / 100) for index in range(100)]
    alike = check("mean(e2e) < 1.6 s", growing)
    assert alike.verdict is Verdict.INCONCLUSIVE
    assert "a PASS takes a judged window of" in alike.reason
    constant = [sample(20.0, sent_s=5020.0, end_s=5021.0)] * 100
    assert check("mean(e2e) <= 1 s", constant).verdict is Verdict.PASS
    assert check("mean(e2e) < 1 s", constant).verdict is Verdict.FAIL


def test_maximum_can_fail_and_never_pass() -> None:
    result = check("max(e2e) < 2 s", answers(10_000, 0))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "p99.9" in result.reason
    assert check("max(e2e) < 2 s", answers(10_000, 1)).verdict is Verdict.FAIL


def test_rates() -> None:
    rng = random.Random(1)
    samples = [sample(rng.uniform(9, 100), 1.0) for _ in range(1000)]
    slow = [sample(rng.uniform(9, 100), 3.0) for _ in range(1000)]
    mixed = ["throughput > 18 req/s", "goodput > 8 req/s", "goodput > 13 req/s", "goodput > 11 req/s", LIMITS]
    found = [result.verdict for result in checks(mixed, [*samples, *slow])]
    assert found[:4] == [Verdict.PASS, Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE]
    spells = [sample(10 + 0.09 * index, 1.0 if index % 500 < 250 else 3.0) for index in range(1000)]
    alike = checks(["goodput > 4 req/s", LIMITS], spells)[0]
    assert alike.verdict is Verdict.INCONCLUSIVE, "two slow spells say little of how many there are"
    assert "a PASS takes a judged window of" in alike.reason
    assert check("throughput > 1 req/s", answers(0, 0, 500)).verdict is Verdict.FAIL
    few = check("throughput > 1 req/min", samples[:20])
    assert (few.verdict, few.more_samples) == (Verdict.INCONCLUSIVE, 30 - few.samples)


def test_good_requests_keep_every_limit() -> None:
    objectives = [Objective.parse(text) for text in (LIMITS, "p90(itl) < 50 ms", "mean(itl) < 46 ms")]
    rows = [
        sample(20.0, 1.0, gaps_us=(40_000,) * 9 + (90_000,)),
        sample(20.0, 1.0, gaps_us=(30_000,) * 8 + (90_000,) * 2),
        sample(20.0, 1.0, gaps_us=(46_000,) * 9),
        sample(20.0, 3.0, gaps_us=(40_000,)),
        sample(20.0, 1.0, gaps_us=()),
        failed(20.0),
        unfinished(99.0, 0.5),
        unfinished(97.0, 2.5),
    ]
    good, bad = good_and_bad(objectives, part(rows).requests)
    assert good.tolist() == [True, False, False, False, True, False, False, False]
    assert bad.tolist() == [False, True, True, True, False, True, False, True]


counts = st.tuples(st.integers(0, 400), st.integers(0, 60), st.integers(0, 40))


@given(counts, st.sampled_from([50, 90, 95, 99]))
def test_the_percentile_printed_never_contradicts_the_verdict(made: tuple[int, int, int], percentile: int) -> None:
    objective = Objective.parse(f"p{percentile}(e2e) < 2 s")
    result = check(objective.text, answers(*made))
    if result.value is None:
        assert result.verdict is Verdict.INCONCLUSIVE
        return
    if result.verdict is not Verdict.INCONCLUSIVE:
        assert objective.holds(result.value) == (result.verdict is Verdict.PASS)
    if result.value_high is not None:
        assert objective.holds(result.value_high) == (result.verdict is Verdict.PASS)
    if result.value_low is not None:
        assert objective.holds(result.value_low) == (result.verdict is not Verdict.FAIL)
    shown = re.search(r"is ([\d.]+|infinite)", result.reason)
    assert shown is not None
    assert objective.holds(float(shown[1].replace("infinite", "inf"))) == objective.holds(result.value)


@given(counts, st.floats(0.5, 4), st.floats(1, 3))
def test_a_looser_limit_never_turns_pass_into_fail(made: tuple[int, int, int], limit: float, factor: float) -> None:
    samples = answers(*made)
    tight = check(f"p95(e2e) < {limit:.6f} s", samples)
    loose = check(f"p95(e2e) < {limit * factor:.6f} s", samples)
    assert {tight.verdict, loose.verdict} != {Verdict.PASS, Verdict.FAIL} or loose.verdict is Verdict.PASS


@given(counts, st.integers(0, 30), st.integers(0, 30))
def test_more_violations_never_help(made: tuple[int, int, int], worse: int, broken: int) -> None:
    good, bad, failures = made
    worse = min(worse, good)
    broken = min(broken, good - worse)
    texts = [LIMITS, "error_rate < 5 %"]
    before = checks(texts, answers(good, bad, failures))
    after = checks(texts, answers(good - worse - broken, bad + worse, failures + broken))
    for one, other in zip(before, after, strict=True):
        assert (one.verdict, other.verdict) != (Verdict.FAIL, Verdict.PASS)
    added = check(LIMITS, answers(good, bad + worse, failures + broken))
    assert (before[0].verdict, added.verdict) != (Verdict.FAIL, Verdict.PASS)


@given(st.randoms(use_true_random=False), counts)
def test_the_order_of_samples_does_not_matter(rng: random.Random, made: tuple[int, int, int]) -> None:
    samples = answers(*made)
    texts = [LIMITS, "p99(ttft) < 1 s", "p95(itl) < 1 s", "error_rate < 5 %", "max(e2e) < 9 s"]
    before = checks(texts, samples)
    rng.shuffle(samples)
    assert checks(texts, samples) == before


@given(st.floats(1e-6, 1e4), st.floats(-1e-9, 1e-9), st.sampled_from(["s", "ms", "us", "min"]))
def test_shown_values_lie_on_their_own_side_of_the_limit(limit: float, off: float, unit: str) -> None:
    objective = (
        Objective.parse(f"p95(e2e) < {limit:.6f} {unit}") if limit >= 1e-5 else Objective.parse("p95(e2e) < 1 s")
    )
    value = objective.limit * (1 + off)
    shown = float(quantity(objective, value).split()[0])
    edge = float(quantity(objective, objective.limit).split()[0])
    assert (shown < edge, shown > edge) == (value < objective.limit, value > objective.limit) or abs(off) < 1e-13


def test_numbers() -> None:
    assert [number(value, 2.0) for value in (3.41234, 1.9999, 0.0, 1234.6, math.inf)] == [
        "3.41",
        "1.9999",
        "0",
        "1235",
        "infinite",
    ]
    objective = Objective.parse("p95(ttft) < 300 ms")
    assert (quantity(objective, 0.2999), quantity(objective, 0.3)) == ("299.9 ms", "300 ms")
    assert quantity(Objective.parse("error_rate < 1 %"), 0.0123) == "1.23%"


def test_checks_that_are_unknown_yet_share_the_chance_of_a_wrong_fail() -> None:
    edge = part(answers(925, 75))
    objectives = [Objective.parse(LIMITS)]
    assert evaluate(objectives, edge, Terms())[0].verdict is Verdict.FAIL
    assert evaluate(objectives, edge, Terms(), besides=9)[0].verdict is Verdict.INCONCLUSIVE
    assert evaluate(objectives, part(answers(1000, 0)), Terms(), besides=9)[0].verdict is Verdict.PASS


def test_a_burst_of_violations_is_no_certain_fail_at_a_look() -> None:
    """Sixty slow answers in a row are one slow spell; the same sixty, spread out, are sixty."""
    times = [10.0 + 90.0 * index / 600 for index in range(600)]
    burst = [sample(start, 3.0 if 300 <= index < 360 else 1.0) for index, start in enumerate(times)]
    spread = [sample(start, 3.0 if index % 10 == 0 else 1.0) for index, start in enumerate(times)]
    objectives = [Objective.parse(LIMITS)]
    assert p_value_fail(60, 600, 0.05) < 0.05 / 4
    assert evaluate(objectives, part(spread), Terms(looks=4))[0].verdict is Verdict.FAIL
    assert evaluate(objectives, part(burst), Terms(looks=4))[0].verdict is Verdict.INCONCLUSIVE
    assert check(LIMITS, burst).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(("percentile", "samples"), [(95, 100), (95, 1000), (99, 2000), (90, 437)])
def test_at_the_limit_verdicts_are_wrong_in_at_most_one_run_of_twenty(percentile: int, samples: int) -> None:
    """Independent requests whose true violation rate is exactly the one allowed, 2,000 runs."""
    allowed = 1 - percentile / 100
    violations = np.random.default_rng(20).binomial(samples, allowed, 2000).tolist()
    passes = sum(p_value_pass(count, samples, allowed) <= 0.05 for count in violations)
    fails = sum(p_value_fail(count, samples, allowed) <= 0.05 for count in violations)
    assert passes / 2000 <= 0.06
    assert fails / 2000 <= 0.06


def test_outcomes_that_count_as_unfinished() -> None:
    cancelled = failed(99.0, 0.5, Outcome.CANCELLED)
    assert check(LIMITS, [cancelled]).samples == 0
    assert check(LIMITS, [failed(99.0, 0.5, Outcome.TIMEOUT)]).violations == 1
