"""Experiments and arms: read strictly, resolved into cells, launched in a balanced order; prompts that come again."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.catalog import load_catalog
from harness.cell import Cell
from harness.commands.catalog import validate
from harness.compare_run import Trial, Turn, launch_in_turn, trial_of, turns
from harness.dataset import read_workload
from harness.errors import ExitCode, ServerError, SpecError, UsageError
from harness.experiments import Arm, Zipf
from harness.judgement import Judgement
from harness.run import CellProgress
from harness.spec import Workload
from harness.strict_yaml import load_specs
from harness.workload import prompt_sources
from servers.emulator.engine import Engine, Sequence
from servers.emulator.prefix_cache import PrefixCache
from servers.emulator.sources import EngineSource
from servers.emulator.timeline import Timeline
from servers.emulator.wire import Ask
from tests import factories

CATALOG = load_catalog()
A, B = Arm(stack="vllm-7b-int8-a100"), Arm(stack="vllm-13b-a100")


def cells(*arms: Arm, **changes: Any) -> list[Cell]:
    trial = Trial(scenario="chatbot", arms=arms, **changes)
    return [turn.cell for turn in turns(CATALOG, trial)]


# Arms --------------------------------------------------------------------------------------------


def test_an_arm_is_read_from_a_word() -> None:
    arm = Arm.parse("vllm-7b-a100@users=10,stream=off,network=eu:10ms+us:45ms,run_time_s=12.5,prefix_cache=on")
    assert arm == Arm(
        stack="vllm-7b-a100",
        users=10,
        stream=False,
        network="eu:10ms+us:45ms",
        run_time_s=12.5,
        prefix_cache=True,
    )
    assert Arm.parse(arm.title) == arm
    assert Arm.parse("vllm-7b-a100").title == "vllm-7b-a100"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s@user=1", "'user=1' changes nothing of s; write one of users, "),
        ("s@users", "'users' changes nothing of s"),
        ("s@users=none", "users: Input should be a valid integer"),
        ("s@users=0", "greater than or equal to 1"),
        ("s@network=eu", "'eu' is no region"),
        ("s@label=x", "'label=x' changes nothing"),
        ("S", "stack: String should match pattern"),
    ],
)
def test_a_wrong_arm_is_told(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Arm.parse(text)


def test_an_arm_changes_its_cell_and_says_so() -> None:
    arm = Arm.parse(
        "vllm-7b-int8-a100@users=7,stream=off,templates=none,replicas=3,prefix_cache=on,network=far:20ms,run_time_s=30"
    )
    cell = cells(arm, A)[0] if cells(arm, A)[0].stack.replicas == 3 else cells(arm, A)[1]
    assert cell.scenario.users == 7
    assert cell.connection.stream is False
    assert cell.scenario.workload.templates is None
    assert cell.stack.replicas == 3
    assert cell.stack.emulation is not None
    assert cell.stack.emulation.prefix_cache
    assert cell.network == "far:20ms"
    assert cell.timing.run_time_s == 30
    assert cell.overrides["network"] == "far:20ms"
    assert cell.overrides["stream"] == "off"
    assert cell.looks == ()


def test_llamacpp_is_told_with_each_request() -> None:
    off, on = (Arm(stack="llamacpp-smollm2", prefix_cache=value) for value in (False, True))
    assert {cell.connection.extra_body["cache_prompt"] for cell in cells(off, on)} == {False, True}


def test_an_engine_that_cannot_be_told_is_refused() -> None:
    with pytest.raises(UsageError, match="transformers cannot be told"):
        cells(Arm(stack="transformers-smollm2", prefix_cache=True), Arm(stack="transformers-smollm2"))


@pytest.mark.parametrize(
    ("arms", "changes", "said"),
    [
        ((A, A), {}, "two arms are called alike"),
        ((A, Arm(stack="nothing-like-it")), {}, "unknown stack"),
        ((A, Arm(stack="llamacpp-smollm2")), {}, "some of these arms are emulated"),
        ((A, Arm(stack="openai-gpt4")), {"real": True}, "paid by the token"),
        ((A, B), {"launches": 0}, "--launches must be at least 1"),
        ((A, B), {"headline": ("e2e_p59",)}, "unknown metric 'e2e_p59'; did you mean"),
        ((A, Arm(stack=A.stack, templates="no-such")), {}, "there is no such file"),
    ],
)
def test_what_cannot_be_launched_is_refused_before_anything_starts(
    arms: tuple[Arm, ...], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises((UsageError, SpecError), match=said):
        cells(*arms, **changes)


# The order ---------------------------------------------------------------------------------------


def test_launches_are_in_turn_and_each_round_reverses_the_last() -> None:
    trial = Trial(scenario="chatbot", arms=(A, B, Arm(stack="vllm-7b-a100")), launches=4)
    made = turns(CATALOG, trial)
    orders = [[turn.arm for turn in made if turn.round == number] for number in (1, 2, 3, 4)]
    assert sorted(orders[0]) == sorted(arm.title for arm in trial.arms)
    assert orders == [orders[0], orders[0][::-1]] * 2
    assert [turn.round for turn in made] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3


def test_arms_of_a_round_have_the_same_seeds_and_rounds_have_others() -> None:
    made = turns(CATALOG, Trial(scenario="chatbot", arms=(A, B), seed=5))
    by_round = [{turn.cell.seed for turn in made if turn.round == number} for number in (1, 2, 3)]
    assert by_round == [{5}, {105}, {205}]
    assert len({turn.cell.run_dir for turn in made}) == len(made)


def test_who_is_first_is_drawn() -> None:
    firsts = Counter(
        turns(CATALOG, Trial(scenario="chatbot", arms=(A, B), launches=1, seed=seed))[0].arm for seed in range(12)
    )
    assert min(firsts[A.title], firsts[B.title]) >= 3


# Launching ---------------------------------------------------------------------------------------


def played(monkeypatch: pytest.MonkeyPatch, ends: list[tuple[Judgement | None, int, str]]) -> list[Path]:
    """In place of real runs: each launch ends as the next of ``ends`` says."""
    ran: list[Path] = []

    def run_cells(made: list[Cell], on_change: Any) -> list[CellProgress]:
        judgement, code, error = ends[len(ran)]
        ran.append(made[0].run_dir)
        return [CellProgress(made[0], "judged", {}, error, code, judgement)]

    monkeypatch.setattr("harness.compare_run.run_cells", run_cells)
    monkeypatch.setattr("harness.compare_run.read_launch", _launch)
    return ran


def _launch(directory: Path, round_: int) -> Any:
    from harness.comparison import Launch
    from harness.judgement import Verdict

    return Launch(run=directory.name, scenario="chatbot", stack="s", verdict=Verdict.PASS, round=round_)


def test_a_launch_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    good = (factories.judgement(), 0, "")
    ran = played(monkeypatch, [good, (None, ExitCode.SERVER, "it did not stand up"), good, good, good, good])
    trial = Trial(scenario="chatbot", arms=(A, B))
    schedule = turns(CATALOG, trial)
    said: list[Turn] = []
    made = launch_in_turn(trial, schedule, said.append, lambda progress: None)
    assert len(ran) == 6
    assert said == schedule
    failed = schedule[1].arm
    assert made.notes == (f"round 1 of {failed} did not run: it did not stand up",)
    assert {arm.label: [launch.round for launch in arm.launches] for arm in made.arms}[failed] == [2, 3]


def test_an_arm_that_never_ran_is_the_error_it_met(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(scenario="chatbot", arms=(A, B))
    schedule = turns(CATALOG, trial)
    good, bad = (factories.judgement(), 0, ""), (None, int(ExitCode.SERVER), "no such engine")
    said: list[Turn] = []
    played(monkeypatch, [good if turn.arm == A.title else bad for turn in schedule])
    with pytest.raises(ServerError, match="vllm-13b-a100 was never launched: no such engine"):
        launch_in_turn(trial, schedule, said.append, lambda progress: None)


def test_an_interrupt_starts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = factories.judgement(ended_by="interrupted")
    ran = played(monkeypatch, [(factories.judgement(), 0, "")] * 2 + [(cut, 98, "")])
    trial = Trial(scenario="chatbot", arms=(A, B))
    said: list[Turn] = []
    made = launch_in_turn(trial, turns(CATALOG, trial), said.append, lambda progress: None)
    assert len(ran) == len(said) == 3
    assert made.interrupted
    assert len(made.arms) == 2


# The catalog's experiments -----------------------------------------------------------------------


@pytest.mark.parametrize("name", CATALOG.experiments)
def test_every_experiment_can_be_launched(name: str) -> None:
    trial = trial_of(CATALOG, name, real=False)
    made = turns(CATALOG, trial)
    assert len(made) == 5 * len(trial.arms)
    assert all(turn.cell.emulated and not turn.cell.refusal for turn in made)
    if CATALOG.experiments[name].real:
        real = turns(CATALOG, trial_of(CATALOG, name, real=True))
        assert not any(turn.cell.emulated for turn in real)


@pytest.mark.parametrize("name", CATALOG.experiments)
def test_the_arms_of_an_experiment_differ(name: str) -> None:
    experiment = CATALOG.experiments[name]
    for arms in (experiment.arms, experiment.real):
        assert len({arm.model_copy(update={"label": ""}) for arm in arms}) == len(arms)


def test_the_notes_of_the_analysis_are_all_here() -> None:
    assert set(CATALOG.experiments) == {
        "prompt-templates",
        "response-caching",
        "streaming",
        "int8",
        "replicas",
        "a100-for-t4",
        "regions",
    }


SPEC = """kind: experiment
name: mine
title: Mine
question: Which?
scenario: chatbot
arms:
  - {stack: vllm-7b-a100}
  - {stack: vllm-13b-a100}
real_reason: none is here
"""


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("users", "users", ""),
        ("  - {stack: vllm-13b-a100}\n", "", "arms: Tuple should have at least 2 items"),
        ("vllm-13b-a100", "vllm-7b-a100", "two arms are called alike: vllm-7b-a100, vllm-7b-a100"),
        ("real_reason: none is here\n", "", "real_reason must say why no engine here can show it"),
        (
            "{stack: vllm-13b-a100}",
            "{stack: vllm-13b-a100, userz: 3}",
            "arms.1.userz: unknown key; allowed: ",
        ),
        ("{stack: vllm-13b-a100}", "{stack: vllm-13b-a100, network: x}", "'x' is no region"),
        ("question: Which?", "question: Which?\nrepeat: {exponent: -1}", "repeat.exponent: Input should be greater"),
    ],
)
def test_an_experiment_is_read_strictly(tmp_path: Path, before: str, after: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SPEC.replace(before, after, 1))
    if not said:
        assert load_specs([path])[0][1].model_dump()["name"] == "mine"
        return
    with pytest.raises(SpecError) as caught:
        load_specs([path])
    assert said in str(caught.value)


def test_names_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SPEC.replace("chatbot", "chatbott").replace("vllm-13b-a100", "vllm-13b-a1000"))
    with pytest.raises(SpecError) as caught:
        load_catalog((path,))
    assert "unknown scenario 'chatbott'; did you mean 'chatbot'?" in str(caught.value)
    assert "unknown stack 'vllm-13b-a1000'; did you mean 'vllm-13b-a100'?" in str(caught.value)


def test_validating_an_experiment_looks_into_its_arms(tmp_path: Path) -> None:
    good, metric, template = (tmp_path / f"{name}.yaml" for name in ("good", "metric", "template"))
    metric.write_text(SPEC + "headline: [e2e_p96]\n")
    with pytest.raises(UsageError, match="unknown metric 'e2e_p96'"):
        validate([metric])
    template.write_text(SPEC.replace("stack: vllm-13b-a100", "stack: vllm-13b-a100, templates: none-such"))
    with pytest.raises(SpecError, match=r"none-such\.system\.j2: there is no such file"):
        validate([template])
    good.write_text(SPEC)
    validate([good])


# Prompts that come again -------------------------------------------------------------------------


def popular(repeat: Zipf, draws: int, **workload: Any) -> list[Any]:
    spec = Workload.model_validate(
        {"kind": "conversation", "data": "support.jsonl", "output_tokens": 10, "repeat": repeat, **workload}
    )
    source = prompt_sources(spec, read_workload(spec))(random.Random(3))
    return [source.next("an answer") for _ in range(draws)]


def test_the_kth_prompt_is_drawn_in_proportion_to_its_rank() -> None:
    counts = Counter(prompt.prompt_id for prompt in popular(Zipf(exponent=1.0), 40_000))
    harmonic = sum(1 / rank for rank in range(1, 61))
    for rank in (1, 2, 5, 20, 60):
        expected = 40_000 / rank / harmonic
        assert counts[f"support-{rank:03d}/1"] == pytest.approx(expected, abs=5 * expected**0.5)


def test_a_conversation_is_its_first_question_alone() -> None:
    assert {len(prompt.messages) for prompt in popular(Zipf(), 200)} == {1}
    with_system = popular(Zipf(), 50, templates="support")
    assert {tuple(message.role for message in prompt.messages) for prompt in with_system} == {("system", "user")}


def test_fresh_prompts_are_nobody_elses() -> None:
    drawn = popular(Zipf(fresh=0.25), 8000)
    fresh = [prompt for prompt in drawn if "#" in prompt.prompt_id]
    assert len(fresh) == pytest.approx(2000, abs=5 * 1500**0.5)
    assert len({prompt.messages[-1].content for prompt in fresh}) == len(fresh)
    assert all(prompt.messages[-1].content.startswith("Reference ") for prompt in fresh)


def test_synthetic_prompts_cannot_repeat() -> None:
    with pytest.raises(ValueError, match="none of them repeats"):
        Workload(kind="synthetic", input_tokens=5, output_tokens=5, repeat=Zipf())


# The emulator's prefix cache ---------------------------------------------------------------------


def test_whole_blocks_of_a_prompt_are_found_again() -> None:
    cache = PrefixCache(1000)
    prompt = "".join(random.Random(1).choices("abcdefgh ", k=200))  # three blocks of 64 characters, and some
    assert cache.recall(prompt) == 0
    assert cache.recall(prompt) == 48
    assert cache.recall(prompt[:100] + "!" * 100) == 16
    assert cache.recall("!" + prompt) == 0
    assert cache.recall("short") == 0


def test_the_block_that_was_used_longest_ago_is_forgotten() -> None:
    cache = PrefixCache(32)  # two blocks
    first, second, third = ("a" * 64, "b" * 64, "c" * 64)
    for prompt in (first, second, first, third):
        cache.recall(prompt)
    assert cache.recall(first) == 16
    assert cache.recall(second) == 0


def first_token_s(cached: int) -> float:
    """When an idle engine, which prefills a token in a millisecond, gives the first token of a prompt of 400."""
    engine = Engine(lambda decoding, kv, prefill: 0.02 + 0.001 * prefill, 10_000, 8)
    engine.submit(Sequence(400, 10, 410, 0.0, prefilled=cached))
    end_s = engine.begin(0.0)
    assert end_s is not None
    assert engine.finish()
    return end_s


def test_what_is_cached_need_not_be_computed() -> None:
    assert first_token_s(0) == pytest.approx(0.42)
    assert first_token_s(384) == pytest.approx(0.036)
    assert first_token_s(399) == pytest.approx(0.021)


def test_a_source_without_a_cache_says_nothing_of_one() -> None:
    ask = Ask(100, 10, 0, False, True, True, prompt="x" * 400)
    engines = [Engine(lambda decoding, kv, prefill: 0.02, 10_000, 8)]
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        timeline = Timeline(loop)
    plain, cached = (EngineSource(timeline, engines, cache) for cache in (None, PrefixCache(1000)))
    assert [plain.recall(ask).cached_tokens for _ in range(2)] == [None, None]
    assert [cached.recall(ask).cached_tokens for _ in range(2)] == [0, 96]
