"""What an experiment expected, beside what came of it."""

from __future__ import annotations

from collections.abc import Sequence

from harness.comparison import Difference, Pair
from harness.differences import METRICS, effect_text
from harness.experiments import Expectation


def holds(expected: Expectation, found: Difference) -> bool | None:
    """Whether the effect lies where it was expected; None where there is none, or the interval is too wide to say.

    An effect outside the range contradicts it only where its interval is outside as well.
    """
    low, high = expected.between
    if found.effect is None or found.low is None or found.high is None:
        return None
    if low <= found.effect <= high:
        return True
    return False if found.high < low or found.low > high else None


def expectation_notes(expects: Sequence[Expectation], pairs: Sequence[Pair]) -> list[str]:
    """One sentence each, on the first pair."""
    if not pairs:
        return []
    found = {each.metric: each for each in pairs[0].differences}
    return [_note(each, found.get(each.metric)) for each in expects]


def _note(expected: Expectation, found: Difference | None) -> str:
    label = METRICS[expected.metric].label
    if found is None or found.effect is None:
        return f"expected of {label}, and not measured: {expected.why}"
    low, high = (effect_text(found, value) for value in expected.between)
    words = {True: "as expected", False: "not as expected", None: "expected otherwise, which is not excluded"}
    return (
        f"{label} {effect_text(found, found.effect)}: {words[holds(expected, found)]}, {low} to {high},"
        f" for {expected.why}"
    )
