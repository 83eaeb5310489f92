"""The leader's own view of samples while load runs: enough to see at a look that FAIL is certain."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.cell import Cell
from harness.records import WorkerFacts
from harness.sla import fails_at_look, measured

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TIMES = ("scheduled_s", "sent_s", "first_token_s", "last_token_s", "end_s")
_COLUMNS = ("worker", "output_tokens", "outcome", *_TIMES)
_NONE = np.empty(0)


class LiveSamples:
    """Keeps the columns that looks need until the last look has passed."""

    def __init__(self, cell: Cell) -> None:
        self.failed = 0
        self._cell = cell
        self._open = cell.scenario.arrivals is not None
        self._batches: list[pa.RecordBatch] | None = [] if cell.looks else None
        self._pending: list[tuple[float, float]] = []

    def add(self, batch: pa.RecordBatch) -> None:
        self.failed += pc.sum(pc.not_equal(batch["outcome"], "ok")).as_py() or 0
        if self._batches is not None:
            self._batches.append(batch.select(list(_COLUMNS)))

    def add_pending(self, pending: list[tuple[float, float]]) -> None:
        """Add requests in flight, as (scheduled, sent) in wall-clock seconds."""
        self._pending.extend((scheduled, sent) for scheduled, sent in pending)

    def clear_pending(self) -> None:
        self._pending = []

    def forget(self) -> None:
        """Free what only looks need."""
        self._batches = None
        self._pending = []

    def fails(self, workers: dict[int, WorkerFacts], started_s: float, look_s: float, looks: int) -> bool:
        """Whether requests issued in [warm-up, look - longest limit] already prove FAIL.

        Each of ``looks`` and the end spends an equal part of alpha (a union bound).
        """
        if not self._batches:
            return False
        table = pa.Table.from_batches(self._batches)
        origins = {worker: facts.wall_s(0.0) for worker, facts in workers.items()}
        origin = np.array([origins.get(worker, math.nan) for worker in table["worker"].to_pylist()])
        wall = {name: table[name].to_numpy() + origin for name in _TIMES}
        since = started_s + self._cell.timing.warm_up_s
        until = started_s + look_s - self._cell.scenario.longest_limit_s
        issued = wall["scheduled_s"] if self._open else wall["sent_s"]
        judged = (issued >= since) & (issued <= until)
        failed = np.asarray(pc.not_equal(table["outcome"], "ok"))
        ages = {name: np.array(ages) for name, ages in self._ages(since, until, started_s + look_s).items()}
        values = {
            metric: np.concatenate([np.where(failed, math.inf, column)[judged], ages.get(metric, _NONE)])
            for metric, column in _latencies(wall, table["output_tokens"].to_numpy()).items()
        }
        sla = measured(self._cell.scenario.sla, streamed=self._cell.connection.stream)
        return fails_at_look(sla, values, looks=looks + 1)

    def _ages(self, since: float, until: float, now: float) -> dict[str, list[float]]:
        """How long each judged request in flight has waited; all are older than the longest limit."""
        pending = [
            (scheduled, sent)
            for scheduled, sent in self._pending
            if since <= (scheduled if self._open else sent) <= until
        ]
        return {
            "e2e": [now - sent for _, sent in pending],
            "response_time": [now - scheduled for scheduled, _ in pending],
        }


def _latencies(wall: dict[str, NDArray[np.float64]], tokens: NDArray[np.int32]) -> dict[str, NDArray[np.float64]]:
    decode_s = wall["last_token_s"] - wall["first_token_s"]
    tpot = np.where(tokens > 1, decode_s / np.maximum(tokens - 1, 1), math.nan)
    return {
        "e2e": wall["end_s"] - wall["sent_s"],
        "response_time": wall["end_s"] - wall["scheduled_s"],
        "ttft": wall["first_token_s"] - wall["sent_s"],
        "tpot": tpot,
    }
