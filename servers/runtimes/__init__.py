"""Runtimes: where an engine's program comes from, and on which machine it runs.

A launcher names its program with :func:`program`, has it listen on :func:`listen_host`, and builds its Recipe as if it
ran on this machine; :func:`place` wraps the command for a container (:mod:`servers.runtimes.container`), for another
host (:mod:`servers.runtimes.ssh`), or for a container on another host.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from harness.errors import ServerError
from harness.spec import Launch
from servers.environments import ENVIRONMENTS, problems
from servers.recipe import Recipe
from servers.runtimes import container, ssh
from servers.runtimes.ask import ask_here
from servers.runtimes.container import Gpus, Progress
from servers.runtimes.ssh import remote_output

_FROM_ENVIRONMENT = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def program(launch: Launch, environment: str, name: str) -> tuple[str, ...]:
    """The words that start a program of an engine: ``name`` of its environment, or what the launch recipe says.

    Raises
    ------
    ServerError
        When the environment is not complete, with the command that makes it, or the executable is not there.
    """
    if launch.runtime == "path":
        assert launch.executable is not None
        return (launch.executable if launch.ssh_host is not None else _executable(launch.executable),)
    if launch.runtime == "container":
        return (launch.executable or name,)
    wanted = ENVIRONMENTS[environment]
    missing = problems(wanted)
    if missing:
        raise ServerError(f"{environment} cannot start: {'; '.join(missing)}; run: {wanted.command}")
    return (str(wanted.directory / "bin" / name),)


def listen_host(launch: Launch) -> str:
    """The address that a server is told to listen on.

    A container has a network of its own, out of which only the published ports lead, and those to 127.0.0.1.
    """
    return "0.0.0.0" if launch.runtime == "container" else "127.0.0.1"


def has_our_files(launch: Launch) -> bool:
    """Whether the paths of a launch recipe are paths of this machine, and so can be looked at here."""
    return launch.ssh_host is None


def pinned_to(gpus: tuple[int, ...]) -> dict[str, str]:
    """What makes CUDA see only these GPUs, counted as NVML does: CUDA's own order has the fastest first."""
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}


def place(
    launch: Launch, recipe: Recipe, *, gpus: Gpus, work_dir: Path, progress: Progress, port: int | None = None
) -> Recipe:
    """The recipe as it is run from this machine: its command, variables, directory, and the ports here that lead to it.

    An image that is not there is pulled.

    Parameters
    ----------
    gpus
        Indices of the GPUs that the server may use; ``"all"``; or none, for a server that needs none.
    work_dir
        Where files may be left for as long as the server runs.
    port
        Of 127.0.0.1 here, for a server on another host; None: a free one.

    Raises
    ------
    ServerError
        In one sentence, when what the launch recipe names is not there.
    """
    if recipe.emulated:  # whatever the stack that is played would need
        return recipe
    recipe = replace(recipe, variables=filled(recipe.variables))
    host = launch.ssh_host
    if recipe.port is None and (launch.runtime == "container" or host is not None):
        raise ServerError(
            "this server chooses its port itself, which works only on this machine outside of a container; "
            "take another engine, or start it by hand and give its URL"
        )
    if launch.runtime == "container":
        assert launch.image is not None
        progress(f"looking for a container engine{f' on {host}' if host else ''} and the image {launch.image}")
        ask = ask_here if host is None else ssh.ask_there(host)
        engine = container.find(ask, "here" if host is None else f"on {host}")
        container.sweep(engine, ask)
        pull = container.pull_here(launch.image, work_dir / "pull.log", progress)
        image = container.fetched(
            engine,
            launch.image,
            ask,
            pull if host is None else lambda command: pull(ssh.ssh_command(host, shlex.join(command))),
        )
        python = sys.executable if host is None else "python3"
        recipe = container.wrapped(launch, recipe, engine, image, gpus=gpus, work_dir=work_dir, python=python)
    elif gpus and gpus != "all":
        recipe = replace(recipe, variables={**pinned_to(gpus), **recipe.variables})
    return recipe if host is None else ssh.wrapped(host, recipe, work_dir, port)


def filled(variables: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Replace ``${NAME}`` by what the harness's own environment holds, so that a secret is written in no file."""
    for variable, text in variables.items():
        for name in _FROM_ENVIRONMENT.findall(text):
            if name not in environment:
                raise ServerError(f"the variable {variable} needs the environment variable {name}, which is not set")
    return {
        variable: _FROM_ENVIRONMENT.sub(lambda match: environment[match[1]], text)
        for variable, text in variables.items()
    }


def _executable(name: str) -> str:
    """Absolute, so that a server may have any working directory."""
    if os.sep not in name:
        found = shutil.which(name)
        if found is None:
            raise ServerError(f"launch.executable names {name}, which is not in PATH")
        return found
    path = Path(name).expanduser()
    if not path.exists():
        raise ServerError(f"launch.executable {path} is not there")
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ServerError(f"launch.executable {path} is no program that can be run")
    return str(path.absolute())


__all__ = ["Gpus", "filled", "has_our_files", "listen_host", "place", "program", "remote_output"]
