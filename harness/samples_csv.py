"""``samples.csv``: a run's samples for a spreadsheet, one row a request, with the metrics beside the facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from harness.evidence import longest_limit
from harness.metrics import judged_part, read_requests
from harness.runlog import RunReader

SLICE = 50_000
"""Rows turned into text at once: gaps are long."""
METRICS = ("e2e", "ttft", "tpot", "response_time")
DERIVED = ("request_id", "issued_s", "judged", *(f"{metric}_s" for metric in METRICS))
"""Columns after the facts. ``issued_s`` counts from the run clock's zero; what is not known is empty.

A failed request is ``inf`` in every metric. One that was not over has the least that the metric can become.
"""


def write_csv(reader: RunReader, out: IO[bytes]) -> int:
    """Write every sample of a run, sealed or cut off, and return how many there were; ``gaps_us`` is split by spaces.

    Raises
    ------
    RunDirectoryError
        When the samples are damaged.
    """
    manifest, table = reader.manifest, reader.samples()
    requests = read_requests(table, manifest.workers, manifest.load)
    judged = judged_part(manifest.load, requests, longest_limit(manifest.scenario.sla), streamed=manifest.stream)
    identity = [pc.cast(table.column(name), pa.string()) for name in ("run", "worker", "user", "sequence")]
    derived: list[pa.Array | pa.ChunkedArray] = [pc.binary_join_element_wise(*identity, "/")]
    derived += [_known(requests.issued_s), pa.array(judged.rows)]
    derived += [_known(requests.values[metric]) for metric in METRICS]
    gaps = table.schema.get_field_index("gaps_us")
    whole = _with_text(table.slice(0, 0), gaps, derived)
    with csv.CSVWriter(out, whole.schema) as rows:
        for start in range(0, table.num_rows, SLICE):
            part = [column.slice(start, SLICE) for column in derived]
            rows.write_table(_with_text(table.slice(start, SLICE), gaps, part))
    return int(table.num_rows)


def _with_text(table: pa.Table, gaps: int, derived: Sequence[pa.Array | pa.ChunkedArray]) -> pa.Table:
    texts = pc.binary_join(pc.cast(table.column(gaps).combine_chunks(), pa.list_(pa.string())), " ")
    table = table.set_column(gaps, "gaps_us", pa.chunked_array([texts]))
    for name, column in zip(DERIVED, derived, strict=True):
        table = table.append_column(name, column.slice(0, table.num_rows))
    return _without_nan(table)


def _without_nan(table: pa.Table) -> pa.Table:
    for place, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            column = table.column(place)
            known = pc.if_else(pc.is_nan(column), pa.scalar(None, field.type), column)
            table = table.set_column(place, field.name, known)
    return table


def _known(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float64())
