"""A worker's clock against the master's, by round trips over Locust's own messages."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import AsyncResult

from harness.clock_offset import ClockOffset, RoundTrip, clock_offset
from harness.loadgen import messages

if TYPE_CHECKING:
    from locust.runners import Runner

ROUND_TRIPS = 12
_ANSWER_WITHIN_S = 1.0
_SILENT = 3
"""A master that left so many questions unanswered in a row is asked no more."""
_PAUSE_S = 0.02
"""Between two questions, so that one burst on the way does not delay them all."""


class ClockAsker:
    """The worker's side; one measurement at a time."""

    def __init__(self, runner: Runner) -> None:
        self._runner: Any = runner
        self._number = 0
        self._answer: AsyncResult[tuple[float, float]] = AsyncResult()
        runner.register_message(messages.CLOCK_ANSWER, self._on_answer)

    def measure(self, wall_s: Callable[[float], float]) -> ClockOffset | None:
        """Ask some times; ``wall_s`` maps this process's monotonic seconds to its wall clock."""
        found: list[RoundTrip] = []
        silent = 0
        for _ in range(ROUND_TRIPS):
            self._number += 1
            self._answer = AsyncResult()
            sent_s = time.monotonic()
            self._runner.send_message(messages.CLOCK_ASK, {"number": self._number})
            try:
                answer: Any = self._answer.get(timeout=_ANSWER_WITHIN_S)
            except gevent.Timeout:
                silent += 1
                if silent == _SILENT:
                    break
                continue
            silent = 0
            answered_s, received_s = answer
            found.append(RoundTrip(wall_s(sent_s), answered_s, wall_s(received_s)))
            gevent.sleep(_PAUSE_S)
        return clock_offset(found)

    def _on_answer(self, msg: Any, **_: Any) -> None:
        received_s = time.monotonic()
        if msg.data["number"] == self._number:
            self._answer.set((msg.data["wall_s"], received_s))


def answer_clocks(runner: Runner) -> None:
    """The master's side: tell every worker that asks what time it is here."""
    leader: Any = runner

    def on_ask(msg: Any, **_: Any) -> None:
        leader.send_message(messages.CLOCK_ANSWER, {"number": msg.data["number"], "wall_s": time.time()}, msg.node_id)

    runner.register_message(messages.CLOCK_ASK, on_ask)
