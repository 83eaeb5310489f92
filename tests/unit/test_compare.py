"""Comparing launches: right verdicts where the truth is known, few false alarms, a sentence for every odd case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.compare import compare
from harness.comparison import ArmResult, Comparison, Finding, Launch, Pair
from harness.differences import METRICS, Rules
from harness.errors import UsageError
from harness.judgement import Mark, Verdict

HEADLINE = ("e2e_p95", "error_rate", "goodput_rps")
SAME = {"users": "20", "seeds": "1, 11, 21"}


def launch(round_: int | None = None, **changes: Any) -> Launch:
    facts: dict[str, Any] = {
        "run": f"run-{round_}",
        "scenario": "chatbot",
        "stack": "stack",
        "verdict": Verdict.PASS,
        "round": round_,
        "emulated": True,
        "requests": 600,
        "window_s": 90.0,
        "conditions": SAME,
        "headline": HEADLINE,
        "values": {"e2e_p50": 1.0, "e2e_p95": 2.0, "error_rate": 0.01, "goodput_rps": 6.0},
    }
    return Launch(**{**facts, **changes})


def arm(label: str, values: Sequence[dict[str, float]], **changes: Any) -> ArmResult:
    made = [launch(number, values=each, **changes) for number, each in enumerate(values, start=1)]
    return ArmResult(label=label, launches=tuple(made))


def p95(label: str, *values: float, **changes: Any) -> ArmResult:
    return arm(label, [{"e2e_p95": value} for value in values], **changes)


def pair(a: ArmResult, b: ArmResult, *, interleaved: bool = False, **rules: Any) -> Pair:
    (found,) = compare([a, b], Rules(**rules), interleaved=interleaved).pairs
    return found


# The truth is known ------------------------------------------------------------------------------


def simulated(
    rng: np.random.Generator,
    launches: int,
    *,
    luck: float,
    shift: float = 1.0,
    drift: Sequence[float] = (),
    in_turn: bool = True,
) -> Comparison:
    """Two arms. A launch's luck moves all its latencies; B's are ``shift`` times A's; errors are binomial."""
    arms = []
    for label, factor in (("A", 1.0), ("B", shift)):
        made = []
        for place in range(launches):
            speed = factor * math.exp(rng.normal(0, luck)) * (drift[place] if drift else 1.0)
            noise = np.exp(rng.normal(0, luck / 3, 3))
            made.append(
                {
                    "e2e_p50": speed * noise[0],
                    "e2e_p95": 2 * speed * noise[1],
                    "error_rate": rng.binomial(600, 0.01) / 600,
                    "goodput_rps": 6 / speed * noise[2],
                }
            )
        arms.append(arm(label, made))
    return compare(arms, Rules(headline=HEADLINE), interleaved=in_turn)


def share_of(finding: Finding, found: Sequence[Comparison]) -> float:
    return sum(each.pairs[0].finding is finding for each in found) / len(found)


@pytest.mark.parametrize(("launches", "luck"), [(3, 0.02), (3, 0.10), (5, 0.05)])
def test_arms_that_are_alike_are_rarely_called_different(launches: int, luck: float) -> None:
    """500 comparisons of a stack with itself; 5% may be false alarms, and chance gives 7.2% in one of a thousand."""
    rng = np.random.default_rng(7)
    found = [simulated(rng, launches, luck=luck, in_turn=number % 2 == 0) for number in range(500)]
    assert 1 - share_of(Finding.NO_DIFFERENCE, found) <= 0.05


def test_without_a_smallest_effect_the_false_alarms_are_what_the_confidence_says() -> None:
    """Nothing else holds alarms back here: of 1,000 single-metric comparisons about 5% are false alarms, not 1%."""
    rng = np.random.default_rng(8)
    found = []
    for number in range(1000):
        a, b = (p95(label, *np.exp(rng.normal(0, 0.05, 4))) for label in "AB")
        rules = Rules(min_effect=0.0, headline=("e2e_p95",))
        found.append(compare([a, b], rules, interleaved=number % 2 == 0))
    assert 0.03 <= 1 - share_of(Finding.NO_DIFFERENCE, found) <= 0.065


@pytest.mark.parametrize(
    ("launches", "luck", "in_turn", "power"),
    [(3, 0.01, True, 0.80), (3, 0.01, False, 0.97), (5, 0.02, True, 0.95), (8, 0.03, True, 0.90)],
)
def test_a_tenth_slower_is_found(launches: int, luck: float, in_turn: bool, power: float) -> None:
    """Of the table of docs/compare.md, which is rounded down here; hardly ever is the slower arm called better."""
    rng = np.random.default_rng(9)
    found = [simulated(rng, launches, luck=luck, shift=1.1, in_turn=in_turn) for _ in range(300)]
    assert share_of(Finding.WORSE, found) >= power
    assert share_of(Finding.BETTER, found) + share_of(Finding.MIXED, found) <= 0.01


def test_drift_of_the_machine_cancels_in_launches_made_in_turn() -> None:
    rng = np.random.default_rng(10)
    drift = (1.0, 1.2, 1.4, 1.6, 1.8)
    alike = [simulated(rng, 5, luck=0.02, drift=drift) for _ in range(300)]
    slower = [simulated(rng, 5, luck=0.02, shift=1.1, drift=drift) for _ in range(300)]
    assert 1 - share_of(Finding.NO_DIFFERENCE, alike) <= 0.05
    assert share_of(Finding.WORSE, slower) >= 0.80


def test_more_arms_do_not_make_more_false_alarms() -> None:
    rng = np.random.default_rng(11)
    alarms = 0
    for _ in range(400):
        arms = [p95(label, *np.exp(rng.normal(0, 0.1, 3))) for label in "ABCDE"]
        found = compare(arms, Rules(headline=("e2e_p95",)), interleaved=True)
        alarms += any(each.finding is not Finding.NO_DIFFERENCE for each in found.pairs)
    assert alarms <= 0.05 * 400


def test_more_seeds_than_launches_do_not_make_two_launches_a_claim() -> None:
    found = pair(p95("A", 1.0, 1.01), p95("B", 3.0, 3.01))
    assert found.finding is Finding.TOO_FEW
    assert "2 launches of A and 2 of B" in found.sentence


# Known numbers -----------------------------------------------------------------------------------


def test_a_paired_interval_is_students() -> None:
    """Log ratios 0.1, 0.2, 0.3: mean 0.2, standard error 0.1 / sqrt(3), t(2) at 97.5% 4.303."""
    found = pair(
        p95("A", 1.0, 1.0, 1.0),
        p95("B", *(math.exp(d) for d in (0.1, 0.2, 0.3))),
        interleaved=True,
    )
    (each,) = found.differences
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert each.effect == pytest.approx(math.expm1(0.2))
    assert each.low == pytest.approx(math.expm1(0.2 - half), rel=1e-5)
    assert each.high == pytest.approx(math.expm1(0.2 + half), rel=1e-5)
    assert each.p_value == pytest.approx(0.0742, abs=1e-4)
    assert each.finding is Finding.NO_DIFFERENCE
    assert "not excluded" in each.reason


def test_an_unpaired_one_is_welchs() -> None:
    """Two groups of a published worked example in logarithms would be unreadable; shares are compared as they are."""
    a = [{"slo_attainment": value} for value in (0.80, 0.82, 0.84, 0.86)]
    b = [{"slo_attainment": value} for value in (0.90, 0.95, 1.00)]
    found = pair(arm("A", a, requests=10**9), arm("B", b, requests=10**9), headline=("slo_attainment",))
    (each,) = found.differences
    squares = (0.02**2 * 5 / 3 / 4, 0.05**2 / 3)
    degrees = sum(squares) ** 2 / (squares[0] ** 2 / 3 + squares[1] ** 2 / 2)
    assert degrees == pytest.approx(2.8, abs=0.1)
    assert each.effect == pytest.approx(0.12)
    assert each.high is not None
    assert each.high - 0.12 == pytest.approx(3.322 * math.sqrt(sum(squares)), rel=0.02)  # t(2.8) at 97.5%
    assert each.finding is Finding.BETTER


def test_more_of_what_should_be_high_is_better() -> None:
    slow = arm("A", [{"goodput_rps": value} for value in (5.0, 5.1, 5.2)])
    fast = arm("B", [{"goodput_rps": value} for value in (9.0, 9.1, 9.2)])
    assert pair(slow, fast).finding is Finding.BETTER
    assert pair(fast, slow).finding is Finding.WORSE


def test_some_better_and_some_worse_is_said() -> None:
    a = arm("A", [{"e2e_p95": 2.0 + d, "goodput_rps": 5.0 + d} for d in (0, 0.01, 0.02)])
    b = arm("B", [{"e2e_p95": 1.0 + d, "goodput_rps": 2.0 + d} for d in (0, 0.01, 0.02)])
    found = compare([a, b], Rules())
    assert found.pairs[0].finding is Finding.MIXED
    assert found.worse
    assert "better in p95(E2E)" in found.pairs[0].sentence
    assert "worse in goodput" in found.pairs[0].sentence


def test_a_certain_difference_too_small_to_matter_is_none() -> None:
    found = pair(p95("A", 1.0, 1.0001, 1.0002), p95("B", 1.02, 1.0201, 1.0202))
    assert found.finding is Finding.NO_DIFFERENCE
    assert "under the 5% that matters" in found.differences[0].reason
    assert pair(p95("A", 1.0, 1.0001, 1.0002), p95("B", 1.02, 1.0201, 1.0202), min_effect=0.01).finding is Finding.WORSE


def test_an_equivalence_is_told_from_not_knowing() -> None:
    narrow = pair(p95("A", 1.0, 1.01, 0.99), p95("B", 1.005, 0.995, 1.0)).differences[0]
    wide = pair(p95("A", 1.0, 1.5, 0.7), p95("B", 1.1, 0.6, 1.4)).differences[0]
    assert "any difference is under the 5% that matters" in narrow.reason
    assert "is not excluded: more launches would tell" in wide.reason


def test_a_metric_outside_the_headline_decides_nothing() -> None:
    a = arm("A", [{"e2e_p95": 1.0, "ttft_p50": 0.1 + d} for d in (0, 0.001, 0.002)])
    b = arm("B", [{"e2e_p95": 1.0, "ttft_p50": 0.9 + d} for d in (0, 0.001, 0.002)])
    found = pair(a, b)
    assert found.finding is Finding.NO_DIFFERENCE
    assert {each.metric: each.finding for each in found.differences}["ttft_p50"] is Finding.WORSE


def test_holm_needs_more_of_each_of_many_metrics() -> None:
    """p = 0.02 alone is a difference; as the smallest of four it is not (0.0125)."""
    values = (1.0, 1.1, 1.2)
    a = arm("A", [{"e2e_p95": 1.0, "e2e_p50": 1, "ttft_p50": 1, "ttft_p95": 1} for _ in values])
    b = arm(
        "B",
        [{"e2e_p95": math.exp(d), "e2e_p50": 1, "ttft_p50": 1, "ttft_p95": 1} for d in (0.20, 0.27, 0.32)],
    )
    alone = pair(a, b, interleaved=True, headline=("e2e_p95",))
    four = pair(a, b, interleaved=True, headline=("e2e_p95", "e2e_p50", "ttft_p50", "ttft_p95"))
    assert 0.0125 < (alone.differences[1].p_value or 0) < 0.05
    assert (alone.finding, four.finding) == (Finding.WORSE, Finding.NO_DIFFERENCE)
    assert "taken alone p95(E2E) would differ, but of several one may by chance" in four.sentence


positive = st.floats(0.01, 100)


@given(a=st.lists(positive, min_size=3, max_size=6), b=st.lists(positive, min_size=3, max_size=6))
def test_swapping_the_arms_swaps_the_finding(a: list[float], b: list[float]) -> None:
    opposite = {Finding.BETTER: Finding.WORSE, Finding.WORSE: Finding.BETTER}
    there, back = pair(p95("A", *a), p95("B", *b)), pair(p95("B", *b), p95("A", *a))
    assert back.finding is opposite.get(there.finding, there.finding)
    (one,), (other,) = there.differences, back.differences
    assert one.low is not None
    assert other.high is not None
    assert (1 + one.low) * (1 + other.high) == pytest.approx(1, rel=1e-6)


@given(values=st.lists(positive, min_size=3, max_size=6), order=st.randoms(use_true_random=False))
def test_the_order_of_unpaired_launches_says_nothing(values: list[float], order: Any) -> None:
    other = list(values)
    order.shuffle(other)
    one, two = (pair(p95("A", 1.0, 2.0, 3.0), p95("B", *each)).differences[0] for each in (values, other))
    assert (one.effect, one.p_value) == (pytest.approx(two.effect), pytest.approx(two.p_value))


@given(factor=st.floats(1.0, 3.0), more=st.floats(1.0, 3.0))
def test_slower_is_never_less_bad(factor: float, more: float) -> None:
    values = (1.0, 1.02, 0.98)
    rank = [Finding.BETTER, Finding.NO_DIFFERENCE, Finding.WORSE].index
    one, two = (
        pair(p95("A", *values), p95("B", *(v * f for v in (0.99, 1.0, 1.03))), interleaved=True).finding
        for f in (factor, factor * more)
    )
    assert rank(one) <= rank(two)


# Odd cases ---------------------------------------------------------------------------------------


def test_one_launch_each_has_an_interval_of_its_own_and_no_verdict() -> None:
    blocks = {"e2e_p95": tuple(1 + 0.01 * (k % 3) for k in range(10))}
    slow = {"e2e_p95": tuple(2 + 0.01 * (k % 3) for k in range(10))}
    found = pair(p95("A", 1.01, blocks=blocks), p95("B", 2.01, blocks=slow))
    (each,) = found.differences
    assert (found.finding, each.finding, each.p_value) == (Finding.TOO_FEW, Finding.TOO_FEW, None)
    assert each.basis.endswith("holds for these two launches only")
    assert each.low is not None
    assert 0.9 < each.low < 0.99 < (each.high or 0) < 1.1
    assert "1 launch of A and 1 of B" in found.sentence


def test_one_launch_without_blocks_has_a_difference_alone() -> None:
    (each,) = pair(p95("A", 1.0), p95("B", 2.0)).differences
    assert (each.effect, each.low, each.high, each.finding) == (pytest.approx(1.0), None, None, Finding.TOO_FEW)


def test_blocks_say_nothing_where_there_are_several_launches() -> None:
    blocks = {"e2e_p95": (1.0, 5.0) * 5}
    without, with_ = (pair(p95("A", 1.0, 1.1, 1.2, blocks=each), p95("B", 2.0, 2.1, 2.2)) for each in ({}, blocks))
    assert without == with_


def test_too_few_requests_for_a_percentile() -> None:
    values = [{"e2e_p95": 1.0, "e2e_p99": 1.1, "error_rate": 0.0}] * 3
    found = pair(arm("A", values, requests=60), arm("B", values, requests=60))
    said = {each.metric: each for each in found.differences}
    assert said["e2e_p99"].finding is Finding.TOO_FEW
    assert said["e2e_p99"].reason == "a launch has 60 requests, and p99 needs 100"
    assert said["e2e_p95"].finding is Finding.NO_DIFFERENCE


def test_all_failures() -> None:
    """Percentiles have no value; the error rate is plainly worse, whatever its variance of zero."""
    good = arm("A", [{"e2e_p95": 1.0, "error_rate": 0.0, "goodput_rps": 6.0}] * 3)
    bad = arm("B", [{"e2e_p95": math.inf, "error_rate": 1.0, "goodput_rps": 0.0}] * 3)
    found = pair(good, bad)
    said = {each.metric: each.finding for each in found.differences}
    assert said == {
        "e2e_p95": Finding.NOT_MEASURED,
        "error_rate": Finding.WORSE,
        "goodput_rps": Finding.WORSE,
    }
    assert found.finding is Finding.WORSE
    assert pair(bad, good).finding is Finding.BETTER
    both = pair(bad, bad.model_copy(update={"label": "C"}))
    assert both.finding is Finding.NOT_MEASURED
    assert both.sentence.startswith("not measured: p95(E2E): so many requests failed")
    assert both.differences[-1].reason == "it is 0 in every launch of both arms"


def test_no_variance_and_no_difference() -> None:
    found = pair(p95("A", 1.0, 1.0, 1.0), p95("B", 1.0, 1.0, 1.0))
    assert found.finding is Finding.NO_DIFFERENCE
    assert found.differences[0].p_value == 1.0


def test_launches_without_an_error_do_not_show_that_there_are_none() -> None:
    """0 of 300 against 1 in each hundred: the same hundredth in each launch has no variance, and still is 3 errors."""
    none, some = arm("A", [{"error_rate": 0.0}] * 3, requests=100), arm("B", [{"error_rate": 0.01}] * 3, requests=100)
    found = pair(none, some, headline=("error_rate",))
    assert found.finding is Finding.NO_DIFFERENCE
    assert (found.differences[0].p_value or 0) > 0.05


def test_what_one_arm_lacks_is_not_measured() -> None:
    found = pair(arm("A", [{"e2e_p95": 1.0}] * 3), arm("B", [{"e2e_p95": 1.0, "ttft_p50": 0.1}] * 3))
    said = {each.metric: each for each in found.differences}
    assert said["ttft_p50"].finding is Finding.NOT_MEASURED
    assert said["ttft_p50"].reason == "only one arm has a p50(TTFT)"


def test_nothing_in_common() -> None:
    found = pair(arm("A", [{"ttft_p50": 1.0}] * 3), arm("B", [{"e2e_p95": 1.0}] * 3))
    assert found.finding is Finding.NOT_MEASURED


def test_perceived_latency_is_shown_where_one_arm_streams_and_the_other_does_not() -> None:
    values = [{"perceived_p50": 1.0}] * 3
    whole, streamed = arm("A", values, streamed=False), arm("B", values)
    assert [each.metric for each in pair(whole, streamed).differences] == ["perceived_p50"]
    assert pair(streamed, streamed).differences == ()


def test_launches_left_out_are_named_and_their_round_is_dropped() -> None:
    a, b = p95("A", 1.0, 1.0, 1.0, 9.0), p95("B", 1.0, 1.0, 1.0, 1.0)
    spoiled = a.launches[3].model_copy(update={"left_out": "it is INVALID: the client was late", "directory": "x/4"})
    found = compare([a.model_copy(update={"launches": (*a.launches[:3], spoiled)}), b], Rules(), interleaved=True)
    assert found.pairs[0].finding is Finding.NO_DIFFERENCE
    assert "3 launches of A and 3 of B" in found.pairs[0].sentence
    assert "A: x/4 is left out: it is INVALID: the client was late" in found.notes


def test_all_launches_of_an_arm_left_out() -> None:
    bad = [each.model_copy(update={"left_out": "it was cut off"}) for each in p95("B", 1.0, 1.0, 1.0).launches]
    found = pair(p95("A", 1.0, 1.0, 1.0), ArmResult(label="B", launches=tuple(bad)))
    assert found.finding is Finding.TOO_FEW
    assert "3 launches of A and 0 of B" in found.sentence


def test_what_differs_besides_the_arm_is_said() -> None:
    a = p95("A", 1.0, 1.0, 1.0)
    b = p95("B", 1.0, 1.0, 1.0, conditions={"users": "40", "seeds": "1, 11, 21"}, window_s=45.0)
    found = pair(a, b)
    assert found.notes == (
        "users differ: 20 in A, 40 in B; a difference may be its doing",
        "judged windows differ: 45 s to 90 s; a longer one sees more of the tail",
    )
    assert pair(a, b, expected=frozenset({"users"})).notes == found.notes[1:]


def test_emulation_and_replayed_claims_are_said() -> None:
    a, b = p95("A", 1.0), p95("B", 1.0, marks=(Mark.EMULATED, Mark.CLAIM_REPLAYED))
    notes = compare([a, b], Rules()).notes
    assert any(note.startswith("EMULATED") for note in notes)
    assert any(note.startswith("CLAIM REPLAYED") for note in notes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scenario": "translation"}, "runs of different scenarios cannot be compared: chatbot, translation"),
        ({"emulated": False}, "some of these runs were emulated and others were not"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        compare([p95("A", 1.0), p95("B", 1.0, **changes)], Rules())


def test_an_arm_is_one_stack() -> None:
    mixed = ArmResult(label="B", launches=(launch(), launch(stack="other")))
    with pytest.raises(UsageError, match="B holds runs of several stacks, stack, other"):
        compare([p95("A", 1.0), mixed], Rules())


def test_a_record_survives_its_file() -> None:
    found = compare([p95("A", 1.0, 2.0, math.inf), p95("B", 1.0, 2.0, 3.0)], Rules())
    assert Comparison.model_validate_json(found.model_dump_json()) == found


def test_every_metric_has_a_name_of_its_own() -> None:
    labels = [metric.label for metric in METRICS.values()]
    assert len(set(labels)) == len(labels)
