"""The leader's own view of samples while load runs: enough to see at a look that FAIL is certain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.cell import Cell
from harness.evidence import longest_limit
from harness.metrics import judged_part, read_requests
from harness.records import LoadFacts, WorkerFacts
from harness.runlog import SCHEMA
from harness.sla import fails_at_look, measured

MOST_SAMPLES = 100_000
"""Kept for looks. A run that makes more is decided at its end: its memory must not grow with its length."""
_NEEDED = [
    *("worker", "user", "outcome", "output_tokens", "requested_tokens", "chunks"),
    *("scheduled_s", "sent_s", "first_token_s", "last_token_s", "end_s"),
]


class LiveSamples:
    """Keeps what a look needs of the samples until the last one has passed."""

    def __init__(self, cell: Cell) -> None:
        self.failed = 0
        self._cell = cell
        self._batches: list[pa.RecordBatch] | None = [] if cell.looks else None
        self._pending: list[pa.RecordBatch] = []
        self._kept = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self.failed += pc.sum(pc.not_equal(batch["outcome"], "ok")).as_py() or 0
        if self._batches is not None:
            self._kept += batch.num_rows
            self._batches.append(_light(batch))
            if self._kept > MOST_SAMPLES:
                self.forget()

    @property
    def can_decide(self) -> bool:
        return self._batches is not None

    def add_pending(self, batch: pa.RecordBatch) -> None:
        """Add requests in flight at the look."""
        self._pending.append(_light(batch))

    def clear_pending(self) -> None:
        self._pending = []

    def forget(self) -> None:
        """Free everything: no look is left."""
        self._batches = None
        self._pending = []

    def fails(self, load: LoadFacts, workers: Sequence[WorkerFacts]) -> bool:
        """Whether the requests judged up to ``load.judged_until_s`` already prove FAIL.

        The window is the judge's own, so that what ends a run here is FAIL there. Each look and the end
        spend an equal part of alpha (a union bound).
        """
        if not self._batches:
            return False
        objectives = measured(self._cell.scenario.sla, streamed=self._cell.connection.stream)
        table = pa.Table.from_batches([*self._batches, *self._pending])
        judged = judged_part(load, read_requests(table, workers, load), longest_limit(objectives))
        looks = len(load.looks) + 1
        return fails_at_look(objectives, judged, confidence=self._cell.confidence, looks=looks)


def _light(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Without texts and gaps, which are most of a sample; no check that a look decides is about gaps."""
    # taken, because a mere selection would keep the memory of the whole message
    needed = batch.select(_NEEDED).take(pa.array(np.arange(batch.num_rows)))
    return needed.append_column("gaps_us", pa.nulls(batch.num_rows, SCHEMA.field("gaps_us").type))
