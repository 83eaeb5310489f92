"""``capacity.json``: its only reader and its only writer."""

from __future__ import annotations

from pathlib import Path

from harness.capacity_record import CAPACITY_FORMAT, CapacityRecord
from harness.errors import RunDirectoryError
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
    path = directory / CAPACITY
    try:
        record = CapacityRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunDirectoryError(f"{directory} holds no capacity search: it has no {CAPACITY}") from error
    except OSError as error:
        raise RunDirectoryError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # pydantic's, and of bytes that are no text
        raise RunDirectoryError(f"{path} is damaged or of another version: {str(error).splitlines()[0]}") from error
    if record.format > CAPACITY_FORMAT:
        raise RunDirectoryError(f"{path} has format {record.format}; this harness reads up to {CAPACITY_FORMAT}")
    return record
