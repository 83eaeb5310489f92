"""``capacity.json``: its only reader and its only writer."""

from __future__ import annotations

from pathlib import Path

from harness.capacity_record import CAPACITY_FORMAT, CapacityRecord
from harness.json_file import read_json_file
from harness.runlog import write_atomically

CAPACITY = "capacity.json"


def is_capacity(directory: Path) -> bool:
    return (directory / CAPACITY).is_file()


def write_capacity(directory: Path, record: CapacityRecord) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / CAPACITY, record.model_dump_json(indent=1))


def read_capacity(directory: Path) -> CapacityRecord:
    """Read ``capacity.json``.

    Raises
    ------
    RunDirectoryError
        When there is none, or it is damaged or of a newer version.
    """
    missing = f"{directory} holds no capacity search: it has no {CAPACITY}"
    return read_json_file(directory / CAPACITY, CapacityRecord, CAPACITY_FORMAT, missing)
