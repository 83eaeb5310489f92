"""The metrics of single requests, which of them are judged, and the closed loop's arithmetic."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.little import closed_loop
from harness.metrics import Judged, Requests, gaps_beyond, judged_part, mean_gap, read_requests
from harness.records import LoadFacts, Outcome, Sample
from tests.runs import MONOTONIC, WALL, WORKER, Loop, failed, load, sample, shifted, table, unfinished


def read(*samples: Sample, facts: LoadFacts | None = None) -> Requests:
    return read_requests(table(samples), [WORKER], facts or load())


def judged(*samples: Sample, facts: LoadFacts | None = None, settled_s: float = 2.0) -> Judged:
    facts = facts or load()
    return judged_part(facts, read(*samples, facts=facts), settled_s)


def ends(part: Judged) -> tuple[float, float]:
    assert part.window is not None
    return part.window.low_s, part.window.high_s


def test_definitions() -> None:
    made = sample(20.0, 2.0, scheduled_s=MONOTONIC + 19.5, first_token_s=MONOTONIC + 20.5)
    values = read(made).values
    assert values["e2e"][0] == pytest.approx(2.0)
    assert values["ttft"][0] == pytest.approx(0.5)
    assert values["tpot"][0] == pytest.approx(1.5 / 10)
    assert values["response_time"][0] == pytest.approx(2.5)


def test_tpot_is_undefined_for_one_token_and_for_one_chunk() -> None:
    one_token = sample(output_tokens=1)
    one_chunk = sample(chunks=1, gaps_us=())
    unknown = replace(sample(), output_tokens=-1)
    found = judged(one_token, one_chunk, unknown, sample()).observe("tpot")
    assert (found.undefined, found.known) == (3, 1)


def test_an_answer_without_content_never_had_a_first_token() -> None:
    empty = sample(first_token_s=math.nan, last_token_s=math.nan, output_tokens=0, chunks=0, gaps_us=())
    values = read(empty).values
    assert math.isinf(values["ttft"][0])
    assert math.isnan(values["tpot"][0])
    assert values["e2e"][0] == pytest.approx(1.0)


@pytest.mark.parametrize("outcome", [o for o in Outcome if o not in (Outcome.OK, Outcome.IN_FLIGHT, Outcome.CANCELLED)])
def test_failures_are_infinite(outcome: Outcome) -> None:
    part = judged(sample(), failed(outcome=outcome))
    for metric in ("e2e", "ttft", "tpot", "response_time", "itl"):
        assert part.observe(metric).infinite == 1
        assert math.isinf(part.observe(metric).at_rank(part.observe(metric).known))


def test_gaps_are_pooled_and_keep_their_microseconds() -> None:
    part = judged(sample(gaps_us=(10, 30)), sample(gaps_us=(50_000,)), failed())
    gaps = part.observe("itl")
    assert gaps.finite_s().tolist() == [10e-6, 30e-6, 0.05]
    assert gaps.infinite == 1
    assert gaps.count_within(0.05, inclusive=False) == 2
    assert gaps.count_within(0.05, inclusive=True) == 3
    assert gaps.at_rank(3) == 0.05


def test_gaps_of_each_request() -> None:
    requests = read(sample(gaps_us=(10, 50_000, 60_000)), sample(gaps_us=()), sample(gaps_us=(50_001,)))
    beyond, count = gaps_beyond(requests, 0.05, inclusive=False)
    assert (beyond.tolist(), count.tolist()) == ([2, 0, 1], [3, 0, 1])
    assert gaps_beyond(requests, 0.05, inclusive=True)[0].tolist() == [1, 0, 1]
    means = mean_gap(requests)
    assert means[0] == pytest.approx(110_010e-6 / 3)
    assert math.isnan(means[1])


def test_unfinished_requests_have_the_least_they_can_become() -> None:
    streaming = sample(
        98.0, 3.0, outcome=Outcome.IN_FLIGHT, first_token_s=MONOTONIC + 98.2, last_token_s=MONOTONIC + 100.0,
        requested_tokens=101, output_tokens=-1,
    )  # fmt: skip
    part = judged(unfinished(98.0, 1.5), streaming)
    assert part.observe("e2e").unfinished_s.tolist() == pytest.approx([1.5, 3.0])
    assert part.observe("tpot").unfinished_s.tolist() == pytest.approx([0.0, 2.8 / 100])
    assert part.observe("itl").unfinished_s.tolist() == pytest.approx([0.0, 1.0])
    # Watched for longer than the SLA's longest limit, so its first token is a fact; the other's is still awaited.
    assert part.observe("ttft").finite_s().tolist() == pytest.approx([0.2])
    assert part.observe("ttft").unfinished_s.tolist() == pytest.approx([1.5])


def test_an_unfinished_request_without_an_end_was_seen_until_the_load_had_drained() -> None:
    part = judged(unfinished(98.0, 1.0, end_s=math.nan))
    assert part.observe("e2e").unfinished_s.tolist() == pytest.approx([5.0])


def test_the_judged_window() -> None:
    samples = [
        sample(8.0, 1.0),  # ended in warm-up
        sample(9.0, 1.5),  # in flight when warm-up ended: judged, with its age from issue
        sample(10.0, 0.5),
        sample(100.0, 0.5),
        sample(100.1, 0.5),  # after T
        unfinished(5.0, 60.0),
    ]
    assert judged(*samples).rows.tolist() == [False, True, True, True, False, True]


def test_open_loop_judges_and_times_from_the_schedule() -> None:
    late = sample(10.5, 1.0, scheduled_s=MONOTONIC + 9.9)
    never_sent = failed(50.0, 5.0, Outcome.CANCELLED, sent_s=math.nan)
    part = judged(late, never_sent, facts=load(loop="open"))
    assert part.requests.issued_s.tolist() == pytest.approx([9.9, 50.0])
    assert part.requests.values["response_time"].tolist() == pytest.approx([1.6, 5.0])


def test_early_end_and_kill_shorten_the_window() -> None:
    samples = [sample(20.0), sample(40.0), sample(60.0)]
    assert ends(judged(*samples, facts=load(judged_until_s=WALL + 50.0))) == pytest.approx((10.0, 50.0))
    killed = load(judged_until_s=None, stopped_issuing_s=None, drained_s=None, complete=False)
    assert ends(judged(*samples, facts=killed)) == pytest.approx((10.0, 61.0))
    assert judged(sample(5.0), facts=killed).window is None
    assert judged(*samples, facts=load(started_s=None)).window is None
    assert judged(facts=killed).window is None


def test_workers_with_different_anchors_share_one_clock() -> None:
    there = WORKER.model_copy(
        update={"worker": 1, "anchor_monotonic_s": 77.0, "anchor_wall_s": WALL + 3.0, "clock_offset_s": 3.0}
    )
    here = [sample(9.0, 1.5), sample(50.0, 1.0)]
    moved = shifted(here, 77.0 - MONOTONIC, worker=1)
    requests = read_requests(table([*here, *moved]), [WORKER, there], load())
    assert requests.begin_s[:2] == pytest.approx(requests.begin_s[2:], abs=1e-5)
    assert requests.values["e2e"][:2] == pytest.approx(requests.values["e2e"][2:])
    assert len(set(requests.user.tolist())) == 2
    assert requests.defects == 0


def test_defects() -> None:
    stranger = sample(worker=7)
    timeless = failed(scheduled_s=math.nan, sent_s=math.nan, end_s=math.nan)
    endless = sample(end_s=math.nan)
    backwards = sample(end_s=MONOTONIC)
    part = judged(stranger, timeless, endless, backwards, sample())
    assert part.requests.defects == 4
    assert part.rows.tolist() == [False, False, True, True, True]
    assert part.observe("e2e").infinite == 2


def test_no_samples() -> None:
    part = judged()
    assert len(part.requests) == 0
    for metric in ("e2e", "ttft", "tpot", "response_time", "itl"):
        assert part.observe(metric).known == 0
    loop = closed_loop(part, 1.0)
    assert loop is not None
    assert loop.users == 0
    assert gaps_beyond(part.requests, 1.0, inclusive=False)[0].tolist() == []


@pytest.mark.parametrize("users", [1, 30])
def test_users_are_accounted_for_without_edge_effects(users: int) -> None:
    made = Loop(users=users, think_s=8.0).samples()
    loop = closed_loop(judged(*made), 8.0)
    assert loop is not None
    assert loop.users == pytest.approx(users, rel=1e-3)
    if users > 1:
        assert loop.response_s is not None
        assert loop.think_s is not None
        assert loop.throughput_rps * (loop.response_s + loop.think_s) == pytest.approx(users, rel=0.15)


def test_a_user_that_went_away_is_missing() -> None:
    made = [each for each in Loop(users=10).samples() if each.user != 3 or each.sent_s < MONOTONIC + 30]
    loop = closed_loop(judged(*made), 1.0)
    assert loop is not None
    assert 9.2 < loop.users < 9.6


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=200), st.integers(0, 20), st.randoms())
def test_order_statistics_are_those_of_the_sorted_values(
    values: list[float], failures: int, rng: random.Random
) -> None:
    samples = [sample(20.0, value) for value in values] + [failed(20.0)] * failures
    rng.shuffle(samples)
    observed = judged(*samples).observe("e2e")
    expected = np.sort([*values, *[math.inf] * failures])
    assert [observed.at_rank(rank + 1) for rank in range(len(samples))] == pytest.approx(expected.tolist())
    limit = values[0]
    assert observed.count_within(limit + 1e-6, inclusive=False) == int((expected < limit + 1e-6).sum())
