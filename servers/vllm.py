"""vLLM: on NVIDIA GPUs from its container or a program that is there, on any CPU from an environment of its own.

What a T4 needs (compute capability 7.5: no bfloat16, hence half) and what an A100 can (bfloat16, tensor parallelism)
follows from the stack's GPU; the rest is said by ``launch``.
"""

from __future__ import annotations

import os

from harness.spec import Stack
from servers.base import LOCALHOST, Launcher, Order, RunningServer, port_for, stand_up
from servers.environments import ENVIRONMENTS
from servers.interpreter import runs_here, started_by, version_of
from servers.models.weights import Weights, dtype_of, resolve
from servers.recipe import Recipe

CPU_CACHE_GIB = 2
"""For keys and values: 90,000 tokens of SmolLM2."""
NO_REPORTS = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


class Vllm(Launcher):
    name = "vllm"

    def start(self, order: Order) -> RunningServer:
        stack, launch = order.stack, order.stack.launch
        words, python = started_by(launch, self.name, "vllm", "vllm.entrypoints.cli.main")
        version = version_of(python, "vllm") if runs_here(launch) else launch.image or ""
        if launch.runtime == "container":
            python = str(ENVIRONMENTS["transformers"].python)
        dtype = dtype_of(stack, order.gpu)
        weights = resolve(launch, python=python, dtype=dtype, progress=order.progress)
        port = port_for(order)
        recipe = Recipe(
            (*words, "serve", weights.argument, *options(stack, order.model_name, port, dtype)),
            port=port,
            version=version,
            metrics_path="/metrics",
            variables=variables(stack, weights),
            mounts=() if weights.directory is None else (weights.directory,),
            details=details(stack, weights, dtype),
        )
        return stand_up(order, self.name, recipe)


def options(stack: Stack, model_name: str, port: int, dtype: str | None) -> tuple[str, ...]:
    """Everything after ``vllm serve WEIGHTS``."""
    launch = stack.launch
    words = ["--host", LOCALHOST, "--port", str(port), "--served-model-name", model_name]
    # A line a request would cost the engine's own time under load.
    words += ["--disable-uvicorn-access-log"]
    if dtype is not None:
        words += ["--dtype", dtype]
    if launch.context_tokens is not None:
        words += ["--max-model-len", str(launch.context_tokens)]
    if launch.max_batch is not None:
        words += ["--max-num-seqs", str(launch.max_batch)]
    if launch.quantization is not None:
        words += ["--quantization", launch.quantization]
    if launch.prefix_caching is not None:
        words += ["--enable-prefix-caching" if launch.prefix_caching else "--no-enable-prefix-caching"]
    if stack.hardware is None:
        words += ["--enforce-eager"]  # compiling takes minutes on a CPU
    elif launch.memory_share is not None:
        words += ["--gpu-memory-utilization", f"{launch.memory_share:g}"]
    if stack.tensor_parallel > 1:
        words += ["--tensor-parallel-size", str(stack.tensor_parallel)]
    if launch.data_parallel > 1:
        words += ["--data-parallel-size", str(launch.data_parallel)]
    return (*words, *launch.arguments)


def variables(stack: Stack, weights: Weights) -> dict[str, str]:
    offline = {"HF_HUB_OFFLINE": "1"} if weights.directory is not None else {}
    return {**NO_REPORTS, **offline, **(cpu_variables(stack.launch.threads) if stack.hardware is None else {})}


def cpu_variables(threads: int | None) -> dict[str, str]:
    """One core stays free for the API server and the load generator, and no thread is bound to a core.

    OpenMP's threads wait for each other by spinning: with as many as cores, another busy process on a machine of two
    made the engine 20 times slower.
    """
    cores = len(os.sched_getaffinity(0))
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(CPU_CACHE_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads or max(1, cores - 1)),
    }


def details(stack: Stack, weights: Weights, dtype: str | None) -> dict[str, str | int | float | bool]:
    """For the manifest; the flags are in its command."""
    launch = stack.launch
    known = {
        "weights": launch.weights,
        "model_digest": weights.digest or None,
        "image": launch.image,
        "dtype": dtype,
        "quantization": launch.quantization,
        "context_tokens": launch.context_tokens,
        "max_batch": launch.max_batch,
        "tensor_parallel": stack.tensor_parallel if stack.tensor_parallel > 1 else None,
        "data_parallel": launch.data_parallel if launch.data_parallel > 1 else None,
    }
    return {name: value for name, value in known.items() if value is not None}
