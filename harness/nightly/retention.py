"""What of earlier nights stays on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from harness.errors import HarnessError
from harness.judgement import Verdict
from harness.nightly.attempts import ATTEMPTS, CELLS
from harness.nightly.record import CellRecord, Night, Status
from harness.nightly.spec import Keep, Nightly
from harness.nightly.store import nights, read_night, started_of, write_night
from harness.runlog import compact, compactable
from reports.nightly_page import write_pages

KEEP_MARK = "keep"
"""A file of this name in a night's or a cell's folder keeps it whole for ever."""


@dataclass(frozen=True)
class Removal:
    night: str
    key: str
    """Empty: the attempts of the night that did not count."""
    how: str
    """``compact`` or ``delete``."""

    @property
    def text(self) -> str:
        return f"{self.how} {self.night}/{self.key or ATTEMPTS}"


def old_nights(names: list[str], keep: Keep, now: datetime, tonight: str = "") -> list[str]:
    """Names of nights that need not stay whole: older than ``days``, and not among the newest ``nights``.

    A clock that jumped ahead by years makes every night old; the newest stay all the same. One that jumped back makes
    none old. A name is a UTC time.
    """
    earlier = [name for name in sorted(names) if name != tonight]
    newest = set(earlier[-keep.nights :])
    return [name for name in earlier if name not in newest and now - started_of(name) > timedelta(days=keep.days)]


def planned_removals(root: Path, spec: Nightly, now: datetime, tonight: str = "") -> list[Removal]:
    """What retention would do; changes nothing. Nights of other files in the same folder, or damaged, are left."""
    found: list[Removal] = []
    for name in old_nights(nights(root), spec.keep, now, tonight):
        try:
            night = read_night(root / name)
        except HarnessError:
            continue
        if night.name == spec.name:
            found += _of_night(root / name, night, spec.keep)
    return found


def apply_retention(root: Path, spec: Nightly, now: datetime, tonight: str = "") -> tuple[str, ...]:
    """Compact and delete; return what was done, in words, and what could not be."""
    done = []
    for removal in planned_removals(root, spec, now, tonight):
        folder = root / removal.night
        try:
            if not removal.key:
                shutil.rmtree(folder / ATTEMPTS)
            elif removal.how == "delete":
                _delete(folder, removal.key)
            else:
                compact(folder / CELLS / removal.key)
        except (HarnessError, OSError) as error:
            done.append(f"could not {removal.text}: {error}")
        else:
            done.append(removal.text)
    return tuple(done)


def _of_night(folder: Path, night: Night, keep: Keep) -> Iterator[Removal]:
    if night.night in keep.baselines or (folder / KEEP_MARK).exists():
        return
    for cell in night.cells:
        run = folder / CELLS / cell.key
        if not run.is_dir() or _stays(cell, f"{night.night}/{cell.key}", run, keep):
            continue
        if keep.then == "delete" or _is_large(run):
            yield Removal(night.night, cell.key, keep.then)
    # Of a cell that could not be run, its attempts are all there is.
    if (folder / ATTEMPTS).is_dir() and not any(cell.status is Status.FAILED for cell in night.cells):
        yield Removal(night.night, "", "delete")


def _is_large(run: Path) -> bool:
    try:
        return compactable(run)
    except HarnessError:
        return False


def _stays(cell: CellRecord, name: str, run: Path, keep: Keep) -> bool:
    return cell.verdict in (None, Verdict.FAIL) or name in keep.baselines or (run / KEEP_MARK).exists()


def _delete(folder: Path, key: str) -> None:
    """Remove a cell's run; its line in the night's record and page stays, and links to nothing."""
    night = read_night(folder)
    cells = tuple(
        cell.model_copy(update={"directory": "", "report": ""}) if cell.key == key else cell for cell in night.cells
    )
    night = night.model_copy(update={"cells": cells})
    write_night(folder, night)
    write_pages(folder, night)
    shutil.rmtree(folder / CELLS / key)
