"""Triton Inference Server over any model repository: the base of every launcher whose server is Triton.

The program is ``tritonserver``: of an environment (``servers/environments/triton_setup_main.py`` makes it), of
NVIDIA's container, or a path. It announces nothing, so its three ports are chosen here; the stack's protocol decides
which of them is the server's URL. Triton calls a model ready whose process has died, so readiness is a token that
came back (:mod:`servers.ready`), and ``triton_main.py``, which runs the program, ends it when such a process is gone.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.errors import ServerError
from harness.spec import Launch
from servers import triton_main
from servers.base import LOCALHOST, Order, RunningServer, stand_up
from servers.ports import free_ports
from servers.recipe import Recipe
from servers.runtimes import has_our_files, listen_host, program
from servers.runtimes.ssh import free_port

REPOSITORIES = Path(__file__).with_name("triton_repository")
EXIT_TIMEOUT_S = 3
"""What requests under way get when the server is told to end; below the grace that the guard gives."""
PROTOCOLS: dict[str, Literal["http", "grpc"]] = {"triton-generate-stream": "http", "triton-grpc": "grpc"}
ERRORS, ERROR_CHARACTERS, LOG_BYTES = 2, 300, 4 << 20
HARMLESS = ("CudaDriverHelper", "ERROR: Failed to create instance")
"""Errors that a machine without a GPU always has, and one that is repeated in the next line."""
_ERROR_LINE = re.compile(r'^E\d{4} [^"]*"(.*)"\s*$', re.MULTILINE)

Detail = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Ports:
    """Where one server listens, all on 127.0.0.1."""

    http: int
    grpc: int
    metrics: int

    @property
    def metrics_url(self) -> str:
        return f"http://{LOCALHOST}:{self.metrics}/metrics"


def choose_ports(order: Order) -> Ports:
    """Give the protocol the port that was asked for, and ports that are free where the server runs to the rest.

    Raises
    ------
    ServerError
        For a protocol that Triton does not speak, or a host that does not answer.
    """
    launch, protocol = order.stack.launch, order.stack.protocol
    if protocol not in PROTOCOLS:
        raise ServerError(f"Triton does not speak {protocol}; a stack on it has protocol {' or '.join(PROTOCOLS)}")
    if launch.ssh_host is not None:  # the order's port is the one here that leads there
        return Ports(*(free_port(launch.ssh_host) for _ in range(3)))
    ports = Ports(*free_ports(3))
    return ports if order.port is None else replace(ports, **{PROTOCOLS[protocol]: order.port})


def options(repository: Path, ports: Ports, host: str = LOCALHOST) -> tuple[str, ...]:
    """What always follows ``tritonserver``."""
    return (
        f"--model-repository={repository}",
        "--strict-readiness=false",
        "--exit-on-error=true",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        "--log-verbose=0",
        f"--http-address={host}",
        f"--http-port={ports.http}",
        f"--grpc-address={host}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-address={host}",
        f"--metrics-port={ports.metrics}",
    )


def require_model(repository: Path, model: str) -> None:
    """See that a repository holds a model, before a server starts.

    Raises
    ------
    ServerError
    """
    if not repository.is_dir():
        raise ServerError(f"the model repository {repository} is not there")
    found = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    if model not in found:
        held = f"it holds {', '.join(found)}" if found else "no folder in it has a config.pbtxt"
        raise ServerError(f"the model repository {repository} has no model '{model}': {held}")


def serve(
    order: Order,
    launcher: str,
    *,
    environment: str,
    repository: Path,
    model: str,
    details: Mapping[str, Detail] | None = None,
    variables: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
    arguments: Sequence[str] = (),
    reads: Sequence[Path] = (),
    rendered: bool = False,
) -> RunningServer:
    """Start Triton over ``repository`` and return once ``model`` gave a token.

    Parameters
    ----------
    launcher
        Its name in messages and in the manifest.
    environment
        Whose ``bin/tritonserver`` runs where the stack's runtime is ``venv``.
    model
        The model of the repository that requests name; ``order.model_name`` must be it.
    details
        What the manifest should say of this server.
    variables
        Of the server's environment, and so of its models' processes.
    before, arguments
        Words before the program and after what is always there.
    reads
        Directories besides the repository that the server reads, such as weights.
    rendered
        The repository was written for this start; else it was there, on another host where the server runs on one.

    Raises
    ------
    ServerError
    """
    launch = order.stack.launch
    if rendered or has_our_files(launch):
        require_model(repository, model)
    if order.model_name != model:
        raise ServerError(
            f"stack '{order.stack.name}' asks for the model '{order.model_name}', and the repository serves "
            f"'{model}': set launch.served_model to '{model}'"
        )
    ports = choose_ports(order)
    port = getattr(ports, PROTOCOLS[order.stack.protocol])
    recipe = Recipe(
        command=(
            *supervisor(launch),
            *before,
            *program(launch, environment, "tritonserver"),
            *options(repository, ports, listen_host(launch)),
            *arguments,
            *launch.arguments,
        ),
        port=port,
        ports=tuple(each for each in (ports.http, ports.grpc, ports.metrics) if each != port),
        metrics_path=ports.metrics_url,
        mounts=(*reads, *(() if rendered else (repository,))),
        generated=(*((repository,) if rendered else ()), Path(triton_main.__file__)),
        variables=dict(variables or {}),
        details={
            "http_port": ports.http,
            "grpc_port": ports.grpc,
            "metrics_port": ports.metrics,
            "repository": str(repository),
            **(details or {}),
        },
    )
    log_start = order.log_file.stat().st_size if order.log_file.exists() else 0
    try:
        server = stand_up(order, launcher, recipe)
    except ServerError as error:
        # Tables follow the cause in Triton's log, so that its end does not hold it.
        cause = errors_in(order.log_file, log_start)
        raise ServerError("\n".join([*(f"{launcher}: {line}" for line in cause), str(error)])) from error
    if server.facts().details.get("ssh_host") is None:
        server.learn(version=f"triton {_version(ports.http)}".strip())
    return server


def errors_in(log_file: Path, start: int = 0) -> tuple[str, ...]:
    """The last few of Triton's own error messages in a log, each on one line, without what is said on any CPU."""
    try:
        with log_file.open("rb") as file:
            file.seek(start)
            text = file.read(LOG_BYTES).decode("utf-8", "replace")
    except OSError:
        return ()
    found = [
        " ".join(message.replace("\\n", " ").split())
        for message in _ERROR_LINE.findall(text)
        if not any(words in message for words in HARMLESS)
    ]
    return tuple(line[:ERROR_CHARACTERS] for line in list(dict.fromkeys(found))[-ERRORS:])


def supervisor(launch: Launch) -> tuple[str, ...]:
    """The words before a program that end it with its models' processes."""
    here = launch.runtime != "container" and has_our_files(launch)
    return (sys.executable if here else "python3", triton_main.__file__)


def _version(port: int) -> str:
    """What the server says of itself; empty if it does not."""
    connection = http.client.HTTPConnection(LOCALHOST, port, timeout=5)
    try:
        connection.request("GET", "/v2")
        return str(json.loads(connection.getresponse().read())["version"])
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return ""
    finally:
        connection.close()
