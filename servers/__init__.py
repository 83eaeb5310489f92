"""Servers: one launcher a file, plus what it launches.

A new engine is one file and one line in ``LAUNCHERS``. Every server runs in an environment of its own, under
:mod:`servers.guard`, and is ready once a token came back (:mod:`servers.ready`).
"""

from __future__ import annotations

from harness.spec import Stack
from servers.attach import Attach
from servers.base import Launcher, RunningServer
from servers.emulator_launcher import Emulator
from servers.llamacpp import LlamaCpp
from servers.openai_api import OpenAIApi
from servers.replicas import Replicated
from servers.transformers_serve import TransformersServe
from servers.triton_onnx import TritonOnnx
from servers.triton_translation import TritonTranslation
from servers.triton_trtllm import TritonTrtllm
from servers.vllm import Vllm

LAUNCHERS: dict[str, Launcher] = {
    "llamacpp": LlamaCpp(),
    "vllm": Vllm(),
    "transformers": TransformersServe(),
    "triton-trtllm": TritonTrtllm(),
    "triton-onnx": TritonOnnx(),
    "triton-ctranslate2": TritonTranslation(),
    "openai": OpenAIApi(),
    "attach": Attach(),
    "emulator": Emulator(),
}
"""A stack's ``engine`` to what starts it."""


def launcher_for(stack: Stack, emulate: bool) -> Launcher:
    """The launcher of a stack, whose replicas are servers of their own unless the engine holds them itself.

    An emulated stack is one process that plays all replicas.
    """
    if emulate:
        return LAUNCHERS["emulator"]
    launcher = LAUNCHERS[stack.engine]
    return Replicated(launcher) if stack.replicas > 1 and not launcher.holds_replicas else launcher


__all__ = ["LAUNCHERS", "Launcher", "RunningServer", "launcher_for"]
