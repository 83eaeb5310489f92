"""Containers: a recipe's command inside an image, with docker or podman, whichever is there.

The engine's daemon keeps a container alive when the ``docker`` command that started it is killed, so three things
end it, each enough by itself::

    guard ── container_main ── docker run -i ─ ─ daemon ── init ── server
                  │                  │                        └ watch_script: no more input, so TERM, then KILL
                  │                  └ killed, or without input: the daemon ends the container's input
                  └ told to end: docker stop; in any case: docker rm -f

Nothing is written to a mounted path, so that the image's own user will do: another one has no home and no name there,
which PyTorch's compiler, for one, needs. Ports are published on 127.0.0.1 alone. Values of variables travel in the
environment of the ``docker`` command, never in its arguments, which every user of the machine can read.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness.errors import ServerError
from harness.spec import Launch
from servers.process import ServerProcess
from servers.recipe import Recipe
from servers.runtimes import container_main
from servers.runtimes.ask import NOT_THERE, Ask, ask_here

ENGINE_VARIABLE = "LLM_HARNESS_CONTAINER_ENGINE"
ENGINES = ("docker", "podman")
LABEL = "llm-harness"
STOP_S = 10
"""Between TERM and KILL within the container."""
SAY_EVERY_S = 2.0
PULL_TIMEOUT_S = 2 * 3600.0
"""Images of GPU servers have 10 to 25 GB."""
HF_HOME = "HF_HOME"
PASSED = ("HF_TOKEN",)
"""Of the harness's own environment, where it is set; everything else a stack names itself."""

Gpus = tuple[int, ...] | Literal["all"]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine that answers."""

    program: str
    kind: Literal["docker", "podman"]
    """podman also comes under docker's name."""
    version: str


@dataclass(frozen=True, slots=True)
class Image:
    name: str
    digest: str
    """``sha256:...`` of the registry's manifest, or of the image itself where it came from no registry."""
    entrypoint: tuple[str, ...] = ()

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words before a command.

        An entry point that is a script such as NVIDIA's ``nvidia_entrypoint.sh`` prepares the environment and runs
        its arguments; one that is a program, such as vLLM's, would take the command for its options.
        """
        return self.entrypoint if self.entrypoint and self.entrypoint[-1].endswith("entrypoint.sh") else ()


def find(ask: Ask = ask_here, where: str = "here", variables: Mapping[str, str] = os.environ) -> Engine:
    """The first engine that answers.

    Raises
    ------
    ServerError
        When none is there, or the daemon of the one that is there does not answer.
    """
    named = variables.get(ENGINE_VARIABLE, "").strip()
    problems = []
    for program in (named,) if named else ENGINES:
        about = ask((program, "--version"))
        if about.code == NOT_THERE:
            continue
        kind: Literal["docker", "podman"] = "podman" if about.out.startswith("podman") else "docker"
        part = "Server" if kind == "docker" else "Client"
        answer = ask((program, "version", "--format", f"{{{{.{part}.Version}}}}"))
        if answer.code == 0 and answer.out:
            return Engine(program, kind, answer.out)
        problems.append(f"{program} does not work {where}: {answer.reason}")
    if problems:
        raise ServerError("; ".join(problems))
    if named:
        raise ServerError(f"{ENGINE_VARIABLE} names {named}, which is not {where}")
    raise ServerError(f"runtime: container needs docker or podman, and neither is {where}")


def fetched(engine: Engine, name: str, ask: Ask, pull: Callable[[Sequence[str]], None]) -> Image:
    """What is known of an image, which ``pull`` brings first if it is not there."""
    inspect = (engine.program, "image", "inspect", name)
    answer = ask(inspect)
    if answer.code != 0:
        pull((engine.program, "pull", name))
        answer = ask(inspect)
        if answer.code != 0:
            raise ServerError(f"{engine.program} has no image {name}: {answer.reason}")
    try:
        about = json.loads(answer.out)[0]
        return Image(name, _digest(about), tuple((about.get("Config") or {}).get("Entrypoint") or ()))
    except (ValueError, LookupError, AttributeError) as error:
        raise ServerError(f"{engine.program} says nothing of the image {name} that can be read") from error


def _digest(about: Mapping[str, Any]) -> str:
    digests = [str(each).partition("@")[2] for each in about.get("RepoDigests") or ()]
    own = str(about.get("Id") or "")
    return digests[0] if digests else own if ":" in own or not own else f"sha256:{own}"


def pull_here(image: str, log_file: Path, progress: Progress) -> Callable[[Sequence[str]], None]:
    """A way to pull: its output goes to ``log_file``, and its newest line to ``progress`` now and then."""

    def pull(command: Sequence[str]) -> None:
        progress(f"pulling {image}, which may take a while")
        process = ServerProcess(command, log_file=log_file)
        try:
            deadline = time.monotonic() + PULL_TIMEOUT_S
            said_at, said = time.monotonic(), ""
            while process.poll() is None:
                if time.monotonic() >= deadline:
                    raise ServerError(f"{image} was not pulled within {PULL_TIMEOUT_S / 3600:g} hours")
                line = (process.tail(1) or ("",))[0]
                if line != said and time.monotonic() - said_at >= SAY_EVERY_S:
                    said_at, said = time.monotonic(), line
                    progress(f"pulling {image}: {line}")
                time.sleep(0.05)
            if process.poll() != 0:
                raise ServerError(f"cannot pull {image}: {(process.tail(1) or ('no reason was given',))[0]}")
        finally:
            process.stop()
            log_file.unlink(missing_ok=True)

    return pull


def wrapped(
    launch: Launch,
    recipe: Recipe,
    engine: Engine,
    image: Image,
    *,
    gpus: Gpus,
    work_dir: Path,
    python: str = sys.executable,
    name: str = "",
) -> Recipe:
    """The recipe with its command inside a container; ``python`` runs the program that watches over it."""
    name = name or container_name(work_dir)
    cid_file = work_dir / f"{name}.cid"
    variables = {each: os.environ[each] for each in PASSED if each in os.environ} | dict(recipe.variables)
    writable: tuple[Path, ...] = ()
    if (launch.weights or "").startswith("hf:"):
        cache = variables.get(HF_HOME) or ("" if launch.ssh_host else _own_cache())
        if cache:  # else every start would fetch the weights again
            variables[HF_HOME] = cache
            writable = (Path(cache),)
    run = run_command(
        engine,
        image,
        recipe,
        name=name,
        cid_file=cid_file,
        gpus=gpus,
        writable=writable,
        variables=variables,
        shared_memory_gib=launch.shared_memory_gib,
    )
    keeper = Path(container_main.__file__)
    watch = (python, "-I", "-S", str(keeper), engine.program, str(cid_file), str(STOP_S), "--")
    return replace(
        recipe,
        command=(*watch, *run),
        variables=variables,
        directory=None,
        generated=(*recipe.generated, keeper),
        details={
            **recipe.details,
            "image_digest": image.digest,
            "container_engine": f"{engine.kind} {engine.version}",
        },
        image=image.name,
        grace_s=STOP_S + 5.0,
        here=False,
        explain=lambda lines: explained(lines, engine, image, launch.ssh_host),
    )


def run_command(
    engine: Engine,
    image: Image,
    recipe: Recipe,
    *,
    name: str,
    cid_file: Path,
    gpus: Gpus,
    writable: Sequence[Path] = (),
    variables: Mapping[str, str],
    shared_memory_gib: float,
) -> tuple[str, ...]:
    """The engine's command line, complete."""
    assert recipe.port is not None
    words = [engine.program, "run", "--rm", "--init", "--interactive", "--pull", "never"]
    words += ["--name", name, "--label", LABEL, "--cidfile", str(cid_file)]
    words += gpu_options(engine, gpus)
    # Not --ipc=host: what a killed server leaves in the machine's own shared memory stays there.
    words += ["--shm-size", f"{shared_memory_gib:g}g"]
    for port in (recipe.port, *recipe.ports):
        words += ["--publish", f"127.0.0.1:{port}:{port}"]
    for path in dict.fromkeys((*recipe.mounts, *recipe.generated)):
        words += ["--mount", _mount(path, ",readonly")]
    for path in writable:
        words += ["--mount", _mount(path)]
    for variable in variables:
        words += ["--env", variable]
    if recipe.directory is not None:
        words += ["--workdir", str(recipe.directory)]
    return (*words, "--entrypoint", "/bin/sh", image.name, "-c", watch_script(), "sh", *image.prefix, *recipe.command)


def watch_script() -> str:
    """What ``/bin/sh`` runs within the container: the command, and its end once the standard input ends.

    After exec, ``$$`` is the server itself: signals reach it as if nobody stood between it and init. The input is
    kept as descriptor 3 because a shell gives /dev/null to what it starts in the background.
    """
    end = f"cat <&3 >/dev/null; kill -TERM $$; sleep {STOP_S}; kill -KILL $$"
    return f'exec 3<&0; ({end}) & exec "$@" 3<&- </dev/null'


def sweep(engine: Engine, ask: Ask) -> None:
    """Remove what killed runs left: containers of ours that ended long ago, or never began."""
    ask((engine.program, "container", "prune", "--force", "--filter", f"label={LABEL}", "--filter", "until=10m"))


def gpu_options(engine: Engine, gpus: Gpus) -> list[str]:
    """Hand GPUs to a container, where they are numbered from 0 on."""
    if not gpus:
        return []
    if engine.kind == "podman":
        names = ["all"] if gpus == "all" else [str(index) for index in gpus]
        devices = [word for name in names for word in ("--device", f"nvidia.com/gpu={name}")]
        return [*devices, "--security-opt", "label=disable"]  # SELinux knows no label for the driver's devices
    # The quotes belong to the value: docker reads it as CSV, and would take what follows a bare comma for a key.
    chosen = "all" if gpus == "all" else f'"device={",".join(map(str, gpus))}"'
    return ["--gpus", chosen, "--ulimit", "memlock=-1", "--ulimit", "stack=67108864"]


def container_name(work_dir: Path) -> str:
    run = re.sub(r"[^a-zA-Z0-9_.-]+", "-", work_dir.name)[:80]
    return f"llm-harness-{run}-{secrets.token_hex(4)}"


def explained(lines: Sequence[str], engine: Engine, image: Image, host: str | None) -> str:
    """What the engine's own words mean; empty where they are the server's."""
    where = host or "127.0.0.1"
    for line in reversed(lines):
        text = line.lower()
        if not text.startswith(("docker:", "podman:", "error:", "error response", "time=")):
            continue
        if "could not select device driver" in text or "unresolvable cdi" in text or "nvidia.com/gpu" in text:
            return (
                f"{engine.program} cannot give GPUs to a container: install the NVIDIA Container Toolkit on "
                f"{host or 'this machine'}" + (" (nvidia-ctk cdi generate)" if engine.kind == "podman" else "")
            )
        if "port is already allocated" in text or "address already in use" in text:
            port = re.search(r"(?:127\.0\.0\.1|0\.0\.0\.0):(\d+)", line)
            return f"{'port ' + port[1] if port else 'its port'} on {where} is in use"
        if "catatonit" in text:
            return f"{engine.program} cannot start a container with --init: install catatonit"
        if "/bin/sh" in text and ("no such file" in text or "not found" in text):
            return f"the image {image.name} has no /bin/sh, which the harness needs to end a server that is left alone"
        if "bind source path does not exist" in text or ("statfs" in text and "no such file" in text):
            return f"a file or directory that the server needs is not on {host or 'this machine'}"
    return ""


def _mount(path: Path, mode: str = "") -> str:
    if "," in str(path):
        raise ServerError(f"{path} cannot be mounted into a container: its name holds a comma")
    return f"type=bind,source={path},target={path}{mode}"


def _own_cache() -> str:
    cache = Path(os.environ.get(HF_HOME) or "~/.cache/huggingface").expanduser().resolve()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServerError(f"cannot make {cache} for weights: {error.strerror}; set {HF_HOME}") from error
    return str(cache)
