"""A cell is scenario, stack, profile and command line resolved, with every reduction said."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.catalog import load_catalog
from harness.cell import Cell, Overrides, attached_stack, build_cell, new_run_id
from harness.connection import Connection
from harness.dataset import read_workload
from harness.errors import UsageError
from harness.matrix import Options, build_cells
from harness.spec import Stack
from harness.workload import prompt_sources

UNHURRIED = settings(deadline=None)
"""A machine that is busy with load makes no property false."""
CATALOG = load_catalog()
GPU_STACK, CPU_STACK, API_STACK = "vllm-7b-t4", "llamacpp-smollm2", "openai-gpt4"


def cell(scenario: str = "chatbot", stack: str | Stack = GPU_STACK, profile: str = "quick", **options: Any) -> Cell:
    """``options`` named as fields of Overrides go there, the rest to build_cell."""
    overrides = {name: options.pop(name) for name in list(options) if name in Overrides.model_fields}
    found = CATALOG.stack(stack) if isinstance(stack, str) else stack
    return build_cell(
        CATALOG,
        CATALOG.scenario(scenario),
        found,
        CATALOG.profile(profile),
        Overrides(**overrides),
        Connection(protocol=found.protocol),
        run_dir=Path("unused"),
        **options,
    )


def refusal(**options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        cell(**options)
    text = str(caught.value)
    assert "\n" not in text
    assert text
    return text


# Without options: the catalog's words ---------------------------------------------------------


@pytest.mark.parametrize("profile", ["quick", "full"])
@pytest.mark.parametrize("scenario", ["chatbot", "content", "translation"])
def test_without_options_a_cell_is_what_the_catalog_says(scenario: str, profile: str) -> None:
    found = cell(scenario, CATALOG.scenario(scenario).stacks[0], profile)
    assert found.scenario == CATALOG.scenario(scenario)
    assert found.timing == CATALOG.profile(profile).timing_for(scenario)
    assert found.gpu == CATALOG.gpu_of(found.stack)
    assert not found.reduced
    assert found.overrides == {}


@pytest.mark.parametrize("profile", ["quick", "full"])
@pytest.mark.parametrize("scenario", ["chatbot", "content", "translation"])
def test_looks_lie_where_nothing_judged_is_censored(scenario: str, profile: str) -> None:
    found = cell(scenario, CATALOG.scenario(scenario).stacks[0], profile)
    assert found.looks == tuple(sorted(found.looks))
    assert len(found.looks) == 3
    for look in found.looks:
        assert found.timing.warm_up_s < look - found.scenario.longest_limit_s < look < found.timing.run_time_s


# Overrides ------------------------------------------------------------------------------------


def test_overrides_change_what_they_name_and_are_written_down() -> None:
    found = cell(users=7, think_time_s=2.5, output_tokens=33, run_time_s=50)
    plain = cell()
    assert found.scenario.users == 7
    assert found.scenario.think_time.mean_s == 2.5
    assert found.scenario.think_time.distribution == "lognormal"
    assert found.scenario.think_time.sigma == plain.scenario.think_time.sigma
    assert found.scenario.think_time.reason == "given on the command line"
    assert found.scenario.workload.output_tokens == 33
    assert found.timing.run_time_s == 50
    assert found.scenario.sla == plain.scenario.sla
    assert found.overrides == {"users": "7", "think_time_s": "2.5", "output_tokens": "33", "run_time_s": "50.0"}
    assert found.manifest().overrides == found.overrides


def test_the_catalog_itself_stays_as_it_is() -> None:
    before = CATALOG.scenario("chatbot").model_dump_json()
    cell(users=7, think_time_s=0, output_tokens=1)
    assert CATALOG.scenario("chatbot").model_dump_json() == before


def test_no_think_time_is_a_constant_zero() -> None:
    think = cell(think_time_s=0).scenario.think_time
    assert (think.distribution, think.mean_s, think.sigma) == ("constant", 0, None)


@UNHURRIED
@given(run_time_s=st.floats(0.5, 5000))
def test_any_run_time_leaves_something_to_judge(run_time_s: float) -> None:
    found = cell(run_time_s=run_time_s)
    assert found.timing.run_time_s == run_time_s
    assert found.timing.warm_up_s <= 0.2 * run_time_s
    assert found.timing.spawn_s <= max(1.0, run_time_s / 4)
    warm_up_s, limit_s = found.timing.warm_up_s, found.scenario.longest_limit_s
    assert all(warm_up_s < look - limit_s < look < run_time_s for look in found.looks)


def test_a_longer_run_keeps_the_profiles_warm_up() -> None:
    assert cell(run_time_s=1000).timing.warm_up_s == cell().timing.warm_up_s


def test_a_users_dataset_is_read_whatever_the_scenarios_own_data_is_filtered_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.jsonl").write_text('{"id": "mine", "prompt": "hello"}\n')
    monkeypatch.chdir(tmp_path)
    for scenario in ("chatbot", "content", "translation"):
        workload = cell(scenario, API_STACK, dataset="mine.jsonl").scenario.workload
        assert workload.kind == "dataset"
        assert workload.data == (str(tmp_path / "mine.jsonl"),), "a worker may start elsewhere"
        assert [entry["id"] for entry in read_workload(workload).entries] == ["mine"]


def test_a_split_is_kept_where_a_run_is_read_from() -> None:
    found = cell("content", split="held-out")
    held = read_workload(found.scenario.workload).entries
    assert len(held) == 18
    manifest = found.manifest()
    assert (manifest.scenario.workload.split, manifest.overrides) == ("held-out", {"split": "held-out"})
    assert cell("content").scenario.workload.split == "all"
    with pytest.raises(UsageError, match="--split chooses among the prompts of a set"):
        cell("content", split="train", input_tokens=10)


def test_input_tokens_ask_for_synthetic_prompts() -> None:
    workload = cell("translation", API_STACK, input_tokens=512).scenario.workload
    assert (workload.kind, workload.input_tokens) == ("synthetic", 512)
    prompt = prompt_sources(workload, read_workload(workload))(random.Random(1)).next(None)
    assert len(prompt.messages[-1].content.split()) == 512
    with pytest.raises(UsageError, match="not both"):
        cell("translation", API_STACK, input_tokens=512, dataset="mine.jsonl")


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [
        ("users", 0, "--users"),
        ("users", -3, "--users"),
        ("think_time_s", -0.1, "--think-time"),
        ("think_time_s", float("nan"), "--think-time"),
        ("think_time_s", float("inf"), "--think-time"),
        ("output_tokens", 0, "--output-tokens"),
        ("input_tokens", 0, "--input-tokens"),
        ("run_time_s", 0.0, "--run-time"),
        ("run_time_s", -5.0, "--run-time"),
        ("run_time_s", float("nan"), "--run-time"),
        ("run_time_s", float("inf"), "--run-time"),
    ],
)
def test_an_impossible_option_is_refused_with_its_name_and_value(option: str, value: float, name: str) -> None:
    text = refusal(**{option: value})
    assert text.startswith(f"{name} must ")
    assert text.endswith(f"not {value:g}")


# Reductions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["chatbot", "content", "translation"])
def test_a_stand_in_engine_gets_the_smaller_load_and_says_so(scenario: str) -> None:
    found, reduction = cell(scenario, CPU_STACK), CATALOG.stack(CPU_STACK).reduction[scenario]
    assert found.reduced
    assert found.manifest().reduced
    assert found.scenario.users == reduction.users == found.manifest().load.users_asked
    assert found.scenario.workload.output_tokens == reduction.output_tokens
    assert found.scenario.think_time.mean_s == reduction.think_mean_s
    assert found.timing == reduction.timing
    assert found.scenario.sla == CATALOG.scenario(scenario).sla, "a reduction never softens the requirement"
    assert found.overrides == {}


def test_options_beat_a_reduction_and_a_smaller_load_stays_reduced() -> None:
    found = cell(stack=CPU_STACK, users=5, output_tokens=200)
    assert (found.scenario.users, found.scenario.workload.output_tokens) == (5, 200)
    assert found.reduced


def test_all_users_with_shortened_answers_are_still_reduced() -> None:
    found = cell(stack=CPU_STACK, users=100)
    assert found.scenario.workload.output_tokens < CATALOG.scenario("chatbot").workload.output_tokens
    assert found.reduced


def test_the_scenarios_whole_load_is_not_reduced() -> None:
    assert not cell(stack=CPU_STACK, users=100, output_tokens=200).reduced


# Calibration ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "stack", "options", "expected"),
    [
        ("chatbot", GPU_STACK, {}, "roofline"),
        ("chatbot", GPU_STACK, {"calibration": "claims"}, "claims"),
        ("chatbot", GPU_STACK, {"emulate": True}, "roofline"),
        ("chatbot", GPU_STACK, {"emulate": False}, ""),
        ("chatbot", "vllm-7b-int4-t4", {}, "roofline"),
        ("chatbot", API_STACK, {}, "claims"),
        ("content", API_STACK, {}, "claims"),
        ("translation", API_STACK, {}, "claims"),
        ("chatbot", API_STACK, {"calibration": "roofline"}, "claims"),
        ("chatbot", API_STACK, {"emulate": False}, ""),
        ("chatbot", CPU_STACK, {}, ""),
        ("chatbot", CPU_STACK, {"emulate": False}, ""),
    ],
)
def test_calibration_follows_from_stack_and_options(
    scenario: str, stack: str, options: dict[str, Any], expected: str
) -> None:
    found = cell(scenario, stack, **options)
    assert found.calibration == expected
    assert found.emulated == (expected != "")


@pytest.mark.parametrize("scenario", ["chatbot", "content", "translation"])
def test_every_candidate_and_variant_of_the_catalog_makes_a_cell(scenario: str) -> None:
    spec = CATALOG.scenario(scenario)
    for name in (*spec.stacks, *spec.variants):
        found = cell(scenario, name)
        api = found.stack.is_api
        assert found.calibration == ("claims" if api else "roofline"), f"{name}: an API has no roofline"
        assert (found.gpu is None) == api
    for name in spec.real:
        assert not cell(scenario, name).emulated


def test_a_claim_that_nobody_made_cannot_be_replayed() -> None:
    text = refusal(stack="vllm-7b-int4-t4", calibration="claims")
    assert text == "stack 'vllm-7b-int4-t4' has no latency claim for 'chatbot', so there is nothing to replay"


def test_what_has_no_gpu_and_no_claim_cannot_be_emulated() -> None:
    assert "nothing to replay" in refusal(stack=CPU_STACK, emulate=True)
    assert "nothing to replay" in refusal(stack=attached_stack("m"), emulate=True)


def test_a_server_at_a_url_claims_nothing() -> None:
    stack = attached_stack("my-model", "triton-generate-stream")
    found = cell(stack=stack)
    assert not found.emulated
    assert (found.gpu, stack.model, stack.claims, stack.gpu_count) == (None, None, {}, 0)
    assert stack.protocol == "triton-generate-stream"
    assert "my-model" in stack.title


# The rest -------------------------------------------------------------------------------------


def test_a_cell_survives_the_way_to_a_worker() -> None:
    found = cell(stack=CPU_STACK, users=5, faults="", region="eu", seed=9, run="r")
    assert Cell.model_validate_json(found.model_dump_json()) == found


@UNHURRIED
@given(seed=st.integers(0, 2**31))
def test_seeds_are_apart_and_follow_the_one_given(seed: int) -> None:
    seeds = cell(seed=seed, run="r").seeds()
    assert set(seeds) == {"data", "think", "outputs", "emulator", "arrivals"}
    assert len(set(seeds.values())) == len(seeds)
    assert cell(seed=seed, run="r", users=3).seeds() == seeds, "changing the load must not change the data"
    assert cell(seed=seed).manifest().seeds == seeds


def test_the_manifest_says_what_is_asked_before_anything_happened() -> None:
    found = cell(region="eu", command="harness run", run="r")
    manifest = found.manifest()
    assert (manifest.run, manifest.region, manifest.command, manifest.profile) == ("r", "eu", "harness run", "quick")
    assert manifest.load.run_time_s == found.timing.run_time_s
    assert manifest.load.warm_up_s == found.timing.warm_up_s
    assert manifest.load.tail_s == found.scenario.longest_limit_s == 2
    assert manifest.load.started_s is None
    assert not manifest.sealed


@pytest.mark.parametrize("scenario", ["chatbot", "content", "translation"])
def test_the_drain_is_bounded(scenario: str) -> None:
    assert 2 <= cell(scenario, API_STACK).drain_s <= 10


def test_run_ids_are_unique_and_sort_by_time() -> None:
    ids = [new_run_id("chatbot", "attached") for _ in range(50)]
    assert len(set(ids)) == 50
    assert all(re.fullmatch(r"\d{8}-\d{6}-chatbot-attached-[0-9a-f]{8}", name) for name in ids)
    assert [name[:15] for name in ids] == sorted(name[:15] for name in ids)


def test_which_cells_need_gpus() -> None:
    assert not cell().needs_gpus  # emulated unless asked
    assert cell(emulate=False).needs_gpus
    player = CATALOG.stack(GPU_STACK).model_copy(update={"engine": "emulator"})
    assert not cell(stack=player, emulate=False).needs_gpus
    assert not cell(stack=CPU_STACK).needs_gpus
    assert not cell(stack=API_STACK, emulate=False).needs_gpus
    attached = cell(emulate=False)
    connection = attached.connection.model_copy(update={"url": "http://127.0.0.1:1"})
    assert not attached.model_copy(update={"connection": connection}).needs_gpus


def test_a_real_start_is_refused_by_memory_unless_other_gpus_may_have_more() -> None:
    small = CATALOG.stack("vllm-13b-a100").model_copy(update={"hardware": CATALOG.stack(GPU_STACK).hardware})
    catalog = replace(CATALOG, stacks={**CATALOG.stacks, small.name: small})
    options = Options(scenarios=("chatbot",), stacks=(small.name,), real=True)
    [refused] = build_cells(catalog, options)
    assert refused.refusal.startswith("does not fit: 26.0 GB of weights")
    assert refused.command.endswith("--real")
    [allowed] = build_cells(catalog, replace(options, allow_other_gpu=True))
    assert (allowed.refusal, allowed.allow_other_gpu) == ("", True)
    assert "--real --allow-other-gpu" in allowed.command
    with pytest.raises(UsageError, match="give --real as well"):
        build_cells(catalog, replace(options, real=False, allow_other_gpu=True))
