"""A search from options to ``capacity.json``, its levels recorded without a server: kept, resumed, cut short."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from harness import capacity_run, capacity_sizing
from harness.capacity_log import CAPACITY, read_capacity, write_capacity
from harness.capacity_record import CapacityRecord
from harness.capacity_run import Search, SizingOptions, default_settings, exit_code, new_record, resumed, run_search
from harness.capacity_sizing import confirm, with_sizing
from harness.catalog import load_catalog
from harness.cell import Cell
from harness.cli import app
from harness.daily_profile import DAILY_PROFILES
from harness.errors import ExitCode, HarnessError, RunDirectoryError, UsageError
from harness.judge import judge, write_judgement
from harness.judgement import Verdict
from harness.level import run_time_s
from harness.matrix import Options
from harness.run import CellProgress, OnChange
from harness.spec import Timing
from tests.runs import Loop, load, scenario, write_run

STACK = "vllm-13b-int8-a100"
MOST = 30
"""Users that the recorded stack carries, a replica."""

Answer = Callable[[random.Random, float], float | None]


def fast(rng: random.Random, now: float) -> float:
    return 0.5 + rng.random()


def slow(rng: random.Random, now: float) -> float:
    return 2.5 + rng.random()


def record_run(cell: Cell, answer: Answer, **changes: object) -> CellProgress:
    """Leave the directory of a run, and its judgement, as a Locust child would."""
    users = cell.scenario.users
    loop = Loop(users=users, think_s=1.0, answer=answer)
    facts = load(**{"users_asked": users, "users_reached": users, **changes})
    manifest = {"stack": cell.stack, "gpu": cell.gpu, "run": cell.run, "confidence": cell.confidence}
    write_run(cell.run_dir, loop.samples(), cell.scenario, facts, **manifest)
    judgement = judge(cell.run_dir)
    write_judgement(cell.run_dir, judgement)
    return CellProgress(cell, state="judged", exit_code=judgement.verdict.exit_code, judgement=judgement)


class Machine:
    """Stands in for the processes that run cells: a stack with a cliff at :data:`MOST` users a replica."""

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.confidences: list[float] = []
        self.instead: dict[int, Callable[[Cell], CellProgress]] = {}
        """By number of users."""

    def __call__(self, cells: Sequence[Cell], on_change: OnChange) -> list[CellProgress]:
        [cell] = cells
        users = cell.scenario.users
        self.ran.append(users)
        assert cell.manifest().confidence == cell.confidence
        self.confidences.append(cell.confidence)
        if users in self.instead:
            return [self.instead[users](cell)]
        return [record_run(cell, fast if users <= MOST * cell.stack.replicas else slow)]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(capacity_run, "run_cells", made)
    monkeypatch.setattr(capacity_sizing, "run_cells", made)
    return made


def a_search(directory: Path, levels_max: int = 12, **options: object) -> Search:
    catalog = load_catalog()
    settings = default_settings(
        catalog.scenario("chatbot"), "users", start=None, most=None, levels_max=levels_max, precision=0.05
    )
    asked = Options(scenarios=("chatbot",), stacks=(STACK,), think_time_s=1.0, run_time_s=100.0)
    sizing = SizingOptions("flat", DAILY_PROFILES["flat"], utilisation=0.8, spare=1)
    return Search(catalog, replace(asked, **options), settings, sizing, directory, date(2026, 11, 22))  # type: ignore[arg-type]


def ran(search: Search, record: CapacityRecord | None = None) -> CapacityRecord:
    return run_search(
        search, record or new_record(search), lambda place, at: None, lambda progress: None, lambda so_far: None
    )


def test_a_whole_search(machine: Machine, tmp_path: Path) -> None:
    search = a_search(tmp_path)
    found = with_sizing(search, ran(search))
    assert machine.ran[:3] == [25, 50, 35]
    assert found.interval.feasible == MOST
    assert found.interval.infeasible == MOST + 1
    assert (found.verdict, exit_code(found)) == (Verdict.PASS, ExitCode.PASS)
    assert found.shape == "cliff"
    assert found.binding.startswith("p95(e2e) is ")
    assert found.sentence.startswith("capacity is 30 users: every level up to there passes; 31 users fail (p95(e2e)")
    assert set(machine.confidences) == {1 - 0.05 / 12}
    assert read_capacity(tmp_path) == found
    assert found.sizing is not None
    assert found.sizing.replicas is not None
    assert found.sizing.replicas.needed == 5  # 100 / (0.8 x 30) = 4.2
    assert found.sizing.break_even is not None
    assert found.sizing.break_even.api == "openai-gpt4"
    assert [tag.stack for tag in found.prices] == [STACK, "openai-gpt4"]
    assert all((tmp_path / level.run_dir / "manifest.json").exists() for level in found.levels)
    assert len({level.run_dir for level in found.levels}) == len(machine.ran)


def test_a_tighter_limit_carries_less_and_a_looser_one_no_less(machine: Machine, tmp_path: Path) -> None:
    def queueing(cell: Cell) -> CellProgress:
        return record_run(cell, lambda rng, now: 0.05 * cell.scenario.users + 0.001 * rng.random())

    machine.instead = dict.fromkeys(range(1, 900), queueing)
    search = a_search(tmp_path)
    found = with_sizing(search, ran(search))
    assert found.interval.feasible == 39, "40 users wait 2 s"
    assert found.sizing is not None
    assert found.sizing.usd_per_1000_good is not None
    limit = {bar.label: bar for bar in found.sizing.bars}["limit of the latency checks"]
    assert limit.low_usd is not None
    assert limit.high_usd is not None
    assert limit.low_usd > found.sizing.usd_per_1000_good > limit.high_usd


def test_it_is_resumed_without_running_a_level_twice(machine: Machine, tmp_path: Path) -> None:
    search = a_search(tmp_path)
    whole = ran(search)
    tried = list(machine.ran)
    for kept in range(len(tried)):
        write_capacity(tmp_path, whole.model_copy(update={"levels": whole.levels[:kept]}))
        machine.ran.clear()
        again = ran(search, resumed(search, read_capacity(tmp_path)))
        assert machine.ran == [], "sealed levels are found again, also those that the record lacks"
        assert again.interval == whole.interval
        assert [level.load for level in again.levels] == [float(users) for users in tried]


def test_another_search_is_not_mixed_with_it(machine: Machine, tmp_path: Path) -> None:
    ran(a_search(tmp_path))
    with pytest.raises(UsageError, match="holds a search with another settings"):
        resumed(a_search(tmp_path, levels_max=9), read_capacity(tmp_path))
    with pytest.raises(UsageError, match="holds a search with another options"):
        resumed(a_search(tmp_path, seed=2), read_capacity(tmp_path))


def interrupt(cell: Cell) -> CellProgress:
    return record_run(cell, fast, ended_by="interrupted", complete=False)


def test_ctrl_c_keeps_what_was_found(machine: Machine, tmp_path: Path) -> None:
    machine.instead[35] = interrupt
    search = a_search(tmp_path)
    cut = ran(search)
    assert (cut.ended, exit_code(cut)) == ("interrupted", ExitCode.INCONCLUSIVE)
    assert (cut.interval.feasible, cut.interval.infeasible) == (25, 50)
    assert read_capacity(tmp_path) == cut
    machine.instead.clear()
    again = ran(search, resumed(search, read_capacity(tmp_path)))
    assert again.interval.feasible == MOST
    assert machine.ran.count(35) == 2, "a level that was cut short is no level"
    assert any(level.run_dir.endswith("-again-2") for level in again.levels)


def test_ctrl_c_between_levels(machine: Machine, tmp_path: Path) -> None:
    def no_more(cell: Cell) -> CellProgress:
        raise KeyboardInterrupt

    machine.instead[25] = no_more
    assert exit_code(ran(a_search(tmp_path))) is ExitCode.INTERRUPTED


def test_a_client_at_its_end_ends_the_search_upward(machine: Machine, tmp_path: Path) -> None:
    def starved(cell: Cell) -> CellProgress:
        return record_run(cell, fast, users_reached=3)

    machine.instead = dict.fromkeys(range(28, 900), starved)
    found = ran(a_search(tmp_path))
    assert found.interval.invalid is not None
    assert max(machine.ran) == 50
    assert found.interval.infeasible is None
    assert found.verdict is Verdict.PASS
    assert "the load generator was the bottleneck, so the stack may carry more" in found.sentence


def test_a_machine_that_was_disturbed_once_gets_a_second_try(machine: Machine, tmp_path: Path) -> None:
    def once(cell: Cell) -> CellProgress:
        del machine.instead[35]
        return record_run(cell, fast, users_reached=3)

    machine.instead[35] = once
    found = ran(a_search(tmp_path))
    assert machine.ran.count(35) == 2
    assert (found.interval.feasible, found.interval.infeasible, found.interval.invalid) == (MOST, MOST + 1, None)
    assert sum(level.run_dir.endswith("-again-2") for level in found.levels) == 1


def test_nothing_but_the_least_level_and_it_fails(machine: Machine, tmp_path: Path) -> None:
    machine.instead = dict.fromkeys(range(1, 900), lambda cell: record_run(cell, slow))
    found = ran(a_search(tmp_path))
    assert found.interval.feasible is None
    assert with_sizing(a_search(tmp_path), found) == found, "nothing is sized from nothing"
    # one user asks too seldom for a verdict of its own
    assert found.verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE)
    assert exit_code(found) in (ExitCode.FAIL, ExitCode.INCONCLUSIVE)
    assert min(machine.ran) == 1


def test_a_server_that_does_not_stand_up_ends_it(machine: Machine, tmp_path: Path) -> None:
    def broken(cell: Cell) -> CellProgress:
        return CellProgress(cell, state="failed", error="no such image", exit_code=ExitCode.SERVER)

    machine.instead[25] = broken
    first = ran(a_search(tmp_path / "a"))
    assert (first.ended, exit_code(first)) == ("a level did not run: no such image", ExitCode.SERVER)
    machine.instead = {50: broken}
    later = ran(a_search(tmp_path / "b"))
    assert exit_code(later) is ExitCode.INCONCLUSIVE
    assert later.interval.feasible == 25


def test_the_sized_replicas_are_run(machine: Machine, tmp_path: Path) -> None:
    search = a_search(tmp_path)
    found = confirm(search, with_sizing(search, ran(search)), lambda progress: None)
    assert machine.ran[-1] == 100
    assert machine.confidences[-1] == 0.95
    assert found.confirmation is not None
    assert found.confirmation.verdict is Verdict.PASS
    assert found.confirmation.sentence.startswith("a run of 5 replicas at 100 users, the spare ones left out, confirms")
    assert (tmp_path / found.confirmation.run_dir / "manifest.json").exists()


def test_what_contradicts_the_sizing_is_said(machine: Machine, tmp_path: Path) -> None:
    search = a_search(tmp_path)
    found = with_sizing(search, ran(search))
    machine.instead[100] = lambda cell: record_run(cell, slow)
    said = confirm(search, found, lambda progress: None).confirmation
    assert said is not None
    assert "contradicts the sizing" in said.sentence
    machine.instead[100] = lambda cell: CellProgress(cell, state="failed", error="it is not installed: haproxy")
    said = confirm(search, found, lambda progress: None).confirmation
    assert said is not None
    assert said.sentence == "not confirmed, the run did not come about: it is not installed: haproxy"


def test_a_light_level_runs_longer() -> None:
    timing = Timing(warm_up_s=10, run_time_s=100)
    desk = scenario("p95(e2e) < 2 s", think_s=8.0)
    confidence = 1 - 0.05 / 12
    assert run_time_s(desk, timing, "users", 100, confidence) == 100
    # 148 requests, one violating, pass p95 at that confidence; 10 users ask 10 / (8 + 2) a second
    assert 140 <= run_time_s(desk, timing, "users", 10, confidence) <= 170
    assert run_time_s(desk, timing, "users", 1, confidence) == 400, "at most four times the profile's"
    assert run_time_s(desk, timing, "rate", 1.0, confidence) == run_time_s(desk, timing, "users", 10, confidence)


def test_a_record_of_a_newer_harness_is_refused(tmp_path: Path) -> None:
    search = a_search(tmp_path)
    write_capacity(tmp_path, new_record(search).model_copy(update={"format": 99}))
    with pytest.raises(RunDirectoryError, match="format 99"):
        read_capacity(tmp_path)
    (tmp_path / CAPACITY).write_text("{")
    with pytest.raises(RunDirectoryError, match="damaged"):
        read_capacity(tmp_path)
    with pytest.raises(RunDirectoryError, match="holds no capacity search"):
        read_capacity(tmp_path / "elsewhere")


# The command ------------------------------------------------------------------------------------


def harness(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("chatbto", "--stack", STACK), "did you mean 'chatbot'?"),
        (("chatbot", "--stack", "vllm-7b-t5"), "did you mean 'vllm-7b-t4'?"),
        (("chatbot",), "give one --stack to load, or --attach"),
        (("chatbot", "--stack", STACK, "--attach", "http://127.0.0.1:9"), "give one --stack"),
        (("chatbot", "--stack", STACK, "--users-max", "3", "--start", "9"), "--users-max 3 is below the first level"),
        (("chatbot", "--stack", STACK, "--start", "0"), "--start must be at least 1"),
        (("chatbot", "--stack", STACK, "--users-max", "0", "--start", "1"), "--users-max 0 is below"),
        (("chatbot", "--stack", STACK, "--rate", "--users-max", "9"), "with --rate give --rate-max"),
        (("chatbot", "--stack", STACK, "--rate-max", "9"), "give --rate as well"),
        (("chatbot", "--stack", STACK, "--rate", "--think-time", "1"), "do not think"),
        (("chatbot", "--stack", STACK, "--resume"), "--resume needs --run-dir"),
        (("chatbot", "--stack", STACK, "--daily-load", "ofice-hours"), "did you mean 'office-hours'?"),
        (("chatbot", "--stack", STACK, "--utilisation", "0"), "--utilisation must be above 0"),
        (("chatbot", "--stack", STACK, "--spare", "-1"), "--spare must be 0 or more"),
        (("chatbot", "--stack", STACK, "--against", "vllm-7b-t4"), "so it is no API to compare with"),
        (("chatbot", "--stack", STACK, "--against", "gpt"), "unknown stack 'gpt'"),
        (("chatbot", "--stack", STACK, "--max-cost", "1"), "nothing here pays for tokens"),
        (("chatbot", "--stack", STACK, "--levels-max", "0"), "--levels-max must be at least 1"),
        (("chatbot", "--stack", STACK, "--run-time", "0"), "--run-time must be above 0 s"),
        (("chatbot", "--stack", "openai-gpt4", "--real"), "give --max-cost USD for all of them together"),
        (("chatbot", "--stack", "openai-gpt4", "--real", "--max-cost", "1"), "give --yes to agree to it"),
    ],
)
def test_bad_input_is_one_sentence(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    directory = () if "--resume" in words else ("--run-dir", tmp_path / "run")
    error = harness("capacity", *words, *directory).exception
    assert isinstance(error, HarnessError)
    assert error.exit_code == ExitCode.USAGE
    assert said in str(error)
    assert not (tmp_path / "run").exists()


def test_the_command_prints_levels_and_the_sentence(machine: Machine, tmp_path: Path) -> None:
    words = ("capacity", "chatbot", "--stack", STACK, "--think-time", "1", "--run-time", "100", "--run-dir", tmp_path)
    done = harness(*words)
    assert done.exit_code == 0
    assert "PASS         30 users: 0 % violate" in done.output.replace("\xa0", " ")
    assert "capacity is 30 users" in done.output
    assert "rounded up = 5, and 1 spare" in done.output
    assert (tmp_path / "capacity.html").exists()
    again = harness(*words)
    assert isinstance(again.exception, UsageError)
    assert "holds a search already: give --resume" in str(again.exception)
    machine.ran.clear()
    assert harness(*words, "--resume", "--json").exit_code == 0
    assert machine.ran == []
    page = tmp_path / "page.html"
    assert harness("report", tmp_path, "--output", page).exit_code == 0
    assert "Capacity: " in page.read_text(encoding="utf-8")
    both = harness("report", tmp_path, tmp_path / "level-01-25-users", "--output", page)
    assert both.exit_code == 0
    assert "Capacity" in page.read_text(encoding="utf-8")
