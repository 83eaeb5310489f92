"""What ``launch.weights`` means to an engine that reads Hugging Face's format: a directory, or a name to fetch."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ServerError, UsageError
from harness.spec import Gpu, Launch, Stack
from servers.environments import home, locked, require_room, run, write
from servers.models import MODELS, SCRIPTS, described, is_complete, random_model, recipe_of, resolve_weights
from servers.models.digests import model_digest
from servers.processor import slow_in_bfloat16
from servers.ready import Progress

RANDOM = "random:"
HUB = "hf:"
NO_BFLOAT16_BELOW = 8.0
"""Compute capability: Turing (7.5) has no bfloat16."""


@dataclass(frozen=True, slots=True)
class Weights:
    """``argument`` is what the engine is told; ``directory`` is None where that is not a path of this machine."""

    argument: str
    directory: Path | None = None
    digest: str = ""


def dtype_of(stack: Stack, gpu: Gpu | None) -> str | None:
    """The launch's dtype, else one that the hardware computes fast: half on a GPU without bfloat16, float32 on such a
    processor of this machine. None leaves it to the engine.
    """
    if stack.launch.dtype is not None:
        return stack.launch.dtype
    if stack.hardware is None and stack.launch.ssh_host is None and slow_in_bfloat16():
        return "float32"
    known = gpu is not None and gpu.compute_capability is not None
    if known and gpu.compute_capability < NO_BFLOAT16_BELOW:  # type: ignore[union-attr,operator]
        return "half"
    return None


def resolve(launch: Launch, *, python: str, dtype: str | None, progress: Progress) -> Weights:
    """Find the weights of a launch, or make them where they are random.

    Parameters
    ----------
    python
        An interpreter with torch, transformers, safetensors and tokenizers, for random weights.
    dtype
        Of random weights: ``half``, ``float32``, else bfloat16.

    Raises
    ------
    ServerError
        For weights that are not named, not there or not a model.
    """
    named = launch.weights
    if named is None:
        raise ServerError(
            "launch.weights is missing: a directory, a name of 'harness models', hf:ORGANISATION/NAME or random:7b"
        )
    if launch.ssh_host is not None:
        if named.startswith(RANDOM):
            raise ServerError(f"make {named} on {launch.ssh_host} with random_weights_main.py and name the directory")
        return Weights(named.removeprefix(HUB))
    if named.startswith(HUB):
        fetched = described(named)
        return _local(fetched.path) if is_complete(fetched) else Weights(named.removeprefix(HUB))  # the engine fetches
    if named.startswith(RANDOM):
        return _local(_make_random(named.removeprefix(RANDOM), python, dtype, progress))
    beside = home() / ".models" / named
    return _local(resolve_weights(named if named in MODELS or not beside.is_dir() else str(beside), progress))


def _local(directory: Path) -> Weights:
    files = sorted(directory.glob("*.safetensors"))
    if not (directory / "config.json").is_file() or not files:
        raise ServerError(f"{directory} holds no model in Hugging Face's format: config.json and *.safetensors")
    return Weights(str(directory), directory, model_digest(directory) or digest_of(directory, files))


def digest_of(directory: Path, files: list[Path]) -> str:
    """SHA-256 of config.json and of the name, size and header (tensors, dtypes, offsets) of each safetensors file.

    Not of the tensors themselves: reading 26 GB would take longer than the engine takes to start.
    """
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for path in files:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            digest.update(f"{path.name} {path.stat().st_size}\n".encode() + file.read(min(length, 100 << 20)))
    return f"headers-sha256:{digest.hexdigest()}"


def _make_random(shape: str, python: str, dtype: str | None, progress: Progress) -> Path:
    """Made by the engine's own interpreter: a GPU machine may have no environment of ours."""
    kind = {"half": "float16", "float32": "float32"}.get(dtype or "", "bfloat16")
    try:
        model = random_model(shape, kind)
    except UsageError as error:
        raise ServerError(f"launch.weights: {error}") from error
    with locked(home() / ".models", model.name):
        if is_complete(model):
            return model.path
        partial = model.path.with_name(f"{model.name}.partial")
        for old in (partial, model.path):
            shutil.rmtree(old, ignore_errors=True)
        room = require_room(partial.parent, model.name, model.size_mb, 0, model.size_mb)
        progress(f"making {model.name}; {room}")
        command = [python, str(SCRIPTS / model.script), "--target", str(partial), *model.arguments]
        tokenizer = MODELS[model.made_from]
        run([*command, *(["--source", str(tokenizer.path)] if is_complete(tokenizer) else [])])
        write(partial / "complete", recipe_of(model))
        partial.replace(model.path)
    return model.path
