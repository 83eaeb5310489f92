"""What a folder of runs holds, read from the heads of its files: thousands of runs in a second or two."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from harness.judgement import Verdict
from harness.records import RUN_FORMAT, Record
from harness.runlog import JUDGEMENT, MANIFEST, REPORT, SAMPLES_LIVE

CELL = "cell.json"
"""Lies in a directory from before its load begins."""
_REMAINS = frozenset({CELL, JUDGEMENT, SAMPLES_LIVE})
"""Without a manifest beside it, each of these says that a run was lost here."""


class RunHead(Record):
    """One run directory. ``damage`` says why nothing else is known of it."""

    directory: Path
    run: str = ""
    started: str = ""
    """ISO 8601, UTC."""
    scenario: str = ""
    stack: str = ""
    users: int = 0
    """0 in an open loop."""
    arrivals: str = ""
    """``open`` in an open loop."""
    verdict: Verdict | None = None
    """None: not judged, or not yet."""
    sentence: str = ""
    marks: tuple[str, ...] = ()
    sealed: bool = False
    report: Path | None = None
    """Its own, or that of the matrix it is a cell of; None: none was written."""
    damage: str = ""


class _Named(msgspec.Struct):
    name: str


class _Load(msgspec.Struct):
    users_asked: int = 0
    loop: str = "closed"


class _Manifest(msgspec.Struct):
    format: int
    run: str
    scenario: _Named
    stack: _Named
    load: _Load
    started: str = ""
    sealed: bool = False


class _Judgement(msgspec.Struct):
    verdict: Verdict
    sentence: str = ""
    marks: tuple[str, ...] = ()


_MANIFESTS = msgspec.json.Decoder(_Manifest)
_JUDGEMENTS = msgspec.json.Decoder(_Judgement)


def run_heads(root: Path) -> list[RunHead]:
    """Every run in a folder, however deep, the newest first; damaged ones last, each with what is wrong with it."""
    found = [run_head(directory) for directory in _directories(root)]
    found.sort(key=lambda head: (bool(head.damage), _backwards(head.started), str(head.directory)))
    return found


def run_head(directory: Path) -> RunHead:
    """Read one run directory's head; never raises."""
    try:
        manifest = _MANIFESTS.decode((directory / MANIFEST).read_bytes())
    except FileNotFoundError:
        return RunHead(directory=directory, damage=f"no load was recorded: it has no {MANIFEST}")
    except OSError as error:
        return RunHead(directory=directory, damage=f"{MANIFEST} cannot be read: {error.strerror}")
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return RunHead(directory=directory, damage=f"{MANIFEST} is damaged: {error}")
    if manifest.format > RUN_FORMAT:
        return RunHead(
            directory=directory, damage=f"{MANIFEST} has format {manifest.format}; this harness reads {RUN_FORMAT}"
        )
    head = RunHead(
        directory=directory,
        run=manifest.run,
        started=manifest.started,
        scenario=manifest.scenario.name,
        stack=manifest.stack.name,
        users=manifest.load.users_asked,
        arrivals="open" if manifest.load.loop == "open" else "",
        sealed=manifest.sealed,
        report=next((each for each in (directory / REPORT, directory.parent / REPORT) if each.is_file()), None),
    )
    try:
        judged = _JUDGEMENTS.decode((directory / JUDGEMENT).read_bytes())
    except FileNotFoundError:
        return head
    except OSError as error:
        return head.model_copy(update={"damage": f"{JUDGEMENT} cannot be read: {error.strerror}"})
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return head.model_copy(update={"damage": f"{JUDGEMENT} is damaged: {error}"})
    return head.model_copy(update={"verdict": judged.verdict, "sentence": judged.sentence, "marks": judged.marks})


def _directories(root: Path) -> Iterator[Path]:
    """Run directories below a folder, itself included; links are not followed, and a run holds no other."""
    for folder, folders, files in os.walk(root):
        if MANIFEST in files or not _REMAINS.isdisjoint(files):
            folders.clear()
            yield Path(folder)


def _backwards(text: str) -> tuple[int, ...]:
    return tuple(-ord(letter) for letter in text)
