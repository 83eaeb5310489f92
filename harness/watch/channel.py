"""What the load and the process that watches it tell each other: lines of JSON in a folder of the run directory.

Files, because a line appended and flushed costs the load microseconds, blocks on nobody, and outlives either side.
News are about 200 bytes a second. The folder and ``live.json`` are gone before the run is sealed.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from harness.records import Decision, Record, WorkerFacts
from harness.snapshot import LIVE

R = TypeVar("R", bound=Record)

FOLDER = ".watch"
NEWS = "news.jsonl"
ASKED = "asked.jsonl"
ANSWERS = "answers.jsonl"


class LoadNews(Record):
    """What only the load knows, as of now. Health is that of the worst process over its last seconds."""

    users: int = 0
    in_flight: int | None = None
    hub_lag_p99_s: float | None = None
    cpu_share_max: float | None = None


class LookAsked(Record):
    """May the run end? Requests in flight are in :func:`pending_file`."""

    number: int
    at_s: float
    """The look's own moment, seconds after the run clock's zero."""
    judged_until_s: float
    """Wall clock."""
    samples: int
    """So many were written by then."""
    workers: tuple[WorkerFacts, ...]
    hopeless: bool = False
    """Asked is about the conditions that abort a run, and about nothing else."""


class LookAnswer(Record):
    number: int
    decided: Decision = ""
    aborted_on: str = ""


def append(path: Path, record: Record) -> None:
    """Append one line; where the disk is full or the folder is gone, nobody is told, and the run goes on."""
    with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as file:
        file.write(record.model_dump_json() + "\n")


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


def pending_file(run_dir: Path, number: int) -> Path:
    return run_dir / FOLDER / f"pending-{number}.arrows"


def clear(run_dir: Path) -> None:
    """Leave nothing of the watching behind."""
    shutil.rmtree(run_dir / FOLDER, ignore_errors=True)
    for name in (LIVE, LIVE + ".part"):
        with contextlib.suppress(OSError):
            (run_dir / name).unlink(missing_ok=True)
