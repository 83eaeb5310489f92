"""Who is still there: a worker that was killed, or whose host or network is gone, says nothing more.

Locust's heartbeat calls a worker missing after some five silent seconds, and knows at once of one that quits.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from locust.runners import STATE_MISSING, MasterRunner

from harness.records import WorkerFacts

if TYPE_CHECKING:
    from locust.env import Environment


class Roll:
    """The workers of one run, as the master's Locust sees them. A process that leads itself loses nobody."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._heard: dict[int, float] = {}

    def heard(self, worker: int) -> None:
        """Note that a worker's samples arrived."""
        self._heard[worker] = time.time()

    def lost(self, workers: Iterable[int]) -> list[int]:
        """Which of these workers are gone."""
        runner = self._environment.runner
        if not isinstance(runner, MasterRunner):
            return []
        present = {
            runner.worker_indexes.get(client.id) for client in runner.clients.all if client.state != STATE_MISSING
        }
        return sorted(set(workers) - present)

    def last_heard_s(self, workers: Iterable[int]) -> list[float]:
        """When each last sent samples, in wall-clock seconds; those that never did are left out."""
        return [self._heard[worker] for worker in workers if worker in self._heard]

    def sentence(self, lost: Sequence[WorkerFacts]) -> str:
        """Say which workers are gone, and what that costs."""
        names = ", ".join(_name(facts) for facts in lost)
        one = len(lost) == 1
        who = f"load worker {names} was" if one else f"load workers {names} were"
        whose = "its" if one else "their"
        return (
            f"{who} lost during the run (killed, or cut off): the last two seconds of {whose} samples may be missing,"
            " and the load fell short from then on"
        )


def _name(facts: WorkerFacts) -> str:
    region = f", region {facts.region}" if facts.region else ""
    return f"{facts.worker} (host {facts.host}, pid {facts.pid}{region})"
