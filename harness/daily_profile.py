"""How a service's load is spread over a day: idle hours cost what busy ones do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.errors import UsageError, unknown_name

HOURS = 24


@dataclass(frozen=True, slots=True)
class DailyProfile:
    """Weights of the hours of a day; only their ratios count, the largest is the scenario's load."""

    weights: tuple[float, ...]
    reason: str

    @property
    def peak_hours(self) -> float:
        """The day's requests, in hours at the peak."""
        return sum(self.weights) / max(self.weights)


DAILY_PROFILES: dict[str, DailyProfile] = {
    "flat": DailyProfile((1.0,) * HOURS, "the same load at every hour: a service for machines, or for the whole world"),
    "office-hours": DailyProfile(
        (0.02,) * 7 + (0.2, 0.7, 1.0, 1.0, 1.0, 0.8, 0.9, 1.0, 1.0, 0.9, 0.6, 0.2, 0.1) + (0.05,) * 4,
        "one time zone at work from 8 to 18, a dip at lunch, next to nothing at night",
    ),
    "consumer": DailyProfile(
        (
            *(0.25, 0.15, 0.1, 0.08, 0.08, 0.1, 0.2, 0.35, 0.5, 0.6, 0.65, 0.7),
            *(0.75, 0.75, 0.7, 0.7, 0.75, 0.8, 0.9, 1.0, 1.0, 0.95, 0.75, 0.45),
        ),
        "one time zone's private users: most of them in the evening",
    ),
}
"""Name to profile. Chosen, not measured: give the hours of your own service as 24 numbers."""


def daily_profile(text: str) -> tuple[str, DailyProfile]:
    """A named profile, or 24 comma-separated weights of a service's own.

    Raises
    ------
    UsageError
        For an unknown name or weights that are none.
    """
    if "," not in text:
        if text not in DAILY_PROFILES:
            raise unknown_name("daily profile", text, DAILY_PROFILES)
        return text, DAILY_PROFILES[text]
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--daily-load: '{text}' is neither a profile's name nor 24 numbers") from None
    if len(weights) != HOURS or not all(0 <= weight < math.inf for weight in weights) or max(weights) == 0:
        raise UsageError(f"--daily-load needs {HOURS} weights of 0 or more, not all 0; got {len(weights)}")
    return "own", DailyProfile(weights, "given on the command line")
