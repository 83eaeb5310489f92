"""The physics of serving: what a GPU can do at best, and what a stated efficiency leaves of it.

Symbols, with their units: W bytes of weights read per step, P parameters that compute, KV bytes of
keys and values read per step, BW memory bandwidth in bytes/s, F dense FLOP/s, g the tensor-parallel degree.
A decoded token needs every weight once, and a token costs 2 P floating-point operations
(one multiply, one add per parameter), hence the roofline (Williams et al., 2009)

    step time >= max((W + KV) / (g BW), 2 P tokens / (g F)).

The attention's own arithmetic, activations and the input embedding are left out, so a floor stays a floor.
Stated precision is assumed and no speculative decoding: with it, the decode part divides by the accepted
tokens + 1. Replicas multiply capacity and never shorten a request; tensor parallelism shortens it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.spec import Efficiency, Gpu, ModelShape

GIB = 2**30
NATURAL_LENGTH = (0.7, 1.0)
"""Between which shares of the tokens asked for a natural answer is taken to end, uniformly (emulator and plan)."""

PCIE_GBPS = 12.0
"""10^9 bytes/s and direction of PCIe 3.0 x16 in practice: the link of GPUs without a stated interconnect."""
ALL_REDUCE_LATENCY_S = 10e-6
"""Start-up time of one small all-reduce between GPUs of one machine (NCCL on NVLink: 8 to 20 us)."""
ACTIVATION_BYTES = 2
PREFILL_BUDGET = 8192
"""Prompt tokens of one step (vLLM's default max_num_batched_tokens for online serving on data-centre GPUs)."""


@dataclass(frozen=True, slots=True)
class Floor:
    """The shortest time in which one request alone can be answered, seconds."""

    prefill_s: float
    decode_s: float
    arithmetic: str

    @property
    def total_s(self) -> float:
        return self.prefill_s + self.decode_s


@dataclass(frozen=True, slots=True)
class MemoryFit:
    """Bytes over all GPUs of one replica."""

    weights: float
    request_kv: float
    usable: float

    @property
    def fits(self) -> bool:
        return self.needed <= self.usable

    @property
    def needed(self) -> float:
        return self.weights + self.request_kv


@dataclass(frozen=True, slots=True)
class Machine:
    """One replica: a model on ``tensor_parallel`` GPUs.

    ``efficiency`` None is the roofline itself: the data sheet, no overhead, free communication.
    """

    model: ModelShape
    gpu: Gpu
    tensor_parallel: int = 1
    efficiency: Efficiency | None = None

    @property
    def bandwidth(self) -> float:
        """Bytes/s of all GPUs together."""
        share = 1.0 if self.efficiency is None else self.efficiency.bandwidth
        return self.gpu.bandwidth_gbps * 1e9 * share * self.tensor_parallel

    @property
    def flops(self) -> float:
        """Operations/s of all GPUs together, in the arithmetic of the model's matrix products."""
        share = 1.0 if self.efficiency is None else self.efficiency.compute
        return compute_flops(self.model, self.gpu) * share * self.tensor_parallel

    @property
    def memory_share(self) -> float:
        return 1.0 if self.efficiency is None else self.efficiency.memory


def compute_flops(model: ModelShape, gpu: Gpu) -> float:
    """Dense operations/s of one GPU in the model's arithmetic; fp16's where the GPU is no faster."""
    tera = {"fp16": gpu.fp16_tflops, "int8": gpu.int8_tops, "fp8": gpu.fp8_tflops}[model.compute]
    return (tera or gpu.fp16_tflops) * 1e12


def weight_bytes(model: ModelShape) -> float:
    """Bytes that all weights occupy."""
    return model.parameters * model.weight_bytes


def read_bytes(model: ModelShape, tokens: float = 1.0) -> float:
    """W: weight bytes that a step over ``tokens`` tokens reads.

    A mixture of experts reads its active ones for a single token; tokens choose experts apart from each other, so
    many of them touch up to all.
    """
    active = model.active_parameters or model.parameters
    return min(model.parameters, active * max(1.0, tokens)) * model.weight_bytes


def step_flops(model: ModelShape, tokens: float) -> float:
    """2 P operations per token."""
    return 2.0 * (model.active_parameters or model.parameters) * tokens


def latency_floor_s(model: ModelShape, gpu: Gpu, tensor_parallel: int, input_tokens: int, output_tokens: int) -> Floor:
    """Bound one request's latency from below, in seconds, on a machine that serves nothing else.

    (max(W/BW, 2 P T_in / F) + sum over the n - 1 further tokens of (W + KV so far)/BW) / g; a prefill yields the
    first token, and token i reads the keys and values of T_in + i tokens.
    """
    machine = Machine(model, gpu, tensor_parallel)
    weights = read_bytes(model)
    prefill_s = max(weights / machine.bandwidth, step_flops(model, input_tokens) / machine.flops)
    steps = max(0, output_tokens - 1)
    weights_s = steps * weights / machine.bandwidth
    kv_tokens = steps * input_tokens + steps * (steps + 1) / 2
    kv_s = kv_tokens * model.kv_bytes_per_token / machine.bandwidth
    over = f" / {tensor_parallel} GPUs" if tensor_parallel > 1 else ""
    arithmetic = (
        f"{_gigabytes(weights)} / {gpu.bandwidth_gbps:,.0f} GB/s{over} = {_time(weights / machine.bandwidth)} a token; "
        f"x {steps:,} = {_time(weights_s)}; + KV {_time(kv_s)}; + prefill {_time(prefill_s)} "
        f"= {_time(prefill_s + weights_s + kv_s)}"
    )
    return Floor(prefill_s, weights_s + kv_s, arithmetic)


def tokens_within(model: ModelShape, gpu: Gpu, tensor_parallel: int, seconds: float) -> int:
    """Tokens that ``seconds`` allow at one reading of the weights each: the most a claim of that latency can mean."""
    token_s = read_bytes(model) / Machine(model, gpu, tensor_parallel).bandwidth
    return int(seconds / token_s * (1 + 1e-12))


def step_time_s(machine: Machine, batch: float, kv_tokens_total: float, prefill_tokens: float = 0.0) -> float:
    """Seconds of one engine step that decodes ``batch`` requests and prefills ``prefill_tokens``.

    max((W + KV)/BW, 2 P (batch + prefill)/F) / g, at the machine's efficiency, plus host time per step and two
    all-reduces per layer between tensor-parallel GPUs (one after attention, one after the feed-forward part).
    """
    tokens = batch + prefill_tokens
    traffic = read_bytes(machine.model, tokens) + kv_tokens_total * machine.model.kv_bytes_per_token
    roof = max(traffic / machine.bandwidth, step_flops(machine.model, tokens) / machine.flops)
    if machine.efficiency is None:
        return roof
    return roof + machine.efficiency.overhead_s + all_reduce_s(machine, tokens)


def all_reduce_s(machine: Machine, tokens: float) -> float:
    """Seconds of communication in one step.

    A ring all-reduce sends 2 (g - 1)/g of the activations (tokens x hidden x 2 bytes) over each GPU's link.
    """
    degree = machine.tensor_parallel
    if degree == 1:
        return 0.0
    link = (machine.gpu.interconnect_gbps or PCIE_GBPS) * 1e9
    sent = 2.0 * (degree - 1) / degree * tokens * machine.model.hidden * ACTIVATION_BYTES
    return 2.0 * machine.model.layers * (ALL_REDUCE_LATENCY_S + sent / link)


def usable_bytes(machine: Machine) -> float:
    """Memory that the engine may use, over all GPUs of the replica."""
    return machine.gpu.memory_gib * GIB * machine.memory_share * machine.tensor_parallel


def stored_kv_bytes_per_token(machine: Machine) -> float:
    """Bytes that one token's keys and values occupy; heads are copied where there are more GPUs than KV heads."""
    return machine.model.kv_bytes_per_token * max(1.0, machine.tensor_parallel / machine.model.kv_heads)


def kv_capacity_tokens(machine: Machine) -> int:
    """Tokens whose keys and values fit beside the weights; 0 when not even the weights fit."""
    room = usable_bytes(machine) - weight_bytes(machine.model)
    return max(0, int(room / stored_kv_bytes_per_token(machine)))


def memory_fit(machine: Machine, request_tokens: int) -> MemoryFit:
    """Weights and one request's keys and values against the memory that the engine may use."""
    return MemoryFit(
        weights=weight_bytes(machine.model),
        request_kv=request_tokens * stored_kv_bytes_per_token(machine),
        usable=usable_bytes(machine),
    )


def does_not_fit(machine: Machine, request_tokens: int) -> str:
    """Say, per GPU in 10^9 bytes, why not even one request fits, and by how much."""
    fit, gpus = memory_fit(machine, request_tokens), machine.tensor_parallel
    excess = fit.needed - fit.usable
    return (
        f"does not fit: {fit.weights / gpus / 1e9:.1f} GB of weights and {fit.request_kv / gpus / 1e9:.2f} GB of "
        f"KV for one request of {request_tokens:,} tokens are {excess / gpus / 1e9:.2f} GB more than "
        f"the {fit.usable / gpus / 1e9:.1f} GB that the engine may use ({machine.memory_share:.0%} of "
        f"{machine.gpu.memory_gib * GIB / 1e9:.1f} GB)"
    )


def largest_batch(machine: Machine, request_tokens: int, max_batch: int) -> int:
    """Requests that run together when each reserves ``request_tokens``; 0 when none fits."""
    return min(max_batch, kv_capacity_tokens(machine) // request_tokens)


def mean_step_s(machine: Machine, batch: float, input_tokens: float, output_tokens: float) -> float:
    """Seconds of a step, on average, in a steady mix of ``batch`` requests at every stage of their answers.

    Each request spends one step per output token, so batch / n of them join per step on average, and they hold their
    prompt and on average half of their answer. Prompts come whole and by chance (Poisson): what several add to one
    step does not hide behind the reading of the weights in the others. On the roofline itself they are spread evenly,
    which no schedule can beat.
    """
    joining = batch / output_tokens
    decoding = batch - joining
    kv_tokens = decoding * (input_tokens + output_tokens / 2)
    if machine.efficiency is None:
        return step_time_s(machine, decoding, kv_tokens, joining * input_tokens)
    total = 0.0
    share = math.exp(-joining)
    reached = 0.0
    prompts = 0
    while reached < 1 - 1e-6 and prompts <= batch:
        total += share * step_time_s(machine, decoding, kv_tokens, prompts * input_tokens)
        reached += share
        prompts += 1
        share *= joining / prompts
    return total / reached


def largest_crowd(machine: Machine, input_tokens: float, output_tokens: float, within_s: float = math.inf) -> int:
    """Most requests in flight at once whose answers take ``within_s`` on average; 0 when not even one does.

    In a steady mix each holds its prompt and half of its answer, so memory admits KV capacity / (T_in + n / 2) of
    them, however cleverly an engine shares it out; an answer takes n steps, and steps grow with the batch.
    """
    most = int(kv_capacity_tokens(machine) / (input_tokens + output_tokens / 2))
    if most == 0 or output_tokens * mean_step_s(machine, 1, input_tokens, output_tokens) > within_s:
        return 0
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        if output_tokens * mean_step_s(machine, middle, input_tokens, output_tokens) <= within_s:
            low = middle
        else:
            high = middle - 1
    return low


def answer_s(machine: Machine, input_tokens: int, output_tokens: int) -> float:
    """Seconds of one answer alone at the machine's efficiency; without one, close to :func:`latency_floor_s`."""
    first = step_time_s(machine, 0, 0, input_tokens)
    return first + (output_tokens - 1) * step_time_s(machine, 1, input_tokens + output_tokens / 2)


def capacity_rps(machine: Machine, batch: int, input_tokens: float, output_tokens: float, replicas: int = 1) -> float:
    """Requests/s that ``replicas`` machines answer with ``batch`` requests running on each; 0 without room for one."""
    if batch == 0:
        return 0.0
    return replicas * batch / (output_tokens * mean_step_s(machine, batch, input_tokens, output_tokens))


def _time(seconds: float) -> str:
    if seconds < 0.1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:,.2f} s"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB"
