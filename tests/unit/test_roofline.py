"""The physics: known figures of known GPUs, and what must hold for every shape."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.roofline import (
    Machine,
    all_reduce_s,
    capacity_rps,
    compute_flops,
    kv_capacity_tokens,
    largest_batch,
    latency_floor_s,
    mean_step_s,
    memory_fit,
    read_bytes,
    step_time_s,
    tokens_within,
)
from harness.spec import Efficiency, Gpu, ModelShape, Source

SOURCE = Source(text="data sheet")
T4 = Gpu(
    name="t4", title="T4", memory_gib=15, bandwidth_gbps=320, fp16_tflops=65, int8_tops=130, watts=70, source=SOURCE
)
A100 = Gpu(
    name="a100",
    title="A100 80 GB SXM",
    memory_gib=79.2,
    bandwidth_gbps=2039,
    fp16_tflops=312,
    int8_tops=624,
    watts=400,
    interconnect_gbps=300,
    source=SOURCE,
)
SEVEN = ModelShape(name="7b", parameters=7e9, layers=32, hidden=4096, kv_heads=32, head_dim=128, weight_bytes=2)
THIRTEEN = ModelShape(name="13b", parameters=13e9, layers=40, hidden=5120, kv_heads=40, head_dim=128, weight_bytes=2)
SEVEN_INT4 = SEVEN.model_copy(update={"weight_bytes": 0.5})
REAL = Efficiency()

NEGLECTED = 0.02
"""The known figures leave out the KV cache."""

shapes = st.builds(
    ModelShape,
    name=st.just("any"),
    parameters=st.floats(1e8, 1e11),
    layers=st.integers(1, 100),
    hidden=st.integers(64, 16384),
    kv_heads=st.integers(1, 128),
    head_dim=st.sampled_from((64, 128, 256)),
    weight_bytes=st.sampled_from((0.5, 1.0, 2.0)),
    compute=st.sampled_from(("fp16", "int8", "fp8")),
)
gpus = st.builds(
    Gpu,
    name=st.just("any"),
    title=st.just("any"),
    memory_gib=st.floats(8, 200),
    bandwidth_gbps=st.floats(100, 8000),
    fp16_tflops=st.floats(10, 3000),
    int8_tops=st.none() | st.floats(10, 5000),
    watts=st.just(300.0),
    interconnect_gbps=st.none() | st.floats(1, 1000),
    source=st.just(SOURCE),
)
efficiencies = st.builds(
    Efficiency, bandwidth=st.floats(0.1, 1), compute=st.floats(0.1, 1), overhead_s=st.floats(0, 0.01)
)
degrees = st.sampled_from((1, 2, 4, 8))
machines = st.builds(Machine, shapes, gpus, degrees, st.none() | efficiencies)


@pytest.mark.parametrize(
    ("model", "gpu", "degree", "tokens", "seconds"),
    [
        (SEVEN, T4, 1, 200, 8.75),
        (SEVEN, T4, 1, 1000, 43.75),
        (SEVEN_INT4, T4, 1, 200, 2.19),
        (THIRTEEN, A100, 1, 200, 2.55),
        (THIRTEEN, A100, 1, 1000, 12.75),
        (THIRTEEN, A100, 2, 20, 0.1275),
    ],
)
def test_known_floors(model: ModelShape, gpu: Gpu, degree: int, tokens: int, seconds: float) -> None:
    floor = latency_floor_s(model, gpu, degree, 1, tokens)
    assert seconds * 0.998 <= floor.total_s <= seconds * (1 + NEGLECTED)


def test_a_token_of_7b_on_a_t4_takes_44_ms() -> None:
    assert read_bytes(SEVEN) / Machine(SEVEN, T4).bandwidth == pytest.approx(0.04375)


def test_300_ms_on_a_t4_are_six_tokens() -> None:
    assert tokens_within(SEVEN, T4, 1, 0.3) == 6


def test_a_whole_number_of_tokens_is_not_lost_to_rounding() -> None:
    assert [tokens_within(SEVEN, T4, 1, count * 0.04375) for count in range(1, 200)] == list(range(1, 200))


def test_kv_bytes_come_out_of_the_shapes() -> None:
    assert SEVEN.kv_bytes_per_token == 512 * 1024
    assert THIRTEEN.kv_bytes_per_token == 800 * 1024
    assert SEVEN.model_copy(update={"kv_heads": 8}).kv_bytes_per_token == 128 * 1024
    assert THIRTEEN.model_copy(update={"kv_heads": 8}).kv_bytes_per_token == 160 * 1024


def test_the_arithmetic_shows_its_numbers() -> None:
    text = latency_floor_s(SEVEN, T4, 1, 1, 200).arithmetic
    assert text == ("14.0 GB / 320 GB/s = 43.8 ms a token; x 199 = 8.71 s; + KV 32.9 ms; + prefill 43.8 ms = 8.78 s")
    assert "/ 2,039 GB/s / 2 GPUs = 6.4 ms a token" in latency_floor_s(THIRTEEN, A100, 2, 1, 20).arithmetic


def test_a_long_prompt_is_bound_by_arithmetic() -> None:
    floor = latency_floor_s(SEVEN, T4, 1, 4000, 1)
    assert floor.prefill_s == pytest.approx(2 * 7e9 * 4000 / 65e12)
    assert floor.decode_s == 0


def test_a_t4_leaves_7b_fp16_room_for_about_a_thousand_tokens() -> None:
    machine = Machine(SEVEN, T4, 1, REAL)
    assert kv_capacity_tokens(machine) == 945
    assert largest_batch(machine, 550, 256) == 1
    assert largest_batch(machine, 100, 4) == 4
    assert memory_fit(machine, 945).fits
    assert not memory_fit(machine, 946).fits


def test_a_model_larger_than_the_memory_has_no_room_at_all() -> None:
    machine = Machine(THIRTEEN, T4, 1, REAL)
    assert kv_capacity_tokens(machine) == 0
    assert not memory_fit(machine, 1).fits
    assert capacity_rps(machine, 0, 100, 100) == 0


def test_more_gpus_than_kv_heads_copy_them() -> None:
    few_heads = SEVEN.model_copy(update={"kv_heads": 2})
    two, four = (kv_capacity_tokens(Machine(few_heads, A100, degree, REAL)) for degree in (2, 4))
    assert four < 2 * two


def test_int8_arithmetic_counts_where_the_gpu_has_it() -> None:
    int8 = SEVEN.model_copy(update={"compute": "int8"})
    assert compute_flops(int8, T4) == 130e12
    assert compute_flops(int8, T4.model_copy(update={"int8_tops": None})) == 65e12


def test_a_mixture_of_experts_reads_more_with_more_tokens() -> None:
    experts = SEVEN.model_copy(update={"parameters": 47e9, "active_parameters": 13e9})
    assert read_bytes(experts) == 26e9
    assert read_bytes(experts, 2) == 52e9
    assert read_bytes(experts, 100) == 94e9


def test_all_reduces_cost_between_gpus_only() -> None:
    assert all_reduce_s(Machine(THIRTEEN, A100, 1, REAL), 100) == 0
    two = all_reduce_s(Machine(THIRTEEN, A100, 2, REAL), 100)
    assert two == pytest.approx(80 * (10e-6 + 100 * 5120 * 2 / 300e9))
    slow = A100.model_copy(update={"interconnect_gbps": None})
    assert all_reduce_s(Machine(THIRTEEN, slow, 2, REAL), 100) > two


def test_replicas_multiply_capacity() -> None:
    machine = Machine(SEVEN, A100, 1, REAL)
    assert capacity_rps(machine, 32, 300, 200, 4) == pytest.approx(4 * capacity_rps(machine, 32, 300, 200))


@settings(deadline=None)
@given(shapes, gpus, degrees, st.integers(1, 10_000), st.integers(1, 5_000), st.floats(1, 10))
def test_more_bandwidth_is_never_slower(
    model: ModelShape, gpu: Gpu, degree: int, prompt: int, tokens: int, factor: float
) -> None:
    faster = gpu.model_copy(update={"bandwidth_gbps": gpu.bandwidth_gbps * factor})
    slow, fast = (latency_floor_s(model, each, degree, prompt, tokens).total_s for each in (gpu, faster))
    assert fast <= slow * (1 + 1e-12)


@settings(deadline=None)
@given(machines, st.integers(0, 300), st.integers(0, 300), st.integers(0, 100_000), st.integers(0, 8192))
def test_a_larger_batch_never_makes_a_faster_step(
    machine: Machine, batch: int, more: int, kv_tokens: int, prefill: int
) -> None:
    assert step_time_s(machine, batch, kv_tokens, prefill) <= step_time_s(machine, batch + more, kv_tokens, prefill)
    assert step_time_s(machine, batch, kv_tokens) <= step_time_s(machine, batch, kv_tokens + more, prefill)


@settings(deadline=None)
@given(shapes, gpus, degrees, efficiencies, st.integers(1, 64), st.integers(1, 1000))
def test_no_efficiency_beats_the_roofline(
    model: ModelShape, gpu: Gpu, degree: int, efficiency: Efficiency, batch: int, kv_tokens: int
) -> None:
    roof = step_time_s(Machine(model, gpu, degree), batch, kv_tokens, 100)
    assert step_time_s(Machine(model, gpu, degree, efficiency), batch, kv_tokens, 100) >= roof * (1 - 1e-12)


@settings(deadline=None)
@given(machines, st.integers(1, 2000), st.integers(1, 500), st.integers(1, 250), st.integers(1, 6))
def test_a_mean_step_lies_between_an_empty_and_a_crowded_one(
    machine: Machine, prompt: int, tokens: int, batch: int, more: int
) -> None:
    mean = mean_step_s(machine, batch, prompt, tokens)
    assert mean >= step_time_s(machine, 0, 0) * (1 - 1e-9)
    assert mean <= step_time_s(machine, 2 * batch, batch * (prompt + tokens), batch * prompt) * (1 + 1e-9)
    assert mean <= mean_step_s(machine, batch + more, prompt, tokens) * (1 + 1e-6)
