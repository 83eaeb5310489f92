"""The telemetry of a run on disk: lines of JSON while it is recorded, Parquet once it is sealed.

Live, ``telemetry.jsonl`` holds a line with the facts, then one line a reading, each written at once::

    {"facts": {"anchor_wall_s": ..., "anchor_monotonic_s": ..., ...}}
    {"t": 812.301, "v": {"running": 4, "waiting": 0}}
    {"t": 812.4, "g": {"0": {"gpu_power_w": 61.2}}}

Sealed, ``telemetry.parquet`` holds one row a value, with the facts in the schema's metadata.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from harness.errors import RunDirectoryError
from harness.records import TelemetryFacts

TELEMETRY = "telemetry.parquet"
TELEMETRY_LIVE = "telemetry.jsonl"
_METADATA = b"harness.telemetry"

SCHEMA = pa.schema(
    [("monotonic_s", pa.float64()), ("series", pa.string()), ("device", pa.int16()), ("value", pa.float64())]
)
"""``series`` is a name of :data:`harness.series.SERIES`; ``device`` is a GPU's index, null for what belongs to none."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What was recorded; ``table`` has the columns of :data:`SCHEMA`."""

    facts: TelemetryFacts
    table: pa.Table


def read_telemetry(directory: Path) -> Telemetry | None:
    """The telemetry of a run, sealed or not; None for a run without.

    Raises
    ------
    RunDirectoryError
        When the Parquet file is damaged, or of a newer version.
    """
    sealed = directory / TELEMETRY
    if not sealed.exists():
        return _read_live(directory / TELEMETRY_LIVE)
    try:
        table = pq.read_table(sealed)
        facts = TelemetryFacts.model_validate_json((table.schema.metadata or {})[_METADATA])
        table = table.select(SCHEMA.names).cast(SCHEMA)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise RunDirectoryError(f"{sealed} is damaged or of another version: {error}") from error
    if facts.format > TelemetryFacts.model_fields["format"].default:
        raise RunDirectoryError(f"{sealed} has format {facts.format}, which this harness cannot read: use a newer one")
    return Telemetry(facts, table)


def seal_telemetry(directory: Path) -> None:
    """Turn the live lines into Parquet; without any, or without a single whole line, there is nothing to seal."""
    live = directory / TELEMETRY_LIVE
    if not live.exists():
        return
    found = _read_live(live)
    if found is not None:
        partial = directory / (TELEMETRY + ".part")
        metadata = {_METADATA: found.facts.model_dump_json().encode()}
        pq.write_table(found.table.replace_schema_metadata(metadata), partial, compression="zstd")
        partial.replace(directory / TELEMETRY)
    live.unlink()


def _read_live(path: Path) -> Telemetry | None:
    """Whole lines of a file that may end in the middle of one. Later facts replace earlier ones."""
    facts: dict[str, Any] = {}
    columns: tuple[list[Any], ...] = ([], [], [], [])
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    for line in text.split("\n")[:-1]:
        try:
            said = json.loads(line)
            facts |= said.get("facts", {})
            for device, values in [(None, said.get("v", {})), *((int(d), v) for d, v in said.get("g", {}).items())]:
                for name, value in values.items():
                    row = (float(said["t"]), str(name), device, float(value))
                    for column, entry in zip(columns, row, strict=True):
                        column.append(entry)
        except (ValueError, TypeError, AttributeError, KeyError):  # a full disk cuts a line short
            continue
    try:
        known = TelemetryFacts.model_validate(facts)
    except ValidationError:
        return None
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return Telemetry(known, pa.Table.from_arrays(arrays, schema=SCHEMA))
