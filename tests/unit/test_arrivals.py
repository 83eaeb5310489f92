"""Schedules of open-loop arrivals: what each pattern promises, shares that make up the whole, and traces from files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from harness.arrivals import PATTERNS, Arrivals, TraceArrivals, arrivals_from
from harness.dataset import read_trace
from harness.errors import SpecError, UsageError
from harness.schedule import MOST_ARRIVALS, FloatArray, arrival_times_s, share
from harness.spec import Timing

UNHURRIED = settings(deadline=None)
"""A machine that is busy with load makes no property false."""

Z = 6.0
"""Standard errors: a property that is drawn thousands of times must not fail by chance."""

NUMBER = st.floats(0.5, 200)
SEEDS = st.integers(0, 2**31)


@st.composite
def any_arrivals(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from(sorted(set(PATTERNS) - {"trace"})))
    model = PATTERNS[kind][0]
    cv = {"cv": draw(st.sampled_from([0.0, 0.3, 1.0, 2.5]))}
    fields: dict[str, Any] = {
        "constant": {"rate_rps": draw(NUMBER)},
        "poisson": {"rate_rps": draw(NUMBER)},
        "gamma": {"rate_rps": draw(NUMBER), "cv": draw(st.floats(0.1, 5))},
        "ramp": {"from_rps": draw(st.floats(0, 200)), "to_rps": draw(NUMBER), **cv},
        "step": {"rates_rps": tuple(draw(st.lists(NUMBER, min_size=1, max_size=5))), **cv},
        "spike": {
            "rate_rps": draw(NUMBER),
            "spike_rps": draw(NUMBER),
            "at_s": draw(st.floats(0, 60)),
            "for_s": draw(st.floats(0.1, 60)),
            **cv,
        },
    }[kind]
    return model.model_validate({"kind": kind, **fields})


@st.composite
def timings(draw: st.DrawFn) -> Timing:
    warm_up_s = draw(st.floats(0, 20))
    return Timing(warm_up_s=warm_up_s, run_time_s=warm_up_s + draw(st.floats(5, 60)))


def timing(warm_up_s: float = 10, run_time_s: float = 100) -> Timing:
    return Timing(warm_up_s=warm_up_s, run_time_s=run_time_s)


def schedule(text: str, rate: float | None = None, seed: int = 1, tail_s: float = 0.0, **when: float) -> FloatArray:
    return arrival_times_s(arrivals_from(None, rate, text), timing(**when), tail_s, seed)


def count(times: FloatArray, low_s: float, high_s: float) -> int:
    return int(((times >= low_s) & (times < high_s)).sum())


# What every schedule is -----------------------------------------------------------------------


@UNHURRIED
@given(arrivals=any_arrivals(), when=timings(), tail_s=st.floats(0, 20), seed=SEEDS)
def test_a_schedule_is_sorted_inside_the_run_and_repeatable(
    arrivals: Arrivals, when: Timing, tail_s: float, seed: int
) -> None:
    try:
        times = arrival_times_s(arrivals, when, tail_s, seed)
    except UsageError:  # none at all, which has a test of its own
        reject()
    assert times.dtype == np.float64
    assert np.all(np.diff(times) >= 0)
    assert 0 <= times[0] <= times[-1] < when.run_time_s + tail_s
    assert np.array_equal(arrival_times_s(arrivals, when, tail_s, seed), times)


@UNHURRIED
@given(size=st.integers(0, 300), workers=st.integers(1, 40))
def test_shares_are_a_partition_whatever_the_number_of_workers(size: int, workers: int) -> None:
    whole = np.sort(np.random.default_rng(size).uniform(0, 100, size))
    shares = [share(whole, rank, workers) for rank in range(workers)]
    places = [np.arange(size)[rank::workers] for rank in range(workers)]
    assert sorted(place for each in places for place in each) == list(range(size))
    for found, mine in zip(shares, places, strict=True):
        assert np.array_equal(found, whole[mine])
    assert max(map(len, shares)) - min(map(len, shares)) <= 1, "no worker carries more than its part"


@pytest.mark.parametrize("text", ["poisson", "gamma:cv=2"])
def test_another_seed_is_another_schedule(text: str) -> None:
    assert not np.array_equal(schedule(text, 50, seed=1)[:100], schedule(text, 50, seed=2)[:100])


# Rates ----------------------------------------------------------------------------------------


@UNHURRIED
@given(rate=st.floats(0.1, 500), run_time_s=st.floats(11, 200), tail_s=st.floats(0, 10))
def test_constant_is_exact(rate: float, run_time_s: float, tail_s: float) -> None:
    times = schedule("constant", rate, run_time_s=run_time_s, tail_s=tail_s)
    assert abs(len(times) - rate * (run_time_s + tail_s)) <= 0.5 + 1e-6
    assert np.allclose(np.diff(times), 1 / rate, rtol=1e-6)


def test_a_constant_rate_of_whole_numbers_gives_their_product() -> None:
    assert len(schedule("constant", 100, run_time_s=80)) == 8000
    assert len(schedule("constant", 0.1, warm_up_s=0, run_time_s=30)) == 3


@UNHURRIED
@given(seed=SEEDS, cv=st.sampled_from([0.2, 0.5, 1.0, 2.0, 4.0]), rate=st.floats(5, 100))
def test_the_mean_rate_is_the_stated_one(seed: int, cv: float, rate: float) -> None:
    """A renewal process has a variance of cv^2 times its mean, but for terms that do not grow."""
    times = schedule(f"gamma:cv={cv}", rate, seed, run_time_s=400)
    expected = rate * 400
    assert abs(len(times) - expected) < Z * cv * math.sqrt(expected) + 2 * cv**4 + 5


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_no_burst_stands_at_the_start(cv: float) -> None:
    """Averaged over many seeds, the first second holds as many as any other: the process is stationary."""
    first = [count(schedule(f"gamma:cv={cv}", 5, seed, run_time_s=20), 0, 1) for seed in range(2000)]
    error = np.std(first) / math.sqrt(len(first))
    assert abs(np.mean(first) - 5) < 5 * error


@pytest.mark.parametrize(("text", "cv"), [("poisson", 1.0), ("gamma:cv=2", 2.0), ("gamma:cv=0.5", 0.5)])
def test_gaps_vary_as_stated(text: str, cv: float) -> None:
    gaps = np.diff(schedule(text, 500))
    assert gaps.mean() == pytest.approx(1 / 500, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_poisson_gaps_are_exponential() -> None:
    gaps = np.sort(np.diff(schedule("poisson", 500)))
    shares = np.arange(1, len(gaps) + 1) / len(gaps)
    assert np.abs(shares - -np.expm1(-500 * gaps)).max() < 1.95 / math.sqrt(len(gaps))  # Kolmogorov at 0.1%


def test_a_ramp_goes_in_a_straight_line_from_the_warm_ups_end() -> None:
    times = schedule("ramp:10-100:cv=0", tail_s=5)
    assert count(times, 0, 10) == pytest.approx(100, abs=1)
    for low in range(10, 100, 10):
        middle = 10 + 90 * (low + 5 - 10) / 90
        assert count(times, low, low + 10) == pytest.approx(10 * middle, abs=1)
    assert count(times, 100, 105) == pytest.approx(500, abs=1), "the tail keeps the last rate"
    down = schedule("ramp:100-0:cv=0")
    assert len(down) == pytest.approx(1000 + 50 * 90, abs=1)


def test_steps_share_the_judged_time_and_the_first_holds_the_warm_up() -> None:
    times = schedule("step:10,20,40:cv=0", tail_s=2)
    assert [count(times, *each) for each in ((0, 40), (40, 70), (70, 102))] == [400, 600, 1280]


def test_a_spike_lasts_as_long_as_it_says() -> None:
    times = schedule("spike:10-100@30+5:cv=0")
    assert [count(times, *each) for each in ((0, 30), (30, 35), (35, 100))] == [300, 500, 650]
    assert len(schedule("spike:10-100@200+5:cv=0")) == 1000, "after the end there is none"


def test_a_schedule_too_long_to_be_meant_is_refused() -> None:
    with pytest.raises(UsageError, match=f"at most {MOST_ARRIVALS:,}"):
        schedule("poisson", 1e9)


# Traces ---------------------------------------------------------------------------------------


def trace(path: Path, text: str) -> FloatArray:
    path.write_text(text, encoding="utf-8")
    return read_trace(TraceArrivals(kind="trace", file=str(path)))


def test_a_trace_is_replayed_up_to_the_runs_end(tmp_path: Path) -> None:
    found = trace(tmp_path / "t.csv", "3.5\n0\n1e1\n\n101.5\n200\n")
    times = arrival_times_s(TraceArrivals(kind="trace", file="t"), timing(), 2.0, 1, found)
    assert times.tolist() == [0, 3.5, 10, 101.5]
    with pytest.raises(UsageError, match="makes no arrival"):
        arrival_times_s(TraceArrivals(kind="trace", file="t"), timing(), 2.0, 1, np.array([300.0]))


@pytest.mark.parametrize(
    "text",
    ["1\n2\n", "seconds\n1\n2\n", "id,seconds\nx,1\ny,2\n", "moment,tokens\r\n1,9\r\n2,9\r\n", "\n1,a\n2,b\n"],
)
def test_a_trace_is_the_column_seconds_or_the_first(text: str, tmp_path: Path) -> None:
    assert trace(tmp_path / "t.csv", text).tolist() == [1, 2]


def test_every_bad_line_of_a_trace_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with pytest.raises(SpecError) as caught:
        trace(path, "seconds\n1\n-2\nnan\n3\nsoon\ninf\n")
    assert caught.value.problems == (
        f"{path}:3: '-2' is no number of seconds, 0 or more",
        f"{path}:4: 'nan' is no number of seconds, 0 or more",
        f"{path}:6: 'soon' is no number of seconds, 0 or more",
        f"{path}:7: 'inf' is no number of seconds, 0 or more",
    )


@pytest.mark.parametrize(
    ("text", "word"), [("", "holds no arrival"), ("seconds\n", "holds no arrival"), ("-1\n", ":1:")]
)
def test_a_trace_without_arrivals_is_refused(text: str, word: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=word):
        trace(tmp_path / "t.csv", text)


def test_a_trace_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no such file"):
        read_trace(TraceArrivals(kind="trace", file=str(tmp_path / "none.csv")))
