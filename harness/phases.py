"""The phases of a cell, in order, and how far a phase is: for whoever shows a run."""

from __future__ import annotations

PHASES = {
    "server": "start",
    "certify": "certificate",
    "spawn": "users",
    "warm-up": "warm-up",
    "load": "load",
    "tail": "tail",
    "drain": "drain",
    "seal": "seal",
    "judge": "judge",
}
"""As the load generator tells them, and as people read them. ``server`` is installing as well as starting."""


def passed_s(
    phase: str, elapsed_s: float | None, *, warm_up_s: float, run_time_s: float, tail_s: float
) -> tuple[float, float] | None:
    """Seconds of a phase that are over and seconds that it takes; None for one that takes as long as it takes.

    ``elapsed_s`` is after the run clock's zero, at which warm-up begins.
    """
    spans = {
        "warm-up": (0.0, warm_up_s),
        "load": (warm_up_s, run_time_s),
        "tail": (run_time_s, run_time_s + tail_s),
    }
    if elapsed_s is None or phase not in spans:
        return None
    begin_s, end_s = spans[phase]
    length_s = max(end_s - begin_s, 0.0)
    return min(max(elapsed_s - begin_s, 0.0), length_s), length_s
