"""A night with cells of every kind: each gets its word, and none stops the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from nightly_support import FAKE, cell, config, planned

from harness.errors import ExitCode, RunDirectoryError, UsageError
from harness.history.store import read
from harness.judgement import Verdict
from harness.nightly.lock import only_one
from harness.nightly.record import Night, Status
from harness.nightly.runner import HISTORY, run_night
from harness.nightly.store import read_night
from harness.results_store import ResultsStore
from harness.runlog import RunReader

pytestmark = pytest.mark.usefixtures("fake_runs")
ALL = (
    "server",
    "passes",
    "fails",
    "invalid",
    "crash",
    "killed",
    "sealed-only",
    "invalid-once",
    "server-once",
    "no-space",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, fake_runs: Path) -> tuple[Night, Path]:
    folder = tmp_path_factory.mktemp("night")
    spec, plan = planned(folder, *ALL)
    return run_night(spec, plan, resume=False, say=lambda text: None, command=FAKE)


@pytest.mark.parametrize(
    ("variant", "status", "code", "attempts"),
    [
        ("passes", Status.JUDGED, ExitCode.PASS, 0),
        ("fails", Status.JUDGED, ExitCode.FAIL, 0),
        ("invalid", Status.JUDGED, ExitCode.INVALID, 1),
        ("server", Status.FAILED, ExitCode.SERVER, 2),
        ("crash", Status.FAILED, ExitCode.LOAD, 2),
        ("killed", Status.FAILED, ExitCode.LOAD, 2),
        ("sealed-only", Status.JUDGED, ExitCode.PASS, 0),
        ("invalid-once", Status.JUDGED, ExitCode.PASS, 1),
        ("server-once", Status.JUDGED, ExitCode.PASS, 1),
        ("no-space", Status.FAILED, ExitCode.USAGE, 1),
    ],
)
def test_each_cell_gets_its_word(
    whole: tuple[Night, Path], variant: str, status: Status, code: ExitCode, attempts: int
) -> None:
    """A FAIL is never tried again; what is no result is, once; a wrong use or a full disk is not."""
    night, folder = whole
    found = cell(night, variant)
    assert (found.status, found.exit_code, len(found.attempts)) == (status, code, attempts)
    assert (folder / "cells" / found.key).is_dir() == (status is Status.JUDGED)
    assert all((folder / attempt.directory).is_dir() for attempt in found.attempts)


def test_why_a_cell_could_not_be_run_is_told(whole: tuple[Night, Path]) -> None:
    night, _ = whole
    assert cell(night, "server").sentence == "the server did not stand up"
    assert "SIGKILL" in cell(night, "killed").sentence
    assert "no space left on the disk" in cell(night, "no-space").sentence
    assert "made up by a test" in cell(night, "invalid").sentence


def test_the_night_ends_with_its_worst_code_and_a_page(whole: tuple[Night, Path]) -> None:
    night, folder = whole
    assert night.exit_code == ExitCode.LOAD
    assert night.sentence.startswith("FAILED: test, night ")
    assert "4 PASS, 1 FAIL, 1 INVALID, 4 FAILED" in night.sentence
    assert read_night(folder) == night
    page = (folder / "summary.html").read_text(encoding="utf-8")
    for each in night.cells:
        assert each.variant in page
        assert not each.report or f'href="{each.report}"' in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "FAILED" in (folder / "verdict.md").read_text(encoding="utf-8")
    assert (folder.parent / "latest").resolve() == folder


def test_only_runs_that_count_are_among_the_cells(whole: tuple[Night, Path]) -> None:
    night, folder = whole
    there = {path.name for path in (folder / "cells").iterdir()}
    assert there == {each.key for each in night.cells if each.status is Status.JUDGED}
    assert all(RunReader(path).manifest.sealed for path in (folder / "cells").iterdir())


def test_a_full_disk_stops_the_night_and_keeps_what_is_there(tmp_path: Path) -> None:
    spec, plan = planned(tmp_path, "passes", "fails", min_free_gib=5)
    readings = iter([6.0, 4.5])
    night, folder = run_night(
        spec, plan, resume=False, say=lambda text: None, command=FAKE, free=lambda _: next(readings)
    )
    assert cell(night, "passes").verdict is Verdict.PASS
    assert cell(night, "fails").status is Status.NOT_RUN
    assert "4.5 GiB free, less than the 5 GiB" in night.stopped
    assert night.exit_code == ExitCode.INCONCLUSIVE, "a night that left a cell out is never PASS"
    # and is gone on with, once there is room
    night, again = run_night(spec, plan, resume=True, say=lambda text: None, command=FAKE, free=lambda _: 6.0)
    assert again == folder
    assert night.stopped == ""
    assert cell(night, "fails").verdict is Verdict.FAIL
    assert night.resumed == 1


def test_a_cell_that_does_not_fit_into_the_time_is_not_run(tmp_path: Path) -> None:
    spec, plan = planned(tmp_path, "server", "passes", budget_s=1)
    night, _ = run_night(spec, plan, resume=False, say=lambda text: None, command=FAKE)
    assert [each.status for each in night.cells] == [Status.NOT_RUN, Status.NOT_RUN]
    assert "of the night's time were left" in night.cells[0].sentence
    assert night.exit_code == ExitCode.INCONCLUSIVE
    heard: list[str] = []
    _, folder = run_night(spec, plan, resume=True, say=heard.append, command=FAKE)
    assert "is finished" in heard[0], "what did not fit is no reason to go on with a night"
    assert folder.name != night.night


def test_a_night_goes_into_the_history_and_damage_there_changes_no_verdict(tmp_path: Path) -> None:
    spec, plan = planned(tmp_path, "passes", "fails", retries=0)
    night, folder = run_night(spec, plan, resume=False, say=lambda text: None, command=FAKE)
    assert night.notes == ()
    kept = read(folder.parent / HISTORY)
    assert sorted(row.verdict for rows in kept.values() for row in rows) == ["FAIL", "PASS"]
    (folder.parent / HISTORY).write_bytes(b"no database")
    night, _ = run_night(spec, plan, resume=False, say=lambda text: None, command=FAKE)
    assert night.exit_code == ExitCode.FAIL
    assert [note.partition(":")[0] for note in night.notes] == ["not in the history"]


def test_a_cell_that_hangs_is_ended_and_the_next_one_runs(tmp_path: Path) -> None:
    spec, plan = planned(tmp_path, "hangs", "server", retries=0, cell_timeout_s=2)
    night, _ = run_night(spec, plan, resume=False, say=lambda text: None, command=FAKE)
    assert cell(night, "hangs").exit_code == ExitCode.LOAD
    assert "had not ended after 2 s" in cell(night, "hangs").sentence
    assert cell(night, "server").exit_code == ExitCode.SERVER


def test_two_nights_at_once_are_refused_and_a_stale_lock_is_none(tmp_path: Path) -> None:
    spec, plan = planned(tmp_path, "server", retries=0)
    with only_one(tmp_path / "runs"), pytest.raises(UsageError, match=rf"another night .*pid {os.getpid()}"):
        run_night(spec, plan, resume=False, say=lambda text: None, command=FAKE)
    (tmp_path / "runs" / ".lock").write_text("1\n")
    night, _ = run_night(spec, plan, resume=False, say=lambda text: None, command=FAKE)
    assert night.finished


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import signal
signal.signal(signal.SIGTERM, signal.default_int_handler)
from nightly_support import FAKE
from harness.nightly.plan import plan_night
from harness.nightly.runner import run_night
from harness.nightly.spec import load_nightly
path = Path({config!r})
spec = load_nightly(path)
night, _ = run_night(spec, plan_night(spec, path.parent), resume=True, say=print, command=FAKE)
sys.exit(night.exit_code)
"""


@pytest.fixture
def in_a_cell(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A night in a process of its own, in the middle of its second cell."""
    path = config(tmp_path, "passes", request.param, "server", retries=0)
    program = DRIVER.format(tests=str(Path(__file__).parent), config=str(path))
    process = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2])
    try:
        deadline = time.monotonic() + 60
        while not [*tmp_path.glob("runs/*/attempts/*/hangs")]:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process, tmp_path
    finally:
        process.kill()
        process.wait()


def left(folder: Path) -> list[list[str]]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if any(str(folder / "runs") in word for word in line):
            found.append(line)
    return found


def until_nothing_is_left(folder: Path) -> None:
    deadline = time.monotonic() + 20
    while left(folder):
        assert time.monotonic() < deadline, left(folder)
        time.sleep(0.05)


@pytest.mark.parametrize("in_a_cell", ["hangs", "cut-off"], indirect=True)
def test_term_ends_the_cell_in_order_and_names_what_was_not_run(
    in_a_cell: tuple[subprocess.Popen[bytes], Path],
) -> None:
    """A run that was interrupted is no result, even when it was sealed and judged on what it had."""
    process, folder = in_a_cell
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == ExitCode.INCONCLUSIVE
    night = read_night(folder / "runs" / "latest")
    assert [each.status for each in night.cells] == [Status.JUDGED, Status.NOT_RUN, Status.NOT_RUN]
    assert night.cells[1].attempts[0].exit_code is None
    assert night.stopped.startswith("interrupted during chatbot--vllm-7b-int8-a100--")
    until_nothing_is_left(folder)


@pytest.mark.parametrize("in_a_cell", ["hangs"], indirect=True)
def test_a_killed_night_leaves_nothing_running_and_is_gone_on_with(
    in_a_cell: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, folder = in_a_cell
    process.kill()
    process.wait()
    until_nothing_is_left(folder)
    before = read_night(folder / "runs" / "latest")
    assert not before.finished
    # What was judged is neither run again nor touched: to run it now would fail.
    spec, plan = planned(folder, "passes", "hangs", "server", retries=0, cell_timeout_s=1)
    night, _ = run_night(spec, plan, resume=True, say=lambda text: None, command=("/bin/false",))
    assert night.night == before.night
    assert cell(night, "passes") == cell(before, "passes")
    hung = cell(night, "hangs")
    assert (hung.attempts[0].reason, hung.attempts[0].exit_code) == ("cut off", None)
    assert hung.status is Status.FAILED


def test_what_a_killed_night_sealed_is_judged_and_counts(tmp_path: Path) -> None:
    """The kill came between the seal and the verdict, or between the verdict and the night's own record."""
    spec, plan = planned(tmp_path, "passes", "sealed-only", retries=0)
    night, folder = run_night(spec, plan, resume=False, say=lambda text: None, command=FAKE)
    for each in night.cells:
        (folder / "cells" / each.key).rename(folder / "attempts" / f"{each.key}--1")
    sealed = folder / "attempts" / f"{cell(night, 'sealed-only').key}--1"
    (sealed / "judgement.json").unlink()
    waiting = tuple(
        each.model_copy(update={"status": Status.WAITING, "verdict": None, "exit_code": None}) for each in night.cells
    )
    cut = night.model_copy(update={"cells": waiting, "ended": "", "exit_code": None})
    (folder / "nightly.json").write_text(cut.model_dump_json())
    night, again = run_night(spec, plan, resume=True, say=lambda text: None, command=FAKE)
    assert again == folder
    assert [each.verdict for each in night.cells] == [Verdict.PASS, Verdict.PASS]
    assert [each.attempts for each in night.cells] == [(), ()]
    assert len([*(folder / "attempts").iterdir()]) == 0, "nothing was run again"


# Where results go, and who is told ----------------------------------------------------------------


def test_each_judged_run_is_stored_and_the_page(tmp_path: Path) -> None:
    spec, plan = planned(tmp_path, "passes", "server", retries=0, results=f"file://{tmp_path}/elsewhere")
    night, _ = run_night(spec, plan, resume=False, say=lambda text: None, command=FAKE)
    store = ResultsStore(spec.results)
    assert store.names() == [f"test/{night.night}/chatbot--vllm-7b-int8-a100--passes"]
    assert cell(night, "passes").stored == f"{spec.results}/{store.names()[0]}"
    assert (tmp_path / "elsewhere" / "test" / night.night / "summary.html").is_file()


@pytest.mark.parametrize(("variant", "code"), [("passes", ExitCode.USAGE), ("fails", ExitCode.FAIL)])
def test_a_night_that_cannot_be_stored_is_never_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str, code: ExitCode
) -> None:
    def refuse(self: ResultsStore, directory: Path, name: str) -> str:
        raise RunDirectoryError("--results x: cannot write it: no")

    monkeypatch.setattr(ResultsStore, "publish", refuse)
    spec, plan = planned(tmp_path, variant, results=f"file://{tmp_path}/elsewhere")
    night, _ = run_night(spec, plan, resume=False, say=lambda text: None, command=FAKE)
    assert night.exit_code == code
    assert night.notes == ("not stored: --results x: cannot write it: no",)
    assert ("not all of it is where --results says" in night.sentence) == (variant == "passes")


@pytest.mark.parametrize(
    ("when", "variant", "answer", "posts"),
    [("always", "passes", "", 1), ("not-pass", "passes", "", 0), ("not-pass", "fails", "the webhook answered 500", 1)],
)
def test_people_are_told_and_a_webhook_changes_no_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, variant: str, answer: str, posts: int
) -> None:
    told: list[tuple[str, str]] = []

    def post(url: str, text: str) -> str:
        told.append((url, text))
        return answer

    monkeypatch.setattr("harness.nightly.runner.notify", post)
    asked = {"url_env": "HOOK", "when": when, "link": "https://ci.example/{night}"}
    spec, plan = planned(tmp_path, variant, notify=asked)
    night, folder = run_night(spec, plan, resume=False, say=lambda text: None, command=FAKE, webhook="http://secret")
    assert night.exit_code == (0 if variant == "passes" else ExitCode.FAIL)
    assert told == [("http://secret", f"{night.sentence} https://ci.example/{night.night}")][:posts]
    assert night.notes == ((f"nobody was told: {answer}",) if answer else ())
    assert all(note in (folder / "summary.html").read_text() for note in night.notes)
    assert "http://secret" not in (folder / "nightly.json").read_text()


def test_a_webhook_that_is_not_set_is_noted(tmp_path: Path) -> None:
    spec, plan = planned(tmp_path, "server", retries=0, notify={"url_env": "HOOK"})
    night, _ = run_night(spec, plan, resume=False, say=lambda text: None, command=FAKE)
    assert night.notes == ("nobody was told: HOOK is not set",)
