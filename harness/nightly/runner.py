"""A night from its first cell to its page: order, time, room, retries, and going on after a kill."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import ExitCode, HarnessError, RunDirectoryError
from harness.history.store import append
from harness.judge import read_judgement
from harness.nightly import record as records
from harness.nightly.attempts import Place
from harness.nightly.cell_runner import HARNESS, CellInterruptedError, CellRunner, Say
from harness.nightly.disk import free_gib, too_full
from harness.nightly.lock import only_one
from harness.nightly.plan import Plan, PlannedCell, in_order
from harness.nightly.record import CellRecord, Night, Status
from harness.nightly.retention import apply_retention
from harness.nightly.spec import Nightly
from harness.nightly.store import LATEST, name_of, nights, read_night, started_of, write_night
from harness.notify import notify
from harness.results_store import ResultsStore
from harness.seal import git_version, package_version
from reports.nightly_page import write_pages

HISTORY = "history.duckdb"
"""Beside the nights: what ``harness trend`` and ``harness regress`` read."""
RESULTS_NOT_STORED = "not stored"


def run_night(
    spec: Nightly,
    plan: Plan,
    *,
    resume: bool,
    say: Say,
    webhook: str = "",
    command: Sequence[str] = HARNESS,
    free: Callable[[Path], float] = free_gib,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> tuple[Night, Path]:
    """Run every cell of a plan; return the night and its folder.

    One cell that fails never stops the others; a full disk and Ctrl-C do. ``webhook`` is the secret URL.

    Raises
    ------
    UsageError
        When another night runs in the same folder, or results cannot go where they are to go.
    RunDirectoryError
        When the night's own record cannot be written.
    """
    root = Path(spec.runs).resolve()
    with only_one(root):
        results = ResultsStore(spec.results) if spec.results else None
        if results is not None:
            results.check()
        night, folder = _begin(spec, plan, root, resume=resume, now=now(), say=say)
        running = _Running(spec, plan, night, folder, results, say, free, command)
        running.retain(root, now())
        running.cells()
        running.end(now(), webhook)
        return running.night, folder


class _Running:
    def __init__(
        self,
        spec: Nightly,
        plan: Plan,
        night: Night,
        folder: Path,
        results: ResultsStore | None,
        say: Say,
        free: Callable[[Path], float],
        command: Sequence[str],
    ) -> None:
        self.night = night
        self._spec, self._plan, self._folder = spec, plan, folder
        self._results, self._say, self._free = results, say, free
        self._runner = CellRunner(spec, plan.catalog, say, command)
        self._before_s = night.seconds
        self._began = time.monotonic()

    def cells(self) -> None:
        """Run what is waiting, in the night's order."""
        planned = {cell.key: cell for cell in self._plan.cells}
        try:
            for index, waiting in enumerate(self.night.cells):
                if waiting.status is Status.WAITING:
                    self._one(index, planned[waiting.key])
                self._copy(index)
                if self.night.stopped:
                    return
        except KeyboardInterrupt:
            self._stop(f"{records.INTERRUPTED} before its last cell")

    def _one(self, index: int, cell: PlannedCell) -> None:
        place = Place(self._folder, cell.key)
        record = self._runner.adopt(place, self.night.cells[index])
        self._put(index, record)
        if record.status is Status.JUDGED:
            self._tell(record)
            return
        full = too_full(self._free(self._folder), self._spec.min_free_gib, self._folder)
        if full:
            self._stop(full)
            return
        left = None if self._spec.budget_s is None else self._spec.budget_s - self._elapsed_s()
        if left is not None and cell.expected_s > left:
            text = f"it needs about {cell.expected_s:,.0f} s, and {max(left, 0):,.0f} s of the night's time were left"
            self._put(index, record.model_copy(update={"status": Status.NOT_RUN, "sentence": text}))
            self._tell(self.night.cells[index])
            return
        self._say(f"{cell.key}: runs, for about {cell.expected_s:,.0f} s")
        try:
            record = self._runner.run(place, cell, record)
        except CellInterruptedError as ended:
            self._put(index, ended.record)
            self._stop(f"{records.INTERRUPTED} during {cell.key}")
            return
        except HarnessError as error:
            record = record.model_copy(
                update={"status": Status.FAILED, "exit_code": int(error.exit_code), "sentence": str(error)}
            )
        self._put(index, record)
        self._tell(record)

    def _copy(self, index: int) -> None:
        """Send a judged cell to where results go; a failure is told, and tried again when the night is resumed."""
        record = self.night.cells[index]
        if self._results is None or record.status is not Status.JUDGED or record.stored:
            return
        name = f"{self._spec.name}/{self.night.night}/{record.key}"
        try:
            url = self._results.publish(self._folder / record.directory, name)
        except HarnessError as error:
            self._note(f"{RESULTS_NOT_STORED}: {error}")
        else:
            self._put(index, record.model_copy(update={"stored": url}))

    def retain(self, root: Path, now: datetime) -> None:
        """Make room before the night, as the file says; whatever goes wrong there is no reason not to measure."""
        try:
            removed = apply_retention(root, self._spec, now, tonight=self.night.night)
        except (HarnessError, OSError) as error:
            self._note(f"retention: {error}")
            return
        if removed:
            self._save(removed=(*self.night.removed, *removed))

    def end(self, now: datetime, webhook: str) -> None:
        """Name what was not run, write the pages, and tell whoever asked to be told."""
        cells = []
        for cell in self.night.cells:
            if cell.status is Status.WAITING:
                reason = self.night.stopped or "the night ended before it"
                cell = cell.model_copy(update={"status": Status.NOT_RUN, "sentence": reason})
            cells.append(cell)
        night = self.night.model_copy(update={"cells": tuple(cells), "ended": now.isoformat(timespec="seconds")})
        code, told = records.exit_code(night), records.sentence(night)
        not_stored = self._results is not None and any(
            cell.status is Status.JUDGED and not cell.stored for cell in night.cells
        )
        if code is ExitCode.PASS and not_stored:  # what was asked for was not done
            code, told = ExitCode.USAGE, f"{told.rstrip('.')}; but not all of it is where --results says."
        self.night = night.model_copy(update={"exit_code": int(code), "sentence": told})
        self._save()
        self._remember()
        write_pages(self._folder, self.night)
        self._tell_people(webhook)
        write_pages(self._folder, self.night)
        if self._results is not None:
            try:
                self._results.publish_files(self._folder, f"{self._spec.name}/{self.night.night}")
            except HarnessError as error:
                self._note(f"{RESULTS_NOT_STORED}: {error}")

    def _remember(self) -> None:
        """Append the night's judgements to the history; one that cannot be kept changes no verdict."""
        try:
            judged = [
                read_judgement(self._folder / cell.directory)
                for cell in self.night.cells
                if cell.status is Status.JUDGED
            ]
            if judged:
                append(self._folder.parent / HISTORY, judged)
        except HarnessError as error:
            self._note(f"not in the history: {error}")

    def _tell_people(self, webhook: str) -> None:
        asked = self._spec.notify
        if asked is None or (asked.when == "not-pass" and self.night.exit_code == 0):
            return
        link = asked.link.replace("{night}", self.night.night) or str(self._folder / "summary.html")
        failed = notify(webhook, f"{self.night.sentence} {link}") if webhook else f"{asked.url_env} is not set"
        if failed:
            self._note(f"nobody was told: {failed}")

    # The record ------------------------------------------------------------------------------

    def _elapsed_s(self) -> float:
        return self._before_s + time.monotonic() - self._began

    def _put(self, index: int, record: CellRecord) -> None:
        cells = self.night.cells
        self._save(cells=(*cells[:index], record, *cells[index + 1 :]))

    def _stop(self, reason: str) -> None:
        self._say(reason)
        self._save(stopped=reason)

    def _note(self, text: str) -> None:
        self._say(text)
        if text not in self.night.notes:
            self._save(notes=(*self.night.notes, text))

    def _save(self, **changes: object) -> None:
        self.night = self.night.model_copy(update={**changes, "seconds": round(self._elapsed_s(), 1)})
        write_night(self._folder, self.night)

    def _tell(self, record: CellRecord) -> None:
        self._say(f"{record.key}: {records.label(record)} {record.sentence.partition(': ')[2] or record.sentence}")


def _begin(spec: Nightly, plan: Plan, root: Path, *, resume: bool, now: datetime, say: Say) -> tuple[Night, Path]:
    """The night to go on with, or a new one."""
    last = _last(spec, root)
    if resume and last is not None:
        why_not = _not_resumed(last, spec, plan, now)
        if not why_not:
            say(f"going on with the night {last.night}")
            waiting = [
                cell.model_copy(update={"status": Status.WAITING, "sentence": ""})
                if cell.status is Status.NOT_RUN and last.stopped and cell.sentence == last.stopped
                else cell
                for cell in last.cells
            ]
            changes = {"cells": tuple(waiting), "ended": "", "stopped": "", "resumed": last.resumed + 1}
            night = last.model_copy(update={**changes, "exit_code": None, "sentence": ""})
            write_night(root / night.night, night)
            return night, root / night.night
        say(f"a new night: {why_not}")
    name = name_of(now, root)
    night = Night(
        name=spec.name,
        night=name,
        title=spec.title,
        profile=spec.profile,
        plan=plan.digest,
        started=now.isoformat(timespec="seconds"),
        host=socket.gethostname(),
        harness_version=package_version("llm-sla-harness"),
        git=git_version(),
        cells=_cells(in_order(plan.cells, spec.order, last)),
    )
    folder = root / name
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise RunDirectoryError(f"cannot make {folder}: {error.strerror}") from error
    write_night(folder, night)
    _point_latest(root, name)
    return night, folder


def _cells(planned: Sequence[PlannedCell]) -> tuple[CellRecord, ...]:
    return tuple(
        CellRecord(key=cell.key, scenario=cell.scenario, stack=cell.stack, variant=cell.variant) for cell in planned
    )


def _last(spec: Nightly, root: Path) -> Night | None:
    """The newest night of this file that can be read."""
    for name in reversed(nights(root)):
        with contextlib.suppress(HarnessError):
            night = read_night(root / name)
            if night.name == spec.name:
                return night
    return None


def _not_resumed(last: Night, spec: Nightly, plan: Plan, now: datetime) -> str:
    """Why a night is not gone on with; empty when it is."""
    if last.finished and not last.stopped:
        return f"{last.night} is finished"
    if last.plan != plan.digest:
        return f"{last.night} was to run other cells than the file names now; it stays as it is"
    age_s = (now - started_of(last.night)).total_seconds()
    if age_s > spec.resume_within_s:
        return f"{last.night} began {age_s / 3600:,.0f} h ago; it stays as it is"
    return ""


def _point_latest(root: Path, name: str) -> None:
    """Let ``latest`` lead to the newest night; a file system without links has none."""
    fresh = root / f".{LATEST}.part"
    with contextlib.suppress(OSError):
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(name)
        fresh.replace(root / LATEST)
