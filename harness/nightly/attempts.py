"""Where a night's runs lie, and what became of each.

A run is made in ``attempts/KEY--N`` and moved to ``cells/KEY`` once it is sealed, judged and counts. Nothing writes to
``cells/`` but that move, so a process that outlives a killed night for a moment can only touch its own attempt, and
``cells/`` holds whole runs alone, at any time.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

from harness.errors import HarnessError, RunDirectoryError
from harness.judge import read_judgement
from harness.judgement import Judgement
from harness.runlog import MANIFEST, RunReader

CELLS = "cells"
ATTEMPTS = "attempts"


class State(StrEnum):
    CUT_OFF = "cut off"
    """Killed, or interrupted: the load was not what was asked for."""
    SEALED = "sealed"
    """Whole, and not judged yet."""
    JUDGED = "judged"


class Place:
    """One cell's folders in a night's folder."""

    def __init__(self, night: Path, key: str) -> None:
        self.night = night
        self.key = key
        self.final = night / CELLS / key

    def attempts(self) -> list[tuple[int, Path]]:
        """Numbered from 1, in order."""
        pattern = re.compile(re.escape(self.key) + r"--(\d+)")
        found = []
        for path in (self.night / ATTEMPTS).glob(f"{self.key}--*"):
            match = pattern.fullmatch(path.name)
            if match and path.is_dir():
                found.append((int(match[1]), path))
        return sorted(found)

    def next(self) -> tuple[int, Path]:
        number = max((number for number, _ in self.attempts()), default=0) + 1
        path = self.night / ATTEMPTS / f"{self.key}--{number}"
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise RunDirectoryError(f"cannot make {path}: {error.strerror}") from error
        return number, path

    def settle(self, attempt: Path) -> Path:
        """Let an attempt count."""
        try:
            self.final.parent.mkdir(parents=True, exist_ok=True)
            return attempt.rename(self.final)
        except OSError as error:
            raise RunDirectoryError(f"cannot move {attempt} to {self.final}: {error.strerror}") from error

    def relative(self, path: Path) -> str:
        return path.relative_to(self.night).as_posix()


def state_of(run_dir: Path) -> State:
    """What became of a run; one that cannot be read was cut off."""
    try:
        manifest = RunReader(run_dir).manifest
    except HarnessError:
        return State.CUT_OFF
    if not manifest.sealed or (manifest.load.ended_by in ("interrupted", "stopped") and not manifest.load.complete):
        return State.CUT_OFF
    return State.JUDGED if judged(run_dir) is not None else State.SEALED


def judged(run_dir: Path) -> Judgement | None:
    """Its judgement; None where there is none, or half of one."""
    if not (run_dir / MANIFEST).exists():
        return None
    try:
        return read_judgement(run_dir)
    except HarnessError:
        return None
