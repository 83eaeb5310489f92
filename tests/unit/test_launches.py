"""From run directories to launches: the values of a run, its blocks, hits and misses, and why it is left out."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.commands.compare import compare as compare_command
from harness.comparison import Comparison, Finding, Launch
from harness.errors import ExitCode, RunDirectoryError, UsageError
from harness.judge import judge
from harness.judgement import Verdict
from harness.launches import BLOCKS, headline_of, read_arms, read_launch
from harness.objective import Objective
from harness.records import ServerFacts
from tests import runs


def write(directory: Path, *, slower: float = 1.0, seed: int = 1, **changes: Any) -> Path:
    """A closed loop of 20 users whose answers take 0.5 to 1.5 s, times ``slower``."""

    def answer(rng: random.Random, now: float) -> float:
        return slower * (0.5 + rng.random())

    runs.loop_run(directory, runs.Loop(answer=answer, seed=seed), run=directory.name, **changes)
    return directory


def three(folder: Path, **changes: Any) -> Path:
    for number in (1, 2, 3):
        write(folder / f"run-{number}", seed=number, **changes)
    return folder


# Values ------------------------------------------------------------------------------------------


def test_a_launch_has_the_judgements_values(tmp_path: Path) -> None:
    directory = write(tmp_path / "run")
    launch, judgement = read_launch(directory), judge(directory)
    spread = next(each for each in judgement.distributions if each.metric == "e2e")
    assert launch.values["e2e_p95"] == spread.p95
    assert launch.values["goodput_rps"] == judgement.goodput_rps
    assert launch.values["slo_attainment"] == judgement.slo_attainment
    assert launch.values["error_rate"] == 0.0
    assert launch.values["perceived_p50"] == launch.values["ttft_p50"]
    assert "usd_per_1000_good" not in launch.values  # it has no price
    assert launch.headline == ("e2e_p95", "error_rate")
    assert launch.left_out == ""
    assert launch.requests == judgement.load.judged


def test_blocks_are_the_same_metrics_of_a_tenth_of_the_window(tmp_path: Path) -> None:
    launch = read_launch(write(tmp_path / "run"))
    assert {len(values) for values in launch.blocks.values()} == {BLOCKS}
    assert np.mean(launch.blocks["throughput_rps"]) == pytest.approx(launch.values["throughput_rps"], rel=0.02)
    assert np.mean(launch.blocks["e2e_p50"]) == pytest.approx(launch.values["e2e_p50"], rel=0.1)
    assert set(launch.blocks) == set(launch.values) - {"usd_per_1000_good", "request_j"} | {
        f"response_time_{name}" for name in ("p50", "p95", "p99")
    }


def test_failures_reach_the_percentiles_and_the_error_rate(tmp_path: Path) -> None:
    def answer(rng: random.Random, now: float) -> float | None:
        return None if rng.random() < 0.2 else 0.5

    runs.loop_run(tmp_path / "run", runs.Loop(answer=answer))
    launch = read_launch(tmp_path / "run")
    assert launch.values["error_rate"] == pytest.approx(0.2, abs=0.05)
    assert launch.values["e2e_p95"] == float("inf")


def test_a_server_that_answers_nothing_is_compared(tmp_path: Path) -> None:
    """All failures are a result of the server's: no crash, and plainly worse."""
    three(tmp_path / "good")
    for number in (1, 2, 3):
        runs.loop_run(tmp_path / "bad" / f"run-{number}", runs.Loop(answer=lambda rng, now: None, seed=number))
    found = run(tmp_path / "good", tmp_path / "bad", tmp_path / "out")
    said = {each.metric: each.finding for each in found.pairs[0].differences}
    assert found.pairs[0].finding is Finding.WORSE
    assert said["error_rate"] is Finding.WORSE
    assert said["e2e_p95"] is Finding.NOT_MEASURED


def test_one_user(tmp_path: Path) -> None:
    runs.loop_run(tmp_path / "run", runs.Loop(users=1))
    launch = read_launch(tmp_path / "run")
    assert launch.left_out == ""
    assert launch.values["e2e_p50"] > 0


def test_hits_and_misses_apart(tmp_path: Path) -> None:
    """Half of the prompts are in the server's cache, and its answers to them come three times sooner."""
    made = []
    for number, each in enumerate(runs.Loop().samples()):
        hit = number % 2 == 0
        faster = each.sent_s + (each.end_s - each.sent_s) / (3 if hit else 1)
        times = {"last_token_s": faster, "end_s": faster, "cached_tokens": 18 if hit else 0}
        made.append(replace(each, prompt_id=f"p{number // 4}", **times))
    spec = runs.scenario(users=20, kind="brief", data="briefs.jsonl", input_tokens=None, repeat={"exponent": 1.0})
    runs.write_run(tmp_path / "run", made, spec, runs.load(users_asked=20, users_reached=20))
    parts = {part.name: part for part in read_launch(tmp_path / "run").parts}
    hits, misses = parts["cache hits"], parts["cache misses"]
    assert hits.e2e_p50_s is not None
    assert misses.e2e_p50_s is not None
    assert misses.e2e_p50_s == pytest.approx(3 * hits.e2e_p50_s, rel=0.1)
    again, first = parts["prompts seen before"], parts["prompts seen first"]
    assert again.requests + first.requests == hits.requests + misses.requests
    assert again.requests == pytest.approx(3 * first.requests, rel=0.1)


def test_the_headline_takes_the_percentile_nearest_to_each_check() -> None:
    checks = ("p90(ttft) < 1 s", "p99.9(e2e) < 2 s", "p50(tpot) < 50 ms", "error_rate < 1 %", "goodput > 5 req/s")
    assert headline_of([Objective.parse(text) for text in checks]) == (
        "ttft_p95",
        "e2e_p99",
        "tpot_p50",
        "error_rate",
        "goodput_rps",
    )


# What is left out --------------------------------------------------------------------------------


def test_an_invalid_run_is_left_out(tmp_path: Path) -> None:
    launch = read_launch(write(tmp_path / "run", problems=("the clock of this host jumped by 40 s",)))
    assert launch.verdict is Verdict.INVALID
    assert launch.left_out == "it is INVALID: the clock of this host jumped by 40 s"
    assert launch.values == {}


def test_a_run_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    facts = runs.load(users_asked=20, users_reached=20, complete=False, ended_by="interrupted")
    assert read_launch(write(tmp_path / "run", load=facts)).left_out == "it was cut off (interrupted)"


def test_clocks_that_jumped_spoil_a_launch_and_not_the_comparison(tmp_path: Path) -> None:
    """Samples that end before they were sent cannot be placed in time."""
    three(tmp_path / "a")
    made = [replace(each, end_s=each.sent_s - 3600) for each in runs.Loop().samples()]
    runs.write_run(tmp_path / "b", made, runs.scenario(users=20), runs.load(users_asked=20, users_reached=20))
    found = run(tmp_path / "a", tmp_path / "b", tmp_path / "out")
    assert found.pairs[0].finding is Finding.TOO_FEW
    assert any("is left out: it is INVALID: " in note and "placed in time" in note for note in found.notes)


def test_a_run_without_a_request_is_left_out(tmp_path: Path) -> None:
    runs.write_run(tmp_path / "run", [], runs.scenario(), runs.load())
    assert read_launch(tmp_path / "run").left_out.startswith("it is INVALID: ")


# Arms --------------------------------------------------------------------------------------------


def test_launches_made_in_turn_are_known_by_their_rounds(tmp_path: Path) -> None:
    for arm in "ab":
        for number in (1, 2, 3):
            write(tmp_path / arm / f"round-{number}", seed=number)
    arms, in_turn = read_arms(["A", "B"], [tmp_path / "a", tmp_path / "b"])
    assert in_turn
    assert [launch.round for launch in arms[1].launches] == [1, 2, 3]
    write(tmp_path / "a" / "round-4")
    assert not read_arms(["A", "B"], [tmp_path / "a", tmp_path / "b"])[1]


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunDirectoryError, match="nor has any folder in it"):
        read_arms(["A"], [tmp_path / "empty"])


# The command -------------------------------------------------------------------------------------


def run(a: Path, b: Path, output: Path, *, code: int = ExitCode.PASS, **options: Any) -> Comparison:
    """What ``harness compare`` writes, once it has ended with ``code``."""
    import typer

    with pytest.raises(typer.Exit) as ended:
        compare_command([str(a), str(b)], output=output, as_json=True, **options)
    assert ended.value.exit_code == code
    assert (output / "compare.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    return Comparison.model_validate_json((output / "compare.json").read_text(encoding="utf-8"))


def test_the_same_stack_twice_and_a_slower_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    three(tmp_path / "a")
    for number in (1, 2, 3):
        write(tmp_path / "same" / f"run-{number}", seed=10 + number)
        write(tmp_path / "slow" / f"run-{number}", seed=20 + number, slower=1.4)
    assert run(tmp_path / "a", tmp_path / "same", tmp_path / "1", gate=True).pairs[0].finding is Finding.NO_DIFFERENCE
    capsys.readouterr()
    slower = run(tmp_path / "a", tmp_path / "slow", tmp_path / "2", gate=True, code=ExitCode.FAIL)
    assert slower.pairs[0].finding is Finding.WORSE
    assert json.loads(capsys.readouterr().out)["pairs"][0]["finding"] == "worse"
    assert slower.pairs[0].notes == ()
    effect = next(each for each in slower.pairs[0].differences if each.metric == "e2e_p50").effect
    assert effect == pytest.approx(0.4, abs=0.06)
    assert run(tmp_path / "slow", tmp_path / "a", tmp_path / "3", gate=True).pairs[0].finding is Finding.BETTER


def test_two_single_runs(tmp_path: Path) -> None:
    """A difference with an interval of its own, and no word on the stacks; a gate does not let it pass."""
    a, b = write(tmp_path / "a"), write(tmp_path / "b", slower=1.4, seed=2)
    found = run(a, b, tmp_path / "out", gate=True, code=ExitCode.INCONCLUSIVE)
    each = next(each for each in found.pairs[0].differences if each.metric == "e2e_p50")
    assert (found.pairs[0].finding, each.finding) == (Finding.TOO_FEW, Finding.TOO_FEW)
    assert each.low is not None
    assert each.high is not None
    assert 0.2 < each.low < 0.4 < each.high < 0.6
    assert "two launches only" in each.basis


def test_other_users_and_prompts_are_noted(tmp_path: Path) -> None:
    three(tmp_path / "a")
    for number in (1, 2, 3):
        spec = runs.scenario(users=30, output_tokens=12)
        facts = runs.load(users_asked=30, users_reached=30)
        runs.write_run(tmp_path / "b" / f"run-{number}", runs.Loop(users=30, seed=number).samples(), spec, facts)
    notes = run(tmp_path / "a", tmp_path / "b", tmp_path / "out").pairs[0].notes
    assert any(note.startswith("users differ: 20 in ") for note in notes)
    assert any(note.startswith("answer lengths differ: 11 natural in ") for note in notes)


def test_emulated_and_real_runs_are_not_compared(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b", server=ServerFacts(launcher="emulator", emulated=True))
    with pytest.raises(UsageError, match="some of these runs were emulated"):
        compare_command([str(tmp_path / "a"), str(tmp_path / "b")])


@pytest.mark.parametrize(
    ("arms", "options", "said"),
    [
        (["a"], {}, "name two arms"),
        (["a", "b"], {}, "no such folder: a, b"),
        (["a", "b"], {"launches": 3}, "--launches: only with --interleave or --experiment"),
        (["a", "b"], {"min_effect": "much"}, "--min-effect must look like 5% or 0.05, not much"),
        (["a", "b"], {"interleave": True}, "--interleave needs --scenario"),
        (["a", "b"], {"experiment": "streaming"}, "brings its own arms"),
        (None, {"experiment": "streming"}, "did you mean 'streaming'"),
        (None, {"experiment": "streaming", "scenario": "chatbot"}, "an experiment has its own"),
        (None, {"experiment": "int8", "real": True}, "has no arms on a real engine: the model that every machine"),
    ],
)
def test_what_makes_no_sense_is_refused(arms: list[str] | None, options: dict[str, Any], said: str) -> None:
    with pytest.raises((UsageError, RunDirectoryError), match=said):
        compare_command(arms, **options)


def test_a_launch_is_a_record(tmp_path: Path) -> None:
    launch = read_launch(write(tmp_path / "run"))
    assert Launch.model_validate_json(launch.model_dump_json()) == launch
