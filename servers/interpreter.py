"""Which Python runs a program that ``launch.executable`` names, and what is installed there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from harness.errors import ServerError
from harness.spec import Launch
from servers.environments import ENVIRONMENTS
from servers.runtimes import program

_PYTHON = re.compile(r"python[\d.]*")
VERSION_TIMEOUT_S = 30.0


def is_python(executable: str) -> bool:
    """Whether a program is an interpreter, by its name."""
    return _PYTHON.fullmatch(Path(executable).name) is not None


def interpreter_of(executable: str) -> str:
    """The Python that runs a program: itself, or that of its ``#!`` line.

    Raises
    ------
    ServerError
        When the program is not there.
    """
    found = shutil.which(str(Path(executable).expanduser()))
    if found is None:
        raise ServerError(f"the program {executable} is not there or cannot be executed: see launch.executable")
    if is_python(found):
        return found
    with Path(found).open("rb") as file:
        first = file.readline(4096)
    words = first[2:].decode("utf-8", "replace").split() if first.startswith(b"#!") else []
    if words and Path(words[0]).name == "env":
        words = words[1:]
    if words and is_python(words[0]):
        return words[0]
    # Installers write a shell's line where the path is too long for #!; their interpreter lies beside the script.
    beside = Path(found).with_name("python")
    return str(beside) if beside.exists() else "python3"


def started_by(launch: Launch, environment: str, name: str, module: str) -> tuple[tuple[str, ...], str]:
    """The words that start a Python engine's program, and the interpreter that has the engine on this machine.

    An ``executable`` that is itself a Python runs ``module``.
    """
    words = program(launch, environment, name)
    if launch.runtime != "path" or launch.ssh_host is not None:
        return words, str(ENVIRONMENTS[environment].python)
    python = interpreter_of(words[0])
    return ((python, "-m", module) if is_python(words[0]) else words), python


def runs_here(launch: Launch) -> bool:
    """Whether that interpreter can be asked for versions: not inside a container, nor on another machine."""
    return launch.runtime != "container" and launch.ssh_host is None


def version_of(python: str, *distributions: str) -> str:
    """Name and version of the first of these distributions that an interpreter has, empty if none."""
    script = (
        "import sys\nfrom importlib.metadata import PackageNotFoundError, version\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        print(name, version(name))\n        break\n"
        "    except PackageNotFoundError:\n        pass\n"
    )
    try:
        done = subprocess.run(
            [python, "-c", script, *distributions],
            capture_output=True,
            text=True,
            timeout=VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
