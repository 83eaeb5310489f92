"""The samples of a run that is still being written, read as they are appended, in bounded memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.runlog import GAPS, SAMPLES_LIVE, SCHEMA

MOST_SAMPLES = 500_000
"""Kept, at some 75 bytes each: 40 MB. A run that makes more is decided at its end."""
LIGHT = [
    *("worker", "user", "outcome", "output_tokens", "requested_tokens", "chunks"),
    *("scheduled_s", "sent_s", "first_token_s", "last_token_s", "end_s"),
]
_JOIN_AT = 100
"""A batch has a few kB of its own, and a second brings several of every worker: so many are joined into one."""


class SampleTail:
    """Follows ``samples.arrows``. Texts and gaps, which are most of a sample, are not kept."""

    def __init__(self, run_dir: Path) -> None:
        self.seen = 0
        self.failed = 0
        self._path = run_dir / SAMPLES_LIVE
        self._read_to = 0
        self._schema_read = False
        self._joined: list[pa.RecordBatch] = []
        self._batches: list[pa.RecordBatch] = []
        self._overflowed = False

    @property
    def whole(self) -> bool:
        """Whether everything seen is still there to be judged."""
        return not self._overflowed

    def read(self) -> None:
        """Take in what was appended since the last time; a batch that is not whole yet is left for the next."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read_to)
                while True:
                    message = pa.ipc.read_message(file)
                    if not self._schema_read:
                        self._schema_read = True
                    else:
                        self._add(pa.ipc.read_record_batch(message, SCHEMA))
                    self._read_to = file.tell()
        except (OSError, EOFError, StopIteration, pa.ArrowException):
            return

    def table(self, *more: pa.RecordBatch) -> pa.Table:
        """What was kept, with the columns that :func:`harness.metrics.read_requests` wants; gaps are none."""
        batches = [*self._joined, *self._batches, *(light(batch) for batch in more)]
        schema = pa.schema([SCHEMA.field(name) for name in LIGHT])
        table = pa.Table.from_batches(batches, schema)
        return table.append_column(SCHEMA.field(GAPS), pa.nulls(table.num_rows, SCHEMA.field(GAPS).type))

    def _add(self, batch: pa.RecordBatch) -> None:
        self.seen += batch.num_rows
        self.failed += pc.sum(pc.not_equal(batch["outcome"], "ok")).as_py() or 0
        if self._overflowed:
            return
        self._batches.append(light(batch))
        if self.seen > MOST_SAMPLES:
            self._overflowed = True
            self._joined, self._batches = [], []
        if len(self._batches) >= _JOIN_AT:
            self._joined.append(_one(self._batches))
            self._batches = []
        if len(self._joined) >= _JOIN_AT:
            self._joined = [_one(self._joined)]


def light(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Without texts and gaps. Taken, because a mere selection would keep the memory of the whole message."""
    return batch.select(LIGHT).take(pa.array(np.arange(batch.num_rows)))


def _one(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
