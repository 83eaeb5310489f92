"""``transformers serve --continuous-batching``: for machines that hold torch and transformers and nothing else.

Besides its own environment it runs under any Python with transformers 5 and what its server imports (fastapi, uvicorn,
openai, pydantic, rich): ``runtime: path`` with ``executable`` a Python or a ``transformers`` script. It publishes no
metrics, knows a model by its directory's path, and takes no answer of forced length (``ignore_eos`` is refused).
"""

from __future__ import annotations

import os
from dataclasses import replace

from harness.errors import ServerError
from harness.spec import Stack
from servers.base import LOCALHOST, Launcher, Order, RunningServer, port_for, stand_up
from servers.interpreter import runs_here, started_by, version_of
from servers.models.weights import Weights, dtype_of, resolve
from servers.recipe import Recipe

MODULE = "transformers.cli.transformers"
DTYPES = {"half": "float16"}
"""A stack's word to transformers', where they differ."""
CPU_CACHE = ("--cb-num-blocks", "64", "--cb-max-batch-tokens", "512")
"""16,384 tokens of keys and values. Left to itself it takes most of the machine's memory for them, 11 GB of 23."""
NO_REPORTS = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}


class TransformersServe(Launcher):
    name = "transformers"

    def start(self, order: Order) -> RunningServer:
        stack, launch = order.stack, order.stack.launch
        _refuse_what_it_cannot(stack)
        words, python = started_by(launch, self.name, "transformers", MODULE)
        version = launch.image or ""
        if runs_here(launch):
            # torch's version says which CUDA or CPU build computes
            version = ", ".join(version_of(python, name) for name in ("transformers", "torch"))
        dtype = dtype_of(stack, order.gpu)
        weights = resolve(launch, python=python, dtype=dtype, progress=order.progress)
        port = port_for(order)
        recipe = Recipe(
            (*words, "serve", weights.argument, *options(stack, port, dtype)),
            port=port,
            version=version,
            variables=variables(stack, weights),
            mounts=() if weights.directory is None else (weights.directory,),
            details=details(stack, weights, dtype),
        )
        return stand_up(_served_as(order, weights.argument), self.name, recipe)


def options(stack: Stack, port: int, dtype: str | None) -> tuple[str, ...]:
    """Everything after ``transformers serve WEIGHTS``."""
    launch = stack.launch
    words = ["--continuous-batching", "--host", LOCALHOST, "--port", str(port)]
    if stack.hardware is None:
        words += ["--device", "cpu", *CPU_CACHE]
    elif launch.memory_share is not None:
        words += ["--cb-max-memory-percent", f"{launch.memory_share:g}"]
    if dtype is not None:
        words += ["--dtype", DTYPES.get(dtype, dtype)]
    if launch.quantization is not None:
        words += ["--quantization", launch.quantization]
    return (*words, *launch.arguments)


def variables(stack: Stack, weights: Weights) -> dict[str, str]:
    """One core of a machine without a GPU stays free for the load generator."""
    offline = {"HF_HUB_OFFLINE": "1"} if weights.directory is not None else {}
    if stack.hardware is not None:
        return {**NO_REPORTS, **offline}
    threads = stack.launch.threads or max(1, len(os.sched_getaffinity(0)) - 1)
    return {**NO_REPORTS, **offline, "OMP_NUM_THREADS": str(threads)}


def details(stack: Stack, weights: Weights, dtype: str | None) -> dict[str, str | int | float | bool]:
    """For the manifest; the flags are in its command."""
    known = {
        "weights": stack.launch.weights,
        "model_digest": weights.digest or None,
        "image": stack.launch.image,
        "dtype": dtype,
        "quantization": stack.launch.quantization,
    }
    return {name: value for name, value in known.items() if value is not None}


def _refuse_what_it_cannot(stack: Stack) -> None:
    launch = stack.launch
    asked = {
        "tensor_parallel": stack.tensor_parallel > 1,
        "data_parallel": launch.data_parallel > 1,
        "max_batch": launch.max_batch is not None,
        "context_tokens": launch.context_tokens is not None,
        "prefix_caching": launch.prefix_caching is not None,
    }
    wrong = [name for name, is_asked in asked.items() if is_asked]
    if wrong:
        raise ServerError(f"transformers serve has no setting for {', '.join(wrong)} of stack '{stack.name}'")


def _served_as(order: Order, argument: str) -> Order:
    """Requests name the model by what the server was told to load."""
    launch = order.stack.launch.model_copy(update={"served_model": argument})
    return replace(order, stack=order.stack.model_copy(update={"launch": launch}))
