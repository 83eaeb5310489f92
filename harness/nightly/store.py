"""A folder of nights: their names, and the one reader and writer of ``nightly.json``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from harness.json_file import read_json_file
from harness.nightly.record import NIGHT_FORMAT, Night
from harness.runlog import write_atomically

NIGHT = "nightly.json"
LATEST = "latest"
_NAME = "%Y%m%d-%H%M%S"


def nights(root: Path) -> list[str]:
    """Names of all nights, oldest first; ``latest`` and what is no night's folder is left out."""
    if not root.is_dir():
        return []
    return sorted(
        path.name for path in root.iterdir() if re.fullmatch(r"\d{8}-\d{6}", path.name) and (path / NIGHT).exists()
    )


def name_of(now: datetime, root: Path) -> str:
    """The name of a night that begins now: a second later for each that is there already."""
    while (root / now.strftime(_NAME)).exists():
        now += timedelta(seconds=1)
    return now.strftime(_NAME)


def started_of(name: str) -> datetime:
    return datetime.strptime(name, _NAME).replace(tzinfo=UTC)


def read_night(folder: Path) -> Night:
    """Read ``nightly.json``.

    Raises
    ------
    RunDirectoryError
        When there is none, or it is damaged or of a newer version.
    """
    return read_json_file(folder / NIGHT, Night, NIGHT_FORMAT, f"{folder} is no night: it has no {NIGHT}")


def write_night(folder: Path, night: Night) -> None:
    write_atomically(folder / NIGHT, night.model_dump_json(indent=1))
