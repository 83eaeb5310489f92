"""A night that is killed at any moment, again and again, ends as if nobody had."""

from __future__ import annotations

import hashlib
import random
import signal
from pathlib import Path

import pytest

from harness.nightly.attempts import CELLS
from harness.nightly.record import Status
from harness.runlog import RunReader
from tests.e2e.nights import SHORT, command, folder_of, night_file, night_of, progress
from tests.e2e.processes import assert_no_trace, assert_nothing_left, started

KILLS = 5
NIGHT_S = 400.0
MOST_EVENTS = 24
"""From one kill to the next; a cell tells 12 to 14, so a kill meets each phase, also the moment between two cells."""


def sealed(folder: Path) -> dict[str, dict[str, str]]:
    """What there is of the cells that count, file by file."""
    return {
        cell.name: {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in cell.iterdir() if file.is_file()
        }
        for cell in (folder / CELLS).glob("*")
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_kills_lose_no_cell_and_no_sample(tmp_path: Path) -> None:
    scenarios = ["chatbot-short", "content-short", "translation-short"]
    matrix = [{"scenarios": scenarios, "stacks": [], "variants": ["short"]}]
    path = night_file(tmp_path, matrix, {"short": SHORT}, retries=0)
    chance = random.Random(20261122)
    kept: dict[str, dict[str, str]] = {}
    for kill in range(KILLS):
        seen, wanted = len(progress(path)), chance.randint(2, MOST_EVENTS)
        with started(command(path, "--resume"), tmp_path / f"kill-{kill}") as night:
            night.until(lambda seen=seen, wanted=wanted: len(progress(path)) >= seen + wanted, "events", NIGHT_S)  # type: ignore[misc]
            night.send(signal.SIGKILL)
            assert night.process.wait(30) == -signal.SIGKILL
        assert_nothing_left(tmp_path, timeout_s=15)
        now = sealed(folder_of(path))
        assert {key: now[key] for key in kept} == kept, "what counted before is as it was"
        kept = now
    with started(command(path, "--resume"), tmp_path / "last") as night:
        ended = night.end(NIGHT_S)
    assert_no_trace(ended.out, ended.err)
    record, folder = night_of(path), folder_of(path)
    assert record.resumed == KILLS
    assert len([*(tmp_path / "runs").glob("2*")]) == 1, "one night, gone on with five times"
    assert {each.key for each in record.cells} == {*sealed(folder)}
    assert len(record.cells) == 9
    assert {each.status for each in record.cells} == {Status.JUDGED}
    assert ended.code == record.exit_code
    after = sealed(folder)
    assert {key: after[key] for key in kept} == kept
    for each in record.cells:
        reader = RunReader(folder / each.directory)
        manifest = reader.manifest
        rows = reader.samples().num_rows
        assert manifest.sealed
        assert reader.altered_files() == ()
        assert rows == manifest.load.samples_written == sum(worker.samples_sent or 0 for worker in manifest.workers)
        assert rows > 10
    cut = [attempt for each in record.cells for attempt in each.attempts]
    assert cut, "no kill met a cell: the test would show nothing"
    assert {attempt.reason for attempt in cut} == {"cut off"}
    assert_nothing_left(tmp_path)
