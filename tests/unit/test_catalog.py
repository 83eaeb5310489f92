"""The catalog as shipped: complete, consistent, and with variants that physics lets pass."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.candidates import quality_rank
from harness.catalog import ROOT, WORKLOADS, Catalog, load_catalog
from harness.errors import SpecError, UsageError
from harness.matrix import Options, build_cells
from harness.roofline import Machine, kv_capacity_tokens, latency_floor_s, mean_step_s
from harness.spec import Efficiency, HourlyPrice, ModelShape, NoPrice, Scenario, Stack
from harness.statistics import required_samples


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def stacks_of(catalog: Catalog, names: tuple[str, ...]) -> list[Stack]:
    return [catalog.stack(name) for name in names]


def machine(catalog: Catalog, stack: Stack, efficiency: Efficiency | None = None) -> Machine:
    gpu = catalog.gpu_of(stack)
    assert stack.model is not None
    assert gpu is not None
    return Machine(stack.model, gpu, stack.tensor_parallel, efficiency)


def test_holds_the_three_scenarios_with_their_limits(catalog: Catalog) -> None:
    found = {
        scenario.name: (scenario.users, [check.text for check in scenario.sla], scenario.cost_sensitivity)
        for scenario in catalog.unasked_scenarios
    }
    assert found == {
        "chatbot": (100, ["p95(e2e) < 2 s", "error_rate < 2 %", "quality(facts) > 0.75"], "medium"),
        "content": (20, ["p95(e2e) < 10 s", "error_rate < 3 %", "good_share >= 80 %"], "low"),
        "translation": (1000, ["p99(e2e) < 500 ms", "error_rate < 1 %", "quality(chrf) > 0.45"], "high"),
    }
    assert catalog.scenario("translation").longest_limit_s == 0.5


@pytest.mark.parametrize(
    ("stack", "scenario", "latency_s", "tokens", "cost_usd", "memory_gb", "users", "quality"),
    [
        ("vllm-7b-t4", "chatbot", 0.8, 200, 0.0002, 15, 60, "sufficient"),
        ("vllm-13b-a100", "chatbot", 0.6, 200, 0.0005, 30, 100, "good"),
        ("openai-gpt4", "chatbot", 2, 200, 0.006, None, None, "superior"),
        ("vllm-7b-t4", "content", 4, 1000, 0.001, 15, None, "limited"),
        ("vllm-13b-a100", "content", 3, 1000, 0.0025, 30, None, "good"),
        ("openai-gpt4", "content", 8, 1000, 0.03, None, None, "superior"),
        ("onnx-7b-4xt4", "translation", 0.3, 20, 0.0001, 14, None, "simple sentences only"),
        ("trtllm-13b-2xa100", "translation", 0.2, 20, 0.0003, 28, 1000, "good"),
        ("openai-gpt4", "translation", 1.5, 20, 0.002, None, None, "excellent"),
    ],
)
def test_holds_the_nine_claims(
    catalog: Catalog,
    stack: str,
    scenario: str,
    latency_s: float,
    tokens: int,
    cost_usd: float,
    memory_gb: float | None,
    users: int | None,
    quality: str,
) -> None:
    claim = catalog.stack(stack).claims[scenario]
    assert stack in catalog.scenario(scenario).stacks
    assert (claim.latency_s, claim.tokens, claim.cost_usd) == (latency_s, tokens, cost_usd)
    assert (claim.memory_gb, claim.users, claim.quality) == (memory_gb, users, quality)
    assert claim.latency_text
    assert claim.quality_text


def test_gpu_figures_are_dense(catalog: Catalog) -> None:
    gpus = {
        gpu.name: (gpu.bandwidth_gbps, gpu.fp16_tflops, gpu.int8_tops, gpu.fp8_tflops) for gpu in catalog.gpus.values()
    }
    assert gpus == {
        "t4": (320, 65, 130, None),
        "a100-40": (1555, 312, 624, None),
        "a100-80": (2039, 312, 624, None),
        "l4": (300, 121, 242, 242),
        "a10g": (600, 70, 140, None),
        "h100": (3350, 989, 1979, 1979),
        "h200": (4800, 989, 1979, 1979),
    }
    for gpu in catalog.gpus.values():
        assert gpu.source.url, gpu.name
        assert gpu.source.read, gpu.name


def test_every_price_and_claim_says_where_it_is_from(catalog: Catalog) -> None:
    for stack in catalog.stacks.values():
        assert isinstance(stack.price, NoPrice) or (stack.price.source.url and stack.price.source.read), stack.name
        assert all(claim.source for claim in stack.claims.values())


def test_one_price_for_each_gpu(catalog: Catalog) -> None:
    prices: dict[str, set[float]] = {}
    for stack in catalog.stacks.values():
        if isinstance(stack.price, HourlyPrice):
            assert stack.hardware is not None
            prices.setdefault(stack.hardware.gpu, set()).add(stack.price.usd_per_gpu_hour)
    assert {gpu: len(found) for gpu, found in prices.items() if len(found) > 1} == {}


def test_every_quality_word_is_on_the_scale_and_every_candidate_has_one(catalog: Catalog) -> None:
    for scenario in catalog.scenarios.values():
        for stack in stacks_of(catalog, (*scenario.stacks, *scenario.variants)):
            assert quality_rank(stack.quality_word(scenario.name)) is not None, (stack.name, scenario.name)


def test_variants_say_that_quantisation_was_not_measured(catalog: Catalog) -> None:
    for scenario in catalog.scenarios.values():
        for stack in stacks_of(catalog, scenario.variants):
            assert stack.model is not None
            said = any("quantisation" in note for note in stack.notes)
            assert said == (stack.model.weight_bytes < 2), stack.name


def test_an_api_has_neither_model_nor_gpu(catalog: Catalog) -> None:
    gpt4 = catalog.stack("openai-gpt4")
    assert (gpt4.model, catalog.gpu_of(gpt4), gpt4.gpu_count, gpt4.is_api) == (None, None, 0, True)
    assert gpt4.emulation is not None
    assert gpt4.emulation.calibration == "claims"


def test_stacks_on_gpus_have_a_shape_and_are_emulated_by_physics(catalog: Catalog) -> None:
    for stack in catalog.stacks.values():
        if stack.hardware is not None:
            assert isinstance(stack.model, ModelShape)
            assert stack.emulation is not None
            assert stack.emulation.calibration == "roofline"
            spoken = "openai-chat" if stack.engine in ("vllm", "transformers") else "triton-generate-stream"
            assert stack.protocol == spoken


@pytest.mark.parametrize("scenario", ["chatbot", "content", "translation"])
def test_the_claims_of_gpu_stacks_are_below_their_floor_but_for_one(catalog: Catalog, scenario: str) -> None:
    below = {}
    for stack in stacks_of(catalog, catalog.scenario(scenario).stacks):
        claim = stack.claims[scenario]
        gpu = catalog.gpu_of(stack)
        if stack.model is not None and gpu is not None and claim.latency_s and claim.tokens:
            floor = latency_floor_s(stack.model, gpu, stack.tensor_parallel, 1, claim.tokens).total_s
            below[stack.name] = claim.latency_s < floor
    assert (
        below
        == {
            "chatbot": {"vllm-7b-t4": True, "vllm-13b-a100": True},
            "content": {"vllm-7b-t4": True, "vllm-13b-a100": True},
            "translation": {"onnx-7b-4xt4": True, "trtllm-13b-2xa100": False},
        }[scenario]
    )


PROMPT_TOKENS = {"chatbot": 400, "content": 150, "translation": 50}
"""Roughly what the workloads' templates and texts come to, a conversation with its history."""


def expected_response_s(catalog: Catalog, stack: Stack, scenario: Scenario) -> float:
    """R of the closed loop R = n x step(batch), batch = N R / (R + Z) on each replica; infinite without room."""
    busy, answer = machine(catalog, stack, Efficiency()), scenario.workload.output_tokens
    prompt, users = PROMPT_TOKENS[scenario.name], scenario.users / stack.replicas
    response = 0.1
    for _ in range(300):
        batch = max(1.0, users * response / (response + scenario.think_time.mean_s))
        if batch * (prompt + answer) > kv_capacity_tokens(busy):
            return float("inf")
        response += 0.3 * (answer * mean_step_s(busy, batch, prompt, answer) - response)
    return response


@pytest.mark.parametrize(
    ("scenario", "passing", "failing"),
    [
        (
            "chatbot",
            {"vllm-7b-int4-a100", "vllm-7b-int8-a100", "vllm-13b-int8-2xa100", "vllm-13b-fp8-h100"},
            {"vllm-7b-int4-t4", "vllm-7b-2xt4", "vllm-7b-int8-l4", "vllm-7b-int4-a10g", "vllm-7b-int8-a10g"},
        ),
        (
            "content",
            {"vllm-7b-int4-a100", "vllm-7b-int8-a100", "vllm-13b-int4-a100", "vllm-13b-fp8-h100"},
            {"vllm-7b-int8-l4", "vllm-7b-int4-a10g", "vllm-13b-h100"},
        ),
        (
            "translation",
            {"trtllm-7b-int8-a100", "trtllm-13b-int8-2xa100", "trtllm-13b-fp8-h100", "trtllm-13b-int8-4xa100"},
            {"trtllm-7b-int8-4xl4", "trtllm-13b-int8-a100"},
        ),
    ],
)
def test_physics_lets_some_variants_pass_with_room_and_some_cheaper_ones_not(
    catalog: Catalog, scenario: str, passing: set[str], failing: set[str]
) -> None:
    spec = catalog.scenario(scenario)
    expected = {name: expected_response_s(catalog, catalog.stack(name), spec) for name in spec.variants}
    limit = spec.primary.limit
    assert {name for name in passing if expected[name] > 0.8 * limit} == set()
    assert {name for name in failing if expected[name] < limit} == set()


def test_a_reduced_load_collects_enough_requests_to_pass(catalog: Catalog) -> None:
    stack = catalog.stack("llamacpp-smollm2")
    for scenario, expected_response in (("chatbot", 0.8), ("content", 1.0)):
        reduction, spec = stack.reduction[scenario], catalog.scenario(scenario)
        assert reduction.timing is not None
        assert reduction.think_mean_s is not None
        rate = reduction.users / (expected_response + reduction.think_mean_s)
        collected = rate * (reduction.timing.run_time_s - reduction.timing.warm_up_s)
        allowed = min(check.limit if check.allowed_rate is None else check.allowed_rate for check in spec.sla)
        assert collected >= required_samples(0, allowed, 0.95), scenario


def test_the_quick_profile_collects_enough_requests_to_pass(catalog: Catalog) -> None:
    for scenario in catalog.scenarios.values():
        timing = catalog.profile("quick").timing_for(scenario.name)
        rate = scenario.users / (scenario.primary.limit + scenario.think_time.mean_s)
        allowed = min(check.limit if check.allowed_rate is None else check.allowed_rate for check in scenario.sla)
        assert rate * (timing.run_time_s - timing.warm_up_s) >= required_samples(0, allowed, 0.95), scenario.name


def test_workload_files_lie_beside_the_catalog(catalog: Catalog) -> None:
    for scenario in catalog.scenarios.values():
        workload = scenario.workload
        assert workload.data
        assert all((WORKLOADS / name).is_file() for name in workload.data)
        for part in ("system", "user"):
            assert (WORKLOADS / "templates" / f"{workload.templates}.{part}.j2").is_file()


def test_every_set_of_prompts_is_drawn_from(catalog: Catalog) -> None:
    """``NAME.references.jsonl`` is what is expected of the prompts of ``NAME.jsonl``, and no set."""
    sets = {path.name for path in WORKLOADS.glob("*.jsonl") if not path.name.endswith(".references.jsonl")}
    assert sets == {name for scenario in catalog.scenarios.values() for name in scenario.workload.data}


def test_a_variant_of_a_scenario_runs_only_when_it_is_named(catalog: Catalog, tmp_path: Path) -> None:
    asked = {cell.scenario.name for cell in build_cells(catalog, Options(run_dir=Path("unused")))}
    assert asked == {"chatbot", "content", "translation"}
    (cell,) = build_cells(catalog, Options(scenarios=("translation-multilingual",), run_dir=Path("unused")))
    assert (cell.stack.name, cell.emulated) == ("llamacpp-smollm2", False)
    text = (ROOT / "scenarios" / "translation-multilingual.yaml").read_text(encoding="utf-8")
    (tmp_path / "lost.yaml").write_text(text.replace("variant_of: translation", "variant_of: translaton"))
    with pytest.raises(SpecError, match="unknown scenario 'translaton'; did you mean 'translation'"):
        load_catalog((tmp_path,))


def test_profiles_time_every_scenario(catalog: Catalog) -> None:
    quick, full = catalog.profile("quick"), catalog.profile("full")
    for scenario in catalog.scenarios:
        assert quick.timing_for(scenario).run_time_s <= 150
        assert full.timing_for(scenario).run_time_s >= 600
    assert quick.timing_for("a user's own") == quick.timing["default"]
    assert quick.looks == (0.25, 0.5, 0.75)


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("scenario", "chatbt", "did you mean 'chatbot'?"),
        ("stack", "vllm-7b-t5", "did you mean 'vllm-7b-t4'?"),
        ("profile", "zzz", "known: full, quick"),
    ],
)
def test_an_unknown_name_comes_with_the_nearest(catalog: Catalog, kind: str, name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        getattr(catalog, kind)(name)
    assert str(caught.value) == f"unknown {kind} '{name}'; {hint}"


def test_dangling_names_are_all_reported_with_the_nearest(tmp_path: Path) -> None:
    text = (ROOT / "scenarios" / "chatbot.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(
        text.replace("name: chatbot", "name: mine").replace("openai-gpt4]", "openai-gpt5]"), encoding="utf-8"
    )
    text = (ROOT / "stacks" / "vllm-7b-t4.yaml").read_text(encoding="utf-8")
    text = (
        text.replace("name: vllm-7b-t4", "name: other")
        .replace("gpu: t4", "gpu: t5")
        .replace("  content:", "  contents:")
    )
    (tmp_path / "stack.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_catalog((tmp_path,))
    assert list(caught.value.problems) == [
        f"{tmp_path}/mine.yaml: unknown stack 'openai-gpt5'; did you mean 'openai-gpt4'?",
        f"{tmp_path}/stack.yaml: unknown GPU 't5'; did you mean 't4'?",
        f"{tmp_path}/stack.yaml: unknown scenario 'contents'; did you mean 'content'?",
    ]


def test_a_users_file_replaces_a_stack_of_the_same_name(tmp_path: Path, catalog: Catalog) -> None:
    mine = tmp_path / "mine.yaml"
    shutil.copy(ROOT / "stacks" / "vllm-7b-t4.yaml", mine)
    mine.write_text(mine.read_text(encoding="utf-8").replace("title: 7B", "title: Mine, 7B"), encoding="utf-8")
    assert load_catalog((mine,)).stack("vllm-7b-t4").title.startswith("Mine")
    assert not catalog.stack("vllm-7b-t4").title.startswith("Mine")
