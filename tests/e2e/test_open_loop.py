"""The open loop as a user starts it, against the emulator: every arrival of the schedule has a sample, at its time."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from harness.errors import ExitCode
from harness.judgement import Judgement, OpenLoad, Verdict
from harness.manifest import Manifest
from harness.records import LATE_S, OUT_OF_RESOURCES, Outcome
from harness.runlog import JUDGEMENT, SAMPLES_LIVE
from harness.schedule import arrival_times_s
from harness.spec import Timing
from tests.e2e.processes import (
    LOCUST,
    Ended,
    Together,
    answers,
    assert_no_trace,
    events,
    free_port,
    harness,
    in_phase,
    judgement_of,
    manifest_of,
    play_selected,
    post,
    run,
    samples_of,
    server_started,
    started,
    two_processes,
    unstarved,
)

pytestmark = pytest.mark.alone
RUN_S, RATE = 4.0, 100.0
BUSY_LATE_S = 0.1
"""How late the median arrival may be here, where tests share two cores; what a quiet machine does is benchmarked."""
LOCUSTFILE = ("-f", "locustfiles/translation.py")


@dataclass(frozen=True)
class Left:
    """A finished run."""

    ended: Ended
    run_dir: Path

    @property
    def manifest(self) -> Manifest:
        return manifest_of(self.run_dir)

    @property
    def judgement(self) -> Judgement:
        return judgement_of(self.run_dir)

    @property
    def samples(self) -> pa.Table:
        return samples_of(self.run_dir)


def emulator(folder: Path, *arguments: str) -> AbstractContextManager[str]:
    own = ("--fixed", "ttft_s=0.02,itl_s=0.005,tokens=4")
    return server_started([sys.executable, "-m", "servers.emulator", *own, *arguments], folder / "emulator")


def load(run_dir: Path, *options: str) -> list[str | Path]:
    return ["--run-dir", run_dir, "--run-time", f"{RUN_S:g}", *options]


def fed(options: tuple[str, ...], faults: tuple[str, ...], folder: Path) -> Left:
    """A run against an emulator, whose client must not have been starved."""
    left: list[Left] = []

    def play(attempt: Path) -> Judgement:
        with emulator(attempt, *faults) as url:
            own = load(attempt / "run", *options)
            left[:] = [Left(harness("run", "translation", "--attach", url, *own), attempt / "run")]
        return left[0].judgement

    unstarved(play, folder)
    return left[0]


def several_processes(folder: Path) -> Left:
    with emulator(folder) as url:
        own = ("--headless", "--only-summary", *two_processes(), "--host", url, "--rate", f"{RATE:g}")
        return Left(run([*LOCUST, *LOCUSTFILE, *own, *load(folder / "run")]), folder / "run")


def without_open_files(folder: Path) -> Left:
    """The limit covers what the scenario's own limit needs, not a server that takes many times as long."""
    with emulator(folder, "--fixed", "ttft_s=4,itl_s=0.005,tokens=4") as url:
        own = load(folder / "run", "--attach", url, "--rate", f"{3 * RATE:g}")
        limited = ["bash", "-c", 'ulimit -n 360 && exec "$@"', "bash", sys.executable, "-m", "harness.cli"]
        return Left(run([*limited, "run", "translation", *own]), folder / "run")


def web_form(folder: Path) -> Left:
    """Started and stopped by Locust's own web UI."""
    port, run_dir, progress = free_port(), folder / "run", folder / "progress.jsonl"
    web = f"http://127.0.0.1:{port}"
    own = ("--web-port", str(port), "--rate", "50", "--progress-file", progress, "--run-dir", run_dir)
    with (
        emulator(folder) as url,
        started([*LOCUST, *LOCUSTFILE, *own, "--run-time", "60", "--host", url], folder) as ui,
    ):
        ui.until(lambda: answers(web), "the web form")
        post(f"{web}/swarm", user_count=7, spawn_rate=1)
        ui.until(lambda: in_phase(progress, "warm-up") and events(progress)[-1]["completed"] > 50, "answers")
        assert (run_dir / SAMPLES_LIVE).exists()
        post(f"{web}/stop")
        ui.until(lambda: in_phase(progress, "done"), "the end of the run")
        assert (run_dir / JUDGEMENT).exists()
        ui.send(signal.SIGTERM)
        return Left(ui.end(), run_dir)


NONSENSE = {
    "rate": (("--rate", "-1"), "--rate must be above 0 requests/s, not -1"),
    "arrivals": (("--arrivals", "poisson"), "--arrivals poisson needs --rate, in requests/s"),
    "both loops": (
        ("--rate", "5", "--users", "5"),
        "--users belongs to a closed loop, --rate and --arrivals to an open one",
    ),
    "no trace": (("--arrivals", "trace:/nowhere.csv"), "/nowhere.csv: there is no such file"),
}


def nonsense(options: tuple[str, ...], folder: Path) -> Left:
    own = ("run", "translation", "--attach", "http://127.0.0.1:9", "--run-dir", folder)
    return Left(harness(*own, *options), folder)


PLAYS: dict[str, Callable[[Path], Left]] = {
    "constant": partial(fed, ("--rate", f"{RATE:g}", "--arrivals", "constant"), ()),
    "several processes": several_processes,
    "stalled": partial(fed, ("--rate", f"{RATE:g}"), ("--faults", "stall:0.5:after=2")),
    "without open files": without_open_files,
    "web form": web_form,
} | {name: partial(nonsense, options) for name, (options, _) in NONSENSE.items()}
RUNS = ("constant", "several processes", "stalled", "without open files", "web form")


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together[Left]]:
    yield from play_selected(request, PLAYS, tmp_path_factory.mktemp("open-loop"))


@pytest.fixture
def played(request: pytest.FixtureRequest, together: Together[Left]) -> Left:
    return together[request.param]


def play(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("played", names, indirect=True)


def schedule_of(manifest: Manifest) -> npt.NDArray[np.float64]:
    """What the manifest alone says that the schedule was."""
    arrivals, facts = manifest.scenario.arrivals, manifest.load
    assert arrivals is not None
    timing = Timing(warm_up_s=facts.warm_up_s, run_time_s=facts.run_time_s)
    return arrival_times_s(arrivals, timing, facts.tail_s, manifest.seeds["arrivals"])


def column(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    return np.asarray(table.column(name).to_numpy())


def open_load_of(left: Left) -> OpenLoad:
    found = left.judgement.load.open_loop
    assert found is not None
    return found


@play(*RUNS)
def test_no_run_leaves_a_stack_trace(played: Left) -> None:
    assert_no_trace(played.ended.out, played.ended.err)
    assert played.ended.code == played.judgement.verdict.exit_code


@play("constant", "several processes", "stalled", "web form")
def test_every_arrival_has_one_sample(played: Left) -> None:
    """Its ``user`` is the place in the schedule. A run that was stopped has the arrivals up to then."""
    manifest, places = played.manifest, sorted(column(played.samples, "user").astype(int))
    schedule, facts = schedule_of(manifest), manifest.load
    assert facts.loop == "open"
    assert places == list(range(len(places)))
    assert facts.arrivals_scheduled == len(schedule)
    assert facts.arrivals_due == facts.samples_written == len(places)
    if facts.ended_by == "run time":
        assert len(places) == len(schedule)
    else:
        assert facts.started_s is not None
        assert facts.stopped_issuing_s is not None
        assert facts.drained_s is not None
        # A worker hears of the stop some moments after it was sent, and before its load is drained.
        low, high = np.searchsorted(schedule, np.array([facts.stopped_issuing_s, facts.drained_s]) - facts.started_s)
        assert low <= len(places) <= high


@play("constant", "several processes", "stalled", "web form")
def test_every_arrival_is_at_its_time(played: Left) -> None:
    manifest, table = played.manifest, played.samples
    started_s = manifest.load.started_s
    assert started_s is not None
    origins = {worker.worker: worker.wall_s(0.0) - started_s for worker in manifest.workers}
    shift = np.array([origins[worker] for worker in table.column("worker").to_pylist()])
    due_s = schedule_of(manifest)[column(table, "user").astype(int)]
    assert np.abs(column(table, "scheduled_s") + shift - due_s).max() < 1e-5
    lag_s = column(table, "sent_s") - column(table, "scheduled_s")
    assert lag_s.min() >= 0, "nothing leaves before its time"
    assert np.median(lag_s) < BUSY_LATE_S


@play("constant", "several processes", "stalled")
def test_what_was_late_is_told(played: Left) -> None:
    judgement, schedule, table = played.judgement, schedule_of(played.manifest), played.samples
    assert judgement.window is not None
    found, in_window = open_load_of(played), (schedule >= judgement.window[0]) & (schedule <= judgement.window[1])
    assert found.due == found.started == int(in_window.sum())
    assert found.late_p99_s is not None
    lag_s = column(table, "sent_s") - column(table, "scheduled_s")
    assert found.late == int(((lag_s > LATE_S) & in_window[column(table, "user").astype(int)]).sum())


@play("constant")
def test_what_was_offered_is_told(played: Left) -> None:
    found = open_load_of(played)
    assert found.scheduled == RATE * (RUN_S + played.manifest.load.tail_s)
    assert found.completed_rps == pytest.approx(RATE, rel=0.1)
    assert "open loop, constant 100/s" in played.judgement.notes[0]
    assert "constant 100/s" in (played.run_dir / "report.html").read_text(encoding="utf-8")


@play("several processes")
def test_the_shares_of_two_processes_add_up(played: Left) -> None:
    workers, table = played.manifest.workers, played.samples
    first, second = (worker.arrivals_due for worker in workers)
    assert abs(first - second) <= 1
    ranks = {worker.worker: rank for rank, worker in enumerate(workers)}
    places = zip(table.column("user").to_pylist(), table.column("worker").to_pylist(), strict=True)
    assert all(place % 2 == ranks[worker] for place, worker in places)


@play("stalled")
def test_a_stalled_server_slows_no_arrival(played: Left) -> None:
    halves = open_load_of(played).in_flight_halves
    assert halves[1] > halves[0] > 10, "what is stalled stays in flight"
    outcomes = played.samples.column("outcome").to_pylist()
    assert 0.35 < outcomes.count(Outcome.IN_FLIGHT) / len(outcomes) < 0.65
    assert any(check.verdict is Verdict.FAIL for check in played.judgement.checks)


@play("without open files")
def test_a_client_without_open_files_is_invalid_and_counts_what_it_could_not_start(played: Left) -> None:
    assert played.ended.code == ExitCode.INVALID
    errors, facts = played.samples.column("error").to_pylist(), played.manifest.load
    refused = sum(error.startswith(OUT_OF_RESOURCES) for error in errors)
    assert refused > 10
    assert facts.arrivals_not_started == refused
    assert len(errors) == facts.arrivals_due, "not startable is counted, never skipped"
    assert any("could not be started" in reason for reason in played.judgement.reasons)


@play("web form")
def test_the_web_form_starts_and_stops_it(played: Left) -> None:
    facts = played.manifest.load
    assert facts.ended_by == "stopped"
    assert 0 < facts.arrivals_due < facts.arrivals_scheduled


@pytest.mark.parametrize(
    ("played", "sentence"), [(name, sentence) for name, (_, sentence) in NONSENSE.items()], indirect=["played"]
)
def test_nonsense_ends_before_any_server_is_asked(played: Left, sentence: str) -> None:
    assert played.ended.code == ExitCode.USAGE
    assert sentence in played.ended.err
    assert_no_trace(played.ended.out, played.ended.err)
