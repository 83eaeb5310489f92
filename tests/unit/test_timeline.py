"""Bins of a run and the curves of a report."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.metrics import Requests, judged_part, read_requests
from harness.records import Sample
from harness.timeline import curve, timeline
from tests.runs import MONOTONIC, WORKER, Loop, failed, load, sample, table, unfinished


def read(samples: list[Sample]) -> Requests:
    return read_requests(table(samples), [WORKER], load())


def test_every_request_is_in_one_bin() -> None:
    samples = [*Loop(users=10).samples(), failed(50.0), failed(51.0), unfinished(101.0, 1.0, user=99)]
    points = timeline(read(samples), 102.0)
    assert 40 <= len(points) <= 75
    assert sum(point.sent for point in points) == len(samples)
    assert sum(point.completed for point in points) == len(samples) - 3
    assert sum(point.failed for point in points) == 2
    assert points[0].t_s <= -1
    steps = np.diff([point.t_s for point in points])
    assert steps == pytest.approx(steps[0])


def test_in_flight_and_users() -> None:
    samples = [sample(start, 5.0, user=0) for start in range(0, 100, 10)]
    points = timeline(read(samples), 100.0)
    width = points[1].t_s - points[0].t_s
    assert sum(point.in_flight for point in points) * width == pytest.approx(50.0)
    assert {point.users for point in points if 0 <= point.t_s <= 96} == {1}
    gone = timeline(read([*samples[:3], *[sample(t, 1.0, user=1) for t in range(0, 100, 2)]]), 100.0)
    assert next(point.users for point in gone if point.t_s > 60) == 1


def test_latencies_are_of_answers_sent_in_the_bin() -> None:
    samples = [sample(1.0, 2.0), sample(1.0, 4.0), sample(1.0, 6.0), failed(1.0), sample(90.0, 1.0)]
    points = timeline(read(samples))
    first = next(point for point in points if point.sent == 4)
    assert first.e2e_p50_s == pytest.approx(4.0)
    assert first.e2e_p95_s == pytest.approx(6.0)
    assert first.ttft_p50_s == pytest.approx(0.4)
    empty = next(point for point in points if not point.sent)
    assert empty.e2e_p50_s is None


def test_nothing_and_almost_nothing() -> None:
    assert timeline(read([])) == ()
    assert timeline(read([failed(scheduled_s=math.nan, sent_s=math.nan, end_s=math.nan)])) == ()
    assert sum(point.sent for point in timeline(read([failed(1.0, 0.0)]))) == 1


@pytest.mark.parametrize("count", [0, 1, 7, 200, 5000])
def test_curve(count: int) -> None:
    samples = [sample(20.0, 0.1 + index / 1000) for index in range(count)] + [failed(20.0)] * (count // 4)
    observed = judged_part(load(), read(samples), 2.0).observe("e2e")
    drawn = curve("e2e", observed)
    assert len(drawn.x_s) == len(drawn.share) == min(count, 200)
    assert list(drawn.x_s) == sorted(drawn.x_s)
    if count:
        assert drawn.share[-1] == count / (count + count // 4)
        assert drawn.x_s[0] == pytest.approx(0.1)
        assert drawn.x_s[-1] == pytest.approx(0.1 + (count - 1) / 1000)


def test_times_without_an_end() -> None:
    points = timeline(
        read([sample(10.0, 1.0), unfinished(20.0, 1.0, end_s=math.nan), sample(90.0, end_s=MONOTONIC + 91)])
    )
    assert sum(point.sent for point in points) == 3
