"""Triton with ONNX Runtime GenAI in its Python backend: one instance of the model a GPU, or one on the CPU.

Triton itself holds the stack's replicas and spreads requests over its instances, so nothing else balances them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import ClassVar

from harness.errors import ServerError
from servers.base import Launcher, Order, RunningServer
from servers.models import resolve_weights
from servers.models.digests import model_digest
from servers.triton import serve
from servers.triton_rendering import render

MAX_BATCH = 8
CONTEXT_TOKENS = 2048
ENVIRONMENT = "triton-onnx"


class TritonOnnx(Launcher):
    name = "triton-onnx"
    holds_replicas: ClassVar[bool] = True

    def start(self, order: Order) -> RunningServer:
        launch = order.stack.launch
        if launch.weights is None:
            raise ServerError(f"stack '{order.stack.name}' needs launch.weights: a model of ONNX Runtime GenAI")
        model = resolve_weights(launch.weights, order.progress)
        context = min(launch.context_tokens or CONTEXT_TOKENS, _context_of(model))
        return serve_instances(order, self.name, "onnx_genai", model, launch.max_batch or MAX_BATCH, context)


def serve_instances(
    order: Order, launcher: str, template: str, model: Path, max_batch: int, context_tokens: int
) -> RunningServer:
    """Render a repository of ours, one instance of ``model`` a GPU or one on the CPU, and have Triton serve it."""
    gpus = instances_of(order)
    parameters: dict[str, str | int] = {
        "model": str(model),
        "max_batch": max_batch,
        "context_tokens": context_tokens,
        "threads": threads_of(order),
    }
    return serve(
        order,
        launcher,
        environment=ENVIRONMENT,
        repository=render(template, order.work_dir / "repository", order.model_name, parameters, gpus),
        model=order.model_name,
        reads=[model],
        rendered=True,
        details={
            "weights": model.name,
            "model_digest": model_digest(model),
            "instances": max(1, gpus),
            **parameters,
        },
    )


def instances_of(order: Order) -> int:
    """GPUs that hold an instance each, over all replicas; 0: the model runs on the CPU."""
    if order.stack.tensor_parallel > 1:
        raise ServerError(f"stack '{order.stack.name}': {order.stack.engine} cannot cut a model over several GPUs")
    return order.stack.gpu_count


def threads_of(order: Order) -> int:
    """On a CPU all cores but one, which the client needs; 0 (the engine's own choice) on GPUs."""
    if order.stack.hardware is not None:
        return order.stack.launch.threads or 0
    return order.stack.launch.threads or max(1, len(os.sched_getaffinity(0)) - 1)


def _context_of(model: Path) -> int:
    try:
        return int(json.loads((model / "genai_config.json").read_text(encoding="utf-8"))["model"]["context_length"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ServerError(
            f"{model} is no model of ONNX Runtime GenAI: its genai_config.json names no context_length"
        ) from error
