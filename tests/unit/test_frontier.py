"""The Pareto frontier against its definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.frontier import frontier

Point = tuple[float, float]
FEW = st.integers(min_value=0, max_value=6).map(float)


def beats(one: Point, other: Point) -> bool:
    return one[0] <= other[0] and one[1] <= other[1] and one != other


@given(st.lists(st.tuples(FEW, FEW)))
def test_on_it_is_what_no_other_beats(points: list[Point]) -> None:
    unbeaten = {index for index, each in enumerate(points) if not any(beats(other, each) for other in points)}
    found = frontier(points)
    assert set(found) == unbeaten
    assert [points[index] for index in found] == sorted(points[index] for index in found)


def test_of_a_few() -> None:
    assert frontier([]) == ()
    assert frontier([(2.0, 1.0), (1.0, 2.0), (2.0, 2.0), (1.0, 2.0)]) == (1, 3, 0)
