"""What goes wrong at night, and the word that each gets; all of it in two nights of real cells."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.catalog import load_catalog
from harness.errors import ExitCode
from harness.judgement import Verdict
from harness.nightly.record import Night, Status
from harness.runlog import RunReader
from tests.e2e.nights import SHORT, cell, command, folder_of, night_file, night_of, progress, short_scenario
from tests.e2e.processes import (
    HARNESS,
    STARVED,
    Ended,
    assert_no_trace,
    assert_nothing_left,
    judgement_of,
    run,
    samples_of,
    started,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NIGHT_S = 500.0
ENOUGH = SHORT | {"users": 5, "run_time_s": 6}
"""Of a load that can PASS: more than 59 requests."""
JUMP_S = 3600.0
CLOCK = f"""
import os, time
_real, _file, _jumped = time.time, os.environ["CLOCK_JUMPS"], []
def _time():
    if not _jumped and os.path.exists(_file):
        _jumped.append(True)
    return _real() + ({JUMP_S} if _jumped else 0)
time.time = _time
"""


def impatient_stack() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(load_catalog().stack("vllm-7b-int8-a100").model_dump_json(exclude_none=True))
    return found | {"name": "impatient", "launch": found["launch"] | {"ready_timeout_s": 2}}


def block(stack: str, *variants: str) -> dict[str, Any]:
    return {"scenarios": ["chatbot-short"], "stacks": [stack], "variants": list(variants)}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Night, Path, Ended]:
    """One night of every fault. The load generator of ``worker-lost`` is killed in its first attempt."""
    folder = tmp_path_factory.mktemp("faults")
    variants = {
        "no-start": SHORT | {"faults": "slow_start:30"},
        "worker-lost": SHORT,
        "dies": SHORT | {"faults": "exit_after:12"},
        "hangs": SHORT | {"faults": "stall:1.0:after=1"},
        "errors": SHORT | {"faults": "500:1.0"},
        "healthy": ENOUGH,
    }
    matrix = [
        block("impatient", "no-start"),
        block("vllm-7b-int8-a100", *(name for name in variants if name[:2] != "no")),
    ]
    path = night_file(folder, matrix, variants, [impatient_stack()], retries=2)
    with started(command(path), folder / "harness") as process:

        def loading() -> list[dict[str, Any]]:
            files = (folder / "runs").glob("*/attempts/*--worker-lost--1/progress.jsonl")
            told = [json.loads(line) for file in files for line in file.read_text().split("\n")[:-1]]
            return [event for event in told if event["phase"] == "load"]

        (event, *_) = process.until(loading, "load in worker-lost", NIGHT_S)
        os.kill(int(event["pid"]), signal.SIGKILL)
        ended = process.end(NIGHT_S)
    assert_nothing_left(folder)
    return night_of(path), folder_of(path), ended


def test_a_server_that_does_not_start_is_tried_again_and_told(night: tuple[Night, Path, Ended]) -> None:
    found = cell(night[0], "no-start")
    assert (found.status, found.exit_code) == (Status.FAILED, ExitCode.SERVER)
    assert [attempt.exit_code for attempt in found.attempts] == [ExitCode.SERVER] * 3
    assert "in time" in found.sentence


def test_a_lost_load_generator_is_no_result(night: tuple[Night, Path, Ended]) -> None:
    found = cell(night[0], "worker-lost")
    assert found.attempts[0].exit_code == ExitCode.LOAD
    assert "SIGKILL" in found.attempts[0].reason
    assert found.status is Status.JUDGED
    assert found.verdict is not Verdict.FAIL
    assert (night[1] / found.attempts[0].directory / "samples.arrows").exists(), "what it had recorded is kept"


@pytest.mark.parametrize(
    ("variant", "words"), [("dies", "the server died during the run"), ("hangs", "p95(e2e)"), ("errors", "p95(e2e)")]
)
def test_what_the_server_does_is_a_fail_and_never_tried_again(
    night: tuple[Night, Path, Ended], variant: str, words: str
) -> None:
    found = cell(night[0], variant)
    assert (found.status, found.verdict) == (Status.JUDGED, Verdict.FAIL)
    assert words in found.sentence
    assert [attempt.reason for attempt in found.attempts if not any(each in attempt.reason for each in STARVED)] == []


def test_the_night_goes_on_and_ends_with_the_worst(night: tuple[Night, Path, Ended]) -> None:
    record, folder, ended = night
    assert ended.code == record.exit_code == ExitCode.SERVER
    assert_no_trace(ended.out, ended.err)
    assert ended.out.startswith("FAILED: test, night ")
    healthy = cell(record, "healthy")
    assert healthy.verdict is Verdict.PASS, healthy.sentence
    assert (folder / healthy.report).is_file()


def test_a_clock_that_jumps_changes_no_verdict(tmp_path: Path) -> None:
    """An hour ahead in the middle of the load: durations and the night's time are of the monotonic clock."""
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(CLOCK)
    jumps = tmp_path / "jumped"
    variables = {"PYTHONPATH": str(tmp_path / "clock"), "CLOCK_JUMPS": str(jumps)}
    matrix = [block("vllm-7b-int8-a100", "steady", "after")]
    path = night_file(tmp_path, matrix, {"steady": ENOUGH, "after": ENOUGH | {"seed": 2}}, retries=2, budget_s=1500)
    with started(command(path), tmp_path / "harness", variables) as process:
        process.until(lambda: [each for each in progress(path) if each["phase"] == "load"], "load", NIGHT_S)
        jumps.touch()
        ended = process.end(NIGHT_S)
    assert_no_trace(ended.out, ended.err)
    record, folder = night_of(path), folder_of(path)
    assert [each.verdict for each in record.cells] == [Verdict.PASS, Verdict.PASS], ended.out
    assert ended.code == ExitCode.PASS
    assert record.seconds < JUMP_S
    moments = [each["at_s"] for each in progress(path)]
    assert max(moments) > min(moments) + JUMP_S / 2, "the clock never jumped: the test would show nothing"
    for each in record.cells:
        judgement = judgement_of(folder / each.directory)
        assert judgement.load.window_s == pytest.approx(ENOUGH["run_time_s"] * 0.8, abs=0.5)
        assert max(spread.max or 0 for spread in judgement.distributions) < 60
        assert samples_of(folder / each.directory).num_rows == judgement.client.samples_sent


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("a small file system can be mounted by root alone")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False, capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"mount: {done.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_fills_up_ends_the_night_with_a_plain_sentence(tmp_path: Path, small_disk: Path) -> None:
    """First before a cell, by the guard; then, without one, in the middle of a run."""
    matrix = [block("vllm-7b-int8-a100", "short")]
    path = night_file(tmp_path, matrix, {"short": SHORT}, runs=str(small_disk / "runs"), min_free_gib=0.5, retries=0)
    ended = run(command(path))
    assert ended.code == ExitCode.INCONCLUSIVE
    assert "less than the 0.5 GiB that min_free_gib asks for" in ended.out
    assert_no_trace(ended.out, ended.err)
    (small_disk / "filler").write_bytes(bytes(900 * 1024))
    path.write_text(path.read_text().replace("min_free_gib: 0.5", "min_free_gib: 0"))
    with started(command(path), tmp_path / "harness") as process:
        ended = process.end(NIGHT_S)
    assert ended.code == ExitCode.USAGE, ended.out + ended.err
    assert "no space left on the disk" in ended.err
    assert_no_trace(ended.err)
    nights = [*(small_disk / "runs").glob("2*")]
    assert all((each / "nightly.json").exists() for each in nights), "the record is whole, or the night never began"
    assert_nothing_left(small_disk)


def test_a_run_goes_where_results_go(tmp_path: Path) -> None:
    """``harness run --results``: sealed, judged, and then there."""
    night_file(tmp_path, [block("vllm-7b-int8-a100")], {})
    own = (
        "--users",
        "3",
        "--think-time",
        "0.2",
        "--output-tokens",
        "8",
        "--run-time",
        "2",
        "--run-dir",
        tmp_path / "run",
    )
    stack = ("chatbot-short", "--stack", "vllm-7b-int8-a100", "--catalog", tmp_path / "catalog")
    ended = run([*HARNESS, "run", *stack, *own, "--results", f"file://{tmp_path}/elsewhere"])
    assert "stored: file://" in ended.err
    (stored,) = [*(tmp_path / "elsewhere").iterdir()]
    assert RunReader(stored).manifest == RunReader(tmp_path / "run").manifest
    assert RunReader(stored).altered_files() == ()
    assert short_scenario("chatbot")["name"] in stored.name
