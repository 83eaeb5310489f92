"""The closed loop's arithmetic over the judged window: N = X (R + Z)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.metrics import FloatArray, Judged, Window


@dataclass(frozen=True, slots=True)
class Loop:
    """A closed loop over the window. ``users`` is time in flight plus time thinking, over the window's length.

    Both are clipped to the window and summed over users, so that N = X (R + Z) has no edge effects.
    """

    throughput_rps: float
    in_flight: float
    users: float
    response_s: float | None
    think_s: float | None


def closed_loop(judged: Judged, think_mean_s: float) -> Loop | None:
    """Account for every user's time in the window.

    A user thinks from the run clock's zero to the first request and from each end to the next scheduled
    time; after the last request, for as long as the longest think seen: one that is gone longer is missing.
    """
    requests, window = judged.requests, judged.window
    if window is None:
        return None
    order = np.lexsort((requests.begin_s, requests.user))
    user, begin = requests.user[order], requests.begin_s[order]
    end = np.maximum(requests.end_s[order], begin)
    due = np.minimum(requests.scheduled_s[order], begin)
    first = np.concatenate(([True], user[1:] != user[:-1])) if len(user) else np.zeros(0, dtype=bool)
    last = np.roll(first, -1)
    since = np.where(first, 0.0, np.roll(end, 1))
    think = due - since
    between = think[~first & (think > 0)]
    longest = max(float(between.max()) if between.size else 0.0, 5 * think_mean_s)
    in_flight = overlap(begin, end, window)
    thinking = overlap(since, due, window) + overlap(end[last], end[last] + longest, window)

    finished = judged.ended_in_window(requests.ok)
    answered = requests.values["e2e"][judged.rows & requests.ok]
    answered = answered[np.isfinite(answered)]
    thought = think[judged.rows[order] & ~first]
    length = window.length_s
    return Loop(
        throughput_rps=float(np.count_nonzero(finished)) / length,
        in_flight=in_flight / length,
        users=(in_flight + thinking) / length,
        response_s=float(answered.mean()) if answered.size else None,
        think_s=float(thought.mean()) if thought.size else None,
    )


def overlap(start: FloatArray, stop: FloatArray, window: Window) -> float:
    clipped = np.minimum(stop, window.high_s) - np.maximum(start, window.low_s)
    return float(np.nansum(np.maximum(clipped, 0.0)))
