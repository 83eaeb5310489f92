"""The estimator of a clock's offset: never off by more than half the round trip it reports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.clock_offset import RoundTrip, clock_offset

WALL = 1.76e9
DIGITS_S = 2e-6
"""What a wall-clock second in a float leaves, some additions later."""
delays = st.floats(0.0, 2.0)


def trip(offset_s: float, there_s: float, back_s: float, at_s: float = 0.0) -> RoundTrip:
    """A round trip between clocks that differ by a known offset."""
    sent = WALL + at_s
    return RoundTrip(sent + offset_s, sent + there_s, sent + there_s + back_s + offset_s)


@given(
    offset=st.floats(-1e5, 1e5),
    ways=st.lists(st.tuples(delays, delays), min_size=1, max_size=20),
)
def test_the_offset_is_true_within_half_the_round_trip(offset: float, ways: list[tuple[float, float]]) -> None:
    found = clock_offset(trip(offset, there, back, place) for place, (there, back) in enumerate(ways))
    assert found is not None
    assert found.round_trip_s == pytest.approx(min(there + back for there, back in ways), abs=DIGITS_S)
    assert abs(found.offset_s - offset) <= found.round_trip_s / 2 + DIGITS_S


@given(offset=st.floats(-1e5, 1e5), ways=st.lists(delays, min_size=1, max_size=20))
def test_equal_ways_give_the_offset_itself(offset: float, ways: list[float]) -> None:
    found = clock_offset(trip(offset, way, way) for way in ways)
    assert found is not None
    assert found.offset_s == pytest.approx(offset, abs=DIGITS_S)


def test_the_shortest_round_trip_counts() -> None:
    found = clock_offset([trip(3.0, 0.5, 0.0), trip(3.0, 0.001, 0.002), trip(3.0, 0.0, 0.5)])
    assert found is not None
    assert found.offset_s == pytest.approx(3.0005, abs=DIGITS_S)


def test_nothing_comes_of_nothing() -> None:
    assert clock_offset([]) is None
    assert clock_offset([RoundTrip(1.0, 5.0, 0.5)]) is None, "an answer before its question"
