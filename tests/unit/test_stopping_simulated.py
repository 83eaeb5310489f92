"""A run that ends when it is decided is seldom wrong, and saves time, over queues whose truth is known (seeded)."""

from __future__ import annotations

import pytest

from benchmarks.queues import MODELS, limit_at
from benchmarks.simulate_stopping import HIGHEST, found_at


@pytest.mark.parametrize(("model", "runs", "requests"), [("independent", 150, 1000), ("mm8-50", 80, 1000)])
def test_wrong_verdicts_are_rare_and_clear_cases_end_early(model: str, runs: int, requests: int) -> None:
    made = MODELS[model](runs, requests, seed=3)
    at = found_at(made, limit_at(made, 0.05), 0.05)
    assert at.passed <= HIGHEST
    assert at.failed <= HIGHEST
    assert at.time > 0.9  # there is nothing to end for
    good, bad = (found_at(made, limit_at(made, share), 0.05) for share in (0.01, 0.10))
    assert good.passed > 0.9
    assert good.time < 0.6
    assert good.failed == 0.0
    assert bad.failed > 0.9
    assert bad.time < 0.6
    assert bad.passed == 0.0
