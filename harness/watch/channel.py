"""What the load and the process that watches it tell each other: lines of JSON in a folder of the run directory.

Files, because a line appended and flushed costs the load microseconds, blocks on nobody, and outlives either side.
News are about 200 bytes a second. The folder and ``live.json`` are gone before the run is sealed.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import IO, Generic, TypeVar

from pydantic import ValidationError

from harness.records import Record
from harness.snapshot import LIVE

R = TypeVar("R", bound=Record)

FOLDER = ".watch"
NEWS = "news.jsonl"


class LoadNews(Record):
    """What only the load knows, as of now. Health is that of the worst process over its last seconds."""

    users: int = 0
    in_flight: int | None = None
    hub_lag_p99_s: float | None = None
    cpu_share_max: float | None = None


class LineWriter:
    """Appends records; where the disk is full or gone, nobody is told, and the run goes on."""

    def __init__(self, path: Path) -> None:
        self._file: IO[str] | None = None
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")

    def write(self, record: Record) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.write(record.model_dump_json() + "\n")
                self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


class LineReader(Generic[R]):
    """Reads what was appended since the last time; a line that is cut off is waited for."""

    def __init__(self, path: Path, kind: type[R]) -> None:
        self._path, self._kind = path, kind
        self._read_to = 0

    def read(self) -> list[R]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._read_to)
                whole, newline, _ = file.read().rpartition(b"\n")
        except OSError:
            return []
        self._read_to += len(whole) + len(newline)
        found = []
        for line in whole.splitlines():
            with contextlib.suppress(ValidationError):  # a full disk may cut a line, and the next one join it
                found.append(self._kind.model_validate_json(line))
        return found


def clear(run_dir: Path) -> None:
    """Leave nothing of the watching behind."""
    shutil.rmtree(run_dir / FOLDER, ignore_errors=True)
    for name in (LIVE, LIVE + ".part"):
        with contextlib.suppress(OSError):
            (run_dir / name).unlink(missing_ok=True)
