"""Models: weights under ``.models/``, fetched and checked, or converted into the format that an engine reads.

A model is named as in ``harness models``, as ``hf:ORGANISATION/NAME[@REVISION]`` of a model hub, or as
``random:SHAPE``: weights made up on this machine. Whatever needs torch, transformers or huggingface_hub runs in the
Python of an engine's environment, which has them; the harness itself has none. A model counts only once its stamp is
written, so that making it can be interrupted and repeated.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import ServerError, UsageError, unknown_name
from servers.environments import (
    ENVIRONMENTS,
    SMOLLM2,
    fetch,
    home,
    locked,
    make,
    read,
    require_room,
    run,
    sha256,
    write,
)
from servers.environments import is_complete as is_made
from servers.models.digests import DIGESTS, write_digests

SCRIPTS = Path(__file__).resolve().parent
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Model:
    """A directory under ``.models/`` that a script makes.

    The script lies beside this file and is called as ``python SCRIPT [--source PATH] --target DIRECTORY [ARGUMENTS]``
    by the environment's Python; ``made_from`` is the model that it reads, if any.
    """

    name: str
    format: Literal["hf", "onnx", "ctranslate2"]
    environment: str
    script: str
    made_from: str = ""
    arguments: tuple[str, ...] = ()
    size_mb: int = 0
    about: str = ""
    licence: str = ""
    """Empty: that of what it is made from."""
    origin: str = ""
    """How a user names it, where that is not ``name``."""
    resumes: bool = False
    """The script goes on with what an interrupted run of it left."""

    @property
    def path(self) -> Path:
        return home() / ".models" / self.name

    @property
    def command(self) -> str:
        """What a user types to get it."""
        return f"harness models {self.origin or self.name}"


GGUF = "smollm2-gguf"
"""The one file that is fetched as it is (:data:`servers.environments.SMOLLM2`)."""

MODELS: dict[str, Model] = {
    "smollm2-hf": Model(
        "smollm2-hf",
        "hf",
        "transformers",
        "gguf_to_hf.py",
        made_from=GGUF,
        size_mb=273,
        about="SmolLM2-135M-Instruct in bf16 with its tokenizer and chat template, for vLLM and transformers",
    ),
    **{
        f"smollm2-onnx-{precision}": Model(
            f"smollm2-onnx-{precision}",
            "onnx",
            "model-builder",
            "to_onnx_main.py",
            made_from="smollm2-hf",
            arguments=("--precision", precision),
            size_mb=size_mb,
            about=f"SmolLM2-135M-Instruct in {precision} for ONNX Runtime GenAI on the CPU",
        )
        for precision, size_mb in (("int4", 90), ("int8", 271))
    },
    "tiny-seq2seq-hf": Model(
        "tiny-seq2seq-hf",
        "hf",
        "model-builder",
        "tiny_seq2seq_main.py",
        size_mb=2,
        about="a MarianMT model trained here for seconds on made-up sentences; no translation to be relied on",
    ),
    "tiny-seq2seq": Model(
        "tiny-seq2seq",
        "ctranslate2",
        "model-builder",
        "to_ctranslate2_main.py",
        made_from="tiny-seq2seq-hf",
        size_mb=1,
        about="the same for CTranslate2",
    ),
}
"""Name to what makes it."""

HUB_ENVIRONMENTS = ("transformers", "vllm")
"""Those that have huggingface_hub; the first that is complete is taken, and the first of all is made where none is."""
_REPOSITORY = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def _hub(what: str) -> Model:
    found = _REPOSITORY.fullmatch(what)
    if found is None or ".." in what:
        raise UsageError(f"'hf:{what}' names no model of a hub: hf:ORGANISATION/NAME, or hf:ORGANISATION/NAME@REVISION")
    there = [name for name in HUB_ENVIRONMENTS if name in ENVIRONMENTS and is_made(ENVIRONMENTS[name])]
    return Model(
        name="hf--" + what.replace("/", "--").replace("@", "--"),
        format="hf",
        environment=there[0] if there else HUB_ENVIRONMENTS[0],
        script="hub_main.py",
        arguments=(f"--repository={found['name']}", f"--revision={found['revision'] or 'main'}"),
        about="from a model hub; HF_TOKEN is used where it is set, HF_ENDPOINT names another hub",
        licence="the hub's model card says",
        origin=f"hf:{what}",
        resumes=True,
    )


RANDOM_BILLIONS = {"7b": 6.9, "13b": 13.3, "tiny": 0.001}
"""Shape of random weights to parameters, with room for a large vocabulary."""
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


def random_model(shape: str, dtype: str = "bfloat16") -> Model:
    """Weights made up on this machine: latency does not depend on them.

    Raises
    ------
    UsageError
        For a shape that is not known.
    """
    if shape not in RANDOM_BILLIONS:
        raise UsageError(f"no shape '{shape}' for random weights; there are {', '.join(RANDOM_BILLIONS)}")
    if dtype not in _BYTES:
        raise UsageError(f"no dtype '{dtype}' for random weights; there are {', '.join(_BYTES)}")
    return Model(
        name=f"random-{shape}-{dtype}",
        format="hf",
        environment="transformers",
        script="random_weights_main.py",
        arguments=("--shape", shape, "--dtype", dtype),
        made_from="smollm2-hf",  # whose tokenizer they take: prompts then have as many tokens as with a real model
        size_mb=round(1e3 * RANDOM_BILLIONS[shape] * _BYTES[dtype]),
        about="random weights of that shape: latency does not depend on the weights",
        licence="none, it is made up here",
        origin=f"random:{shape}" + ("" if dtype == "bfloat16" else f"-{dtype}"),
    )


def _random(what: str) -> Model:
    """``SHAPE`` or ``SHAPE-DTYPE``."""
    shape, dash, dtype = what.partition("-")
    return random_model(shape, dtype) if dash else random_model(shape)


SOURCES: dict[str, Callable[[str], Model]] = {"hf": _hub, "random": _random}
"""What comes before the colon of a model's name, to what makes it."""


def known() -> tuple[str, ...]:
    return (GGUF, *MODELS)


def described(name: str) -> Model:
    """What makes a model of this name.

    Raises
    ------
    UsageError
        For a name that means nothing.
    """
    if name in MODELS:
        return MODELS[name]
    source, colon, what = name.partition(":")
    if colon and source in SOURCES:
        return SOURCES[source](what)
    raise unknown_name("model", name, [*known(), *(f"{source}:..." for source in SOURCES)])


def ensure(name: str, progress: Progress) -> Path:
    """Make a model, and everything it is made from and with; what is there already is left alone.

    Raises
    ------
    EnvironmentFailedError
        With the last lines of what failed.
    """
    if name == GGUF:
        fetch(SMOLLM2, progress)
        return SMOLLM2.path
    model = described(name)
    source = ensure(model.made_from, progress) if model.made_from else None
    with locked(home() / ".models", model.name):
        if is_complete(model):
            progress(f"{name}: {model.path} is complete")
            return model.path
        if model.environment not in ENVIRONMENTS:
            raise unknown_name("engine environment", model.environment, ENVIRONMENTS)
        environment = ENVIRONMENTS[model.environment]
        make(environment, progress)
        partial = model.path.with_name(f"{model.name}.partial")
        if not model.resumes:
            shutil.rmtree(partial, ignore_errors=True)
        room = require_room(partial.parent, name, model.size_mb, 0, model.size_mb)
        progress(f"{name}: running {model.script} with the Python of {model.environment}; {room}")
        command = [str(environment.python), str(SCRIPTS / model.script), "--target", str(partial)]
        run(
            [*command, *(["--source", str(source)] if source else []), *model.arguments],
            lambda line: _say(name, line, progress),
            {"HF_HUB_DISABLE_TELEMETRY": "1"},
        )
        progress(f"{name}: writing {DIGESTS}")
        write_digests(partial)
        write(partial / "complete", recipe_of(model))
        shutil.rmtree(model.path, ignore_errors=True)
        partial.replace(model.path)
    progress(f"{name}: {model.path} is complete")
    return model.path


_TOLD = "progress: "


def _say(name: str, line: str, progress: Progress) -> None:
    """Pass on the lines that a script means for the user; libraries say much else."""
    if line.startswith(_TOLD):
        progress(f"{name}: {line.removeprefix(_TOLD)}")


def is_complete(model: Model) -> bool:
    return read(model.path / "complete") == recipe_of(model)


def resolve_weights(weights: str, progress: Progress) -> Path:
    """Find the weights that a launch recipe names; nothing is fetched or made here.

    Parameters
    ----------
    weights
        A name of ``harness models``, ``hf:ORGANISATION/NAME[@REVISION]``, ``random:SHAPE``, or a path.

    Raises
    ------
    ServerError
        When they are not there or not finished, with the command that gets them.
    """
    for path in _candidates(weights):
        if not path.exists():
            raise ServerError(f"the weights {path} are not there: there is no such file or directory")
        progress(f"weights: {path}")
        return path
    if weights == GGUF:
        if not SMOLLM2.path.is_file():
            raise ServerError(f"the weights '{weights}' are not there; run: harness models {GGUF}")
        return SMOLLM2.path
    try:
        model = described(weights)
    except UsageError as error:
        raise ServerError(f"launch.weights: {error}, or give a directory") from error
    if not is_complete(model):
        state = "are unfinished or were made by another version" if model.path.exists() else "are not there"
        raise ServerError(f"the weights '{weights}' {state}; run: {model.command}")
    progress(f"weights: {model.path}")
    return model.path


def _candidates(weights: str) -> Iterator[Path]:
    """The path that ``weights`` is, if it is one: a name never is, so that a directory of that name does no harm."""
    source = weights.partition(":")[0]
    if weights not in known() and source not in SOURCES and ("/" in weights or Path(weights).exists()):
        yield Path(weights).expanduser().resolve()


def recipe_of(model: Model) -> str:
    """What a model was made from: its script, arguments and, as far up as it goes, its sources."""
    above = recipe_of(MODELS[model.made_from]) if model.made_from in MODELS else model.made_from + "\n"
    return f"{sha256(SCRIPTS / model.script)} {' '.join(model.arguments)}\n{above}"
