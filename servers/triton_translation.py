"""Triton with a translation model of CTranslate2 in its Python backend: one instance a GPU, or one on the CPU."""

from __future__ import annotations

from typing import ClassVar

from harness.errors import ServerError
from servers.base import Launcher, Order, RunningServer
from servers.models import resolve_weights
from servers.triton_onnx import serve_instances

MAX_BATCH = 32
"""A translation's decoder is small: a batch costs little more than a sentence."""
SOURCE_TOKENS = 512
"""What models of OPUS-MT were trained with."""


class TritonTranslation(Launcher):
    name = "triton-ctranslate2"
    holds_replicas: ClassVar[bool] = True

    def start(self, order: Order) -> RunningServer:
        launch = order.stack.launch
        if launch.weights is None:
            raise ServerError(f"stack '{order.stack.name}' needs launch.weights: a model converted for CTranslate2")
        model = resolve_weights(launch.weights, order.progress)
        if not (model / "tokenization.json").is_file():
            raise ServerError(
                f"{model} has no tokenization.json: it was not converted by servers/models/to_ctranslate2_main.py"
            )
        source_tokens = launch.context_tokens or SOURCE_TOKENS
        return serve_instances(order, self.name, "seq2seq", model, launch.max_batch or MAX_BATCH, source_tokens)
