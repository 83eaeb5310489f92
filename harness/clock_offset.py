"""How far another host's clock is from ours, from round trips of messages (the arithmetic of NTP, RFC 5905)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """One question and its answer: ``sent_s`` and ``received_s`` on the asking clock, ``answered_s`` on the other."""

    sent_s: float
    answered_s: float
    received_s: float

    @property
    def length_s(self) -> float:
        return self.received_s - self.sent_s


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """The asking clock minus the other, true within half the round trip, however unequal its two ways were."""

    offset_s: float
    round_trip_s: float


def clock_offset(round_trips: Iterable[RoundTrip]) -> ClockOffset | None:
    """Take the shortest round trip, whose answer lay nearest to its middle; None without any.

    With delays d1 there and d2 back, the middle is off by (d2 - d1) / 2, at most (d1 + d2) / 2.
    """
    best = min((each for each in round_trips if each.length_s >= 0), key=lambda each: each.length_s, default=None)
    if best is None:
        return None
    # The other clock subtracted first: in this order the middle of two large numbers costs no digits.
    early_s, late_s = best.sent_s - best.answered_s, best.received_s - best.answered_s
    return ClockOffset((early_s + late_s) / 2, best.length_s)
