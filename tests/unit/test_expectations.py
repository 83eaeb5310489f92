"""What experiments expect, beside what came of them; every experiment of the catalog says what it expects."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from harness.catalog import load_catalog
from harness.compare_run import trial_of, turns
from harness.comparison import Difference, Finding, Pair
from harness.differences import METRICS
from harness.expectations import expectation_notes, holds
from harness.experiments import Expectation

CATALOG = load_catalog()
HALF = Expectation(metric="tpot_p50", between=(-0.55, -0.35), why="half the bytes are read")


def difference(effect: float | None, low: float | None, high: float | None) -> Difference:
    return Difference(
        metric="tpot_p50", label="p50(TPOT)", unit="s", kind="ratio", better="lower", effect=effect, low=low, high=high,
        finding=Finding.BETTER, reason="",
    )  # fmt: skip


def test_every_experiment_resolves_and_says_what_it_expects() -> None:
    """Of each, a size that a machine can tell from none at all."""
    assert CATALOG.experiments
    for name, experiment in CATALOG.experiments.items():
        trial = trial_of(CATALOG, name, real=False)
        assert len(turns(CATALOG, trial)) == trial.launches * len(trial.arms), name
        assert any(high < 0 or low > 0 for low, high in (each.between for each in experiment.expects)), name
        assert {each.metric for each in experiment.expects} <= set(METRICS), name


@pytest.mark.parametrize(
    ("effect", "low", "high", "held"),
    [
        (-0.43, -0.44, -0.42, True),
        (-0.43, -0.60, -0.10, True),
        (-0.10, -0.12, -0.08, False),
        (-0.70, -0.72, -0.68, False),
        (-0.30, -0.40, -0.20, None),
        (-0.30, None, None, None),
        (None, None, None, None),
    ],
)
def test_an_expectation_holds_where_the_effect_lies_in_it(
    effect: float | None, low: float | None, high: float | None, held: bool | None
) -> None:
    assert holds(HALF, difference(effect, low, high)) is held


def test_the_page_is_told_what_was_expected() -> None:
    pair = Pair(a="fp16", b="int8", finding=Finding.BETTER, sentence="", differences=(difference(-0.1, -0.12, -0.08),))
    missing = Expectation(metric="e2e_p99", between=(0.1, 0.2), why="it queues")
    said = expectation_notes([HALF, missing], [pair])
    assert said == [
        "p50(TPOT) −10.0%: not as expected, −55.0% to −35.0%, for half the bytes are read",
        "expected of p99(E2E), and not measured: it queues",
    ]
    assert expectation_notes([HALF], []) == []


def test_a_range_must_rise() -> None:
    with pytest.raises(ValidationError, match="between must rise"):
        Expectation(metric="tpot_p50", between=(0.2, 0.1), why="no")
