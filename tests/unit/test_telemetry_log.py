"""Telemetry on disk: lines while it is recorded, Parquet once sealed, readable after a kill at any byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import RunDirectoryError
from harness.records import TelemetryFacts
from harness.telemetry_log import SCHEMA, TELEMETRY, TELEMETRY_LIVE, read_telemetry, seal_telemetry

FACTS = {"anchor_wall_s": 1000.0, "anchor_monotonic_s": 10.0, "host": "here", "gpus": {"0": "H100"}}
LINES = (
    {"facts": FACTS},
    {"t": 11.0, "v": {"running": 4, "waiting": 0}},
    {"t": 11.1, "g": {"0": {"gpu_power_w": 61.5}, "1": {"gpu_power_w": 70.25}}},
    {"facts": {"server_kind": "vllm"}},
    {"t": 12.0, "v": {"host_cpu_share": 0.5}, "g": {"0": {"gpu_power_w": 62.0}}},
    {"facts": {"ended": True}},
)
ROWS = [
    (11.0, "running", None, 4.0),
    (11.0, "waiting", None, 0.0),
    (11.1, "gpu_power_w", 0, 61.5),
    (11.1, "gpu_power_w", 1, 70.25),
    (12.0, "host_cpu_share", None, 0.5),
    (12.0, "gpu_power_w", 0, 62.0),
]


def text(lines: tuple[dict[str, object], ...] = LINES) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def rows(directory: Path) -> list[tuple[object, ...]]:
    found = read_telemetry(directory)
    assert found is not None
    assert found.table.schema.names == SCHEMA.names
    return [tuple(row.values()) for row in found.table.to_pylist()]


def test_the_round_trip(tmp_path: Path) -> None:
    (tmp_path / TELEMETRY_LIVE).write_text(text())
    live = read_telemetry(tmp_path)
    assert live is not None
    assert rows(tmp_path) == ROWS
    seal_telemetry(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {TELEMETRY}
    sealed = read_telemetry(tmp_path)
    assert sealed is not None
    assert rows(tmp_path) == ROWS
    assert sealed.facts == live.facts
    assert sealed.facts == TelemetryFacts.model_validate({**FACTS, "server_kind": "vllm", "ended": True})
    assert sealed.facts.monotonic_s(1005.0) == 15.0
    seal_telemetry(tmp_path)  # again: nothing changes
    assert rows(tmp_path) == ROWS


@settings(max_examples=80)
@given(share=st.floats(0, 1))
def test_a_file_cut_at_any_byte_keeps_its_whole_lines(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    directory = tmp_path_factory.mktemp("cut")
    whole = text().encode()
    cut = whole[: round(share * len(whole))]
    (directory / TELEMETRY_LIVE).write_bytes(cut)
    if cut.count(b"\n") == 0:
        assert read_telemetry(directory) is None
    else:
        kept = [json.loads(line) for line in cut.split(b"\n")[:-1]]
        expected = sum(len(line.get("v", {})) + sum(map(len, line.get("g", {}).values())) for line in kept)
        assert rows(directory) == ROWS[:expected]


def test_a_line_that_a_full_disk_cut_short_costs_only_itself(tmp_path: Path) -> None:
    lines = text().split("\n")
    lines[1] = lines[1][:20]
    (tmp_path / TELEMETRY_LIVE).write_text("\n".join(lines))
    assert rows(tmp_path) == ROWS[2:]


def test_nothing_recorded_is_nothing(tmp_path: Path) -> None:
    seal_telemetry(tmp_path)
    assert read_telemetry(tmp_path) is None
    (tmp_path / TELEMETRY_LIVE).write_text("")
    seal_telemetry(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / TELEMETRY).write_bytes(b"PAR1 no more")
    with pytest.raises(RunDirectoryError, match="is damaged or of another version"):
        read_telemetry(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    newer = ({"facts": {**FACTS, "format": 99}}, *LINES[1:])
    (tmp_path / TELEMETRY_LIVE).write_text(text(newer))
    seal_telemetry(tmp_path)
    with pytest.raises(RunDirectoryError, match="format 99"):
        read_telemetry(tmp_path)
