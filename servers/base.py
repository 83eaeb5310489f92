"""What every launcher shares: the order it gets, the running server it gives back, and how one stands up."""

from __future__ import annotations

import json
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import urljoin

from harness.connection import Connection
from harness.errors import ServerError
from harness.lifecycle import memory_line
from harness.records import ServerFacts
from harness.spec import Gpu, Scenario, Stack
from servers.ports import free_ports
from servers.process import ServerProcess, describe_exit, without
from servers.ready import ATTEMPT_S, SAY_EVERY_S, Endpoint, NoTokenError, Progress, first_token, wait_ready
from servers.recipe import Calibration, Recipe
from servers.runtimes import place
from servers.runtimes.ssh import free_port
from servers.watch import Watch

LOCALHOST = "127.0.0.1"
WARM_UP_REQUESTS = 3
"""Tiny and not counted: they fill caches and allocate what an engine allocates on first use."""
ERROR_TAIL_LINES = 15
LOG_CHARACTERS = 120
"""Of the log's last line, beside the progress of a start."""
PORT_IN_USE = ("address already in use", "couldn't bind", "errno 98", "port is already allocated")
"""How servers say it in their logs, in lower case."""


def silent(_line: str) -> None:
    """Progress that nobody wants."""


def unheeded(_process: ServerProcess) -> None:
    """A start that nobody has to be able to call off."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be started, and for whom."""

    stack: Stack
    scenario: Scenario
    log_file: Path
    work_dir: Path
    """Where a launcher may leave files for its server; it exists."""
    users: int
    port: int | None = None
    """None: a free one."""
    gpu: Gpu | None = None
    """Of the stack's hardware."""
    gpus: tuple[int, ...] = ()
    """Indices of the GPUs that this server may use; empty: it is not pinned."""
    connection: Connection | None = None
    """How to reach a server that is there already."""
    calibration: Calibration | None = None
    seed: int = 0
    faults: str = ""
    progress: Progress = silent
    started: Callable[[ServerProcess], None] = unheeded
    """Told of the process at once, long before it is ready: who starts several calls the others off when one fails."""

    @property
    def model_name(self) -> str:
        """The name under which a server that we start serves its model."""
        named = self.stack.launch.served_model
        return named or (self.stack.model.name if self.stack.model is not None else self.stack.name)


class RunningServer:
    """A server that answers. Leaving its ``with`` block ends it and everything it started."""

    def __init__(
        self, endpoint: Endpoint, facts: ServerFacts, process: ServerProcess | None = None, *, here: bool = True
    ) -> None:
        self.endpoint = endpoint
        self._here = here
        self._facts = facts
        self._process = process
        self._watch = None if process is None else Watch(process, self.pid, endpoint.url, facts.metrics_url)
        self._seen: dict[str, object] = {}

    @property
    def url(self) -> str:
        return self.endpoint.url

    @property
    def model(self) -> str:
        """The name that requests must carry."""
        return self.endpoint.model

    @property
    def pid(self) -> int | None:
        """Root of the server's process tree on this machine; None where it has none: in a container, on another
        machine, or started by somebody else."""
        return None if self._process is None or not self._here else self._process.pid

    @property
    def pids(self) -> tuple[int, ...]:
        """Roots of all its process trees on this machine; several where it is several servers."""
        return () if self.pid is None else (self.pid,)

    def poll(self) -> int | None:
        """The exit code once the process ended (negative: a signal), None while it runs or is not ours."""
        return None if self._process is None else self._process.poll()

    def stop(self) -> None:
        """End it; more calls change nothing."""
        if self._process is not None:
            self._process.stop()

    def facts(self) -> ServerFacts:
        """What is known of it now; after its end, what became of it."""
        process = self._process
        if process is None:
            return self._facts
        lines = without(self.endpoint.secrets, process.tail())
        now = {"exit_code": process.poll(), "died": process.died, "log_tail": lines}
        return self._facts.model_copy(update=now | self._seen)

    def conclude(self) -> ServerFacts:
        """What became of it, to be asked when the load has ended and nobody has stopped it yet.

        Besides :meth:`facts` it says whether memory ran out, and whether another process serves now than at first:
        a supervisor or a container's restart policy hides an end from whoever watches only the process it started.
        """
        if self._watch is not None:
            self._seen = self._watch.look(self.endpoint.secrets)
        return self.facts()

    def learn(self, *, version: str) -> None:
        """Add to the facts what only the running server could say."""
        self._facts = self._facts.model_copy(update={"version": version or self._facts.version})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Launcher(ABC):
    """Starts one kind of server."""

    name: ClassVar[str]
    holds_replicas: ClassVar[bool] = False
    """One start serves all of a stack's replicas, such as Triton with an instance a GPU. Otherwise each replica is a
    server of its own, behind a load balancer (:mod:`servers.replicas`)."""

    def launch(
        self,
        stack: Stack,
        scenario: Scenario,
        *,
        log_file: Path,
        work_dir: Path,
        users: int,
        port: int | None = None,
        gpu: Gpu | None = None,
        gpus: tuple[int, ...] = (),
        connection: Connection | None = None,
        calibration: Calibration | None = None,
        seed: int = 0,
        faults: str | None = None,
        progress: Progress = silent,
    ) -> RunningServer:
        """Start a server and return once a token came back and it is warm.

        Raises
        ------
        ServerError
            In one sentence, with the last lines of the log. Nothing is left running.
        """
        for directory in (work_dir, log_file.parent):
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ServerError(f"cannot make the directory {directory}: {error.strerror}") from error
        order = Order(
            stack=stack,
            scenario=scenario,
            log_file=log_file,
            work_dir=work_dir,
            users=users,
            port=port,
            gpu=gpu,
            gpus=gpus,
            connection=connection,
            calibration=calibration,
            seed=seed,
            faults=faults or "",
            progress=progress,
        )
        return self.start(order)

    @abstractmethod
    def start(self, order: Order) -> RunningServer: ...


def stand_up(order: Order, launcher: str, recipe: Recipe) -> RunningServer:
    """Start a recipe's command and wait for its first token; on any failure or interrupt, nothing is left running."""
    if order.port is not None:
        require_free(order.port)
    timeout_s = order.stack.launch.ready_timeout_s
    announces = recipe.port is None
    stdout_file = order.work_dir / f"{launcher}.stdout"
    recipe = place(
        order.stack.launch,
        replace(recipe, variables={**recipe.variables, **order.stack.launch.variables}),
        gpus=order.gpus or ("all" if order.stack.hardware is not None else ()),
        work_dir=order.work_dir,
        port=order.port,
        progress=order.progress,
    )
    began = time.monotonic()  # an image may have been pulled before
    order.progress(f"starting {launcher}")
    try:
        process = ServerProcess(
            recipe.command,
            log_file=order.log_file,
            stdout_file=stdout_file if announces else None,
            directory=recipe.directory,
            variables=recipe.variables,
            grace_s=recipe.grace_s,
        )
    except OSError as error:
        raise ServerError(f"{launcher} cannot start: {error}") from error

    def tell(line: str) -> None:
        said = process.tail(1)
        order.progress(f"{line}; its log: {said[0][:LOG_CHARACTERS]}" if said else line)

    try:
        order.started(process)
        if announces:
            said = _announcement(process, stdout_file, launcher, recipe, began + timeout_s, tell)
        else:
            said = {"port": recipe.port, "version": recipe.version}
        endpoint = Endpoint(
            url=f"http://{LOCALHOST}:{said['port']}",
            model=str(said.get("model") or order.model_name),
            protocol=order.stack.protocol,
        )
        try:
            wait_ready(
                endpoint,
                deadline=began + timeout_s,
                check=lambda: _require_alive(process, launcher, recipe),
                progress=tell,
            )
            ready_s = time.monotonic() - began
            order.progress(f"{launcher} gave its first token after {ready_s:.1f} s at {endpoint.url}")
        except NoTokenError as error:
            _require_alive(process, launcher, recipe)
            raise failed(f"{launcher} was not ready in {timeout_s:g} s: the server {error}", process) from error
        _warm_up(endpoint, order.progress)
        _require_alive(process, launcher, recipe)
    except BaseException:
        process.stop()
        raise
    finally:
        stdout_file.unlink(missing_ok=True)
    facts = ServerFacts(
        launcher=launcher,
        url=endpoint.url,
        command=recipe.command,
        version=str(said.get("version", "")),
        model=endpoint.model,
        ready_s=ready_s,
        emulated=recipe.emulated,
        calibration=recipe.calibration,
        metrics_url=urljoin(endpoint.url, recipe.metrics_path) if recipe.metrics_path else "",
        details=dict(recipe.details),
        image=recipe.image or order.stack.launch.image or "",
        gpus=order.gpus,
    )
    return RunningServer(endpoint, facts, process, here=recipe.here)


def _warm_up(endpoint: Endpoint, progress: Progress) -> None:
    """A failure here is no reason to give up: the server is up, and how it treats its clients is what load measures."""
    for _ in range(WARM_UP_REQUESTS):
        try:
            first_token(endpoint, timeout_s=ATTEMPT_S)
        except NoTokenError as error:
            progress(f"a warm-up request failed: the server {error}")
            return


def port_for(order: Order) -> int:
    """The port for a server that cannot choose one and say which: the order's, or one that is free where it runs."""
    host = order.stack.launch.ssh_host
    if host is not None:  # the order's port is the one here that leads to it
        return free_port(host)
    if order.port is not None:
        return order.port
    return free_ports(1)[0]


def require_free(port: int) -> None:
    """Refuse a port that somebody listens on.

    Raises
    ------
    ServerError
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        # As servers do: a port with only closed connections in TIME_WAIT counts as free.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((LOCALHOST, port))
        except OverflowError as error:
            raise ServerError(f"{port} is not a port: 1 to 65535, or leave it out for a free one") from error
        except PermissionError as error:
            raise ServerError(f"port {port} needs root; take one from 1024 up, or leave it out") from error
        except OSError as error:
            raise _in_use(port) from error


def _in_use(port: int | None) -> ServerError:
    which = "its port" if port is None else f"port {port}"
    return ServerError(f"{which} on {LOCALHOST} is in use; leave the port out for a free one, or stop what holds it")


def _announcement(
    process: ServerProcess, stdout_file: Path, launcher: str, recipe: Recipe, deadline: float, progress: Progress
) -> dict[str, Any]:
    """Wait for the line that says the port."""
    pause = 0.01
    began = told = time.monotonic()
    while True:
        said = _read_announcement(stdout_file)
        if said is not None:
            return said
        _require_alive(process, launcher, recipe)
        if time.monotonic() >= deadline:
            raise failed(f"{launcher} did not listen in time (launch.ready_timeout_s)", process)
        if time.monotonic() - told >= SAY_EVERY_S:
            told = time.monotonic()
            progress(f"{launcher} does not listen yet after {told - began:.0f} s")
        time.sleep(pause)
        pause = min(0.1, pause * 1.5)


def _read_announcement(stdout_file: Path) -> dict[str, Any] | None:
    with stdout_file.open("rb") as file:
        text = file.read(64 * 1024)
    for line in text.split(b"\n")[:-1]:
        if line.startswith(b"{"):
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if isinstance(said, dict) and said.get("ready") is True and isinstance(said.get("port"), int):
                return said
    return None


def _require_alive(process: ServerProcess, launcher: str, recipe: Recipe) -> None:
    code = process.poll()
    if code is None:
        return
    lines = process.tail()
    explained = recipe.explain(lines)
    if explained:
        raise failed(explained, process)
    if any(phrase in line.lower() for line in lines for phrase in PORT_IN_USE):
        raise failed(str(_in_use(None)), process)
    memory = memory_line(lines, ended=True)
    if memory:
        raise failed(f"{launcher} ran out of memory while starting ({memory.rstrip('.')})", process)
    raise failed(f"{launcher} {describe_exit(code)} while starting", process)


def failed(sentence: str, process: ServerProcess, secrets: tuple[str, ...] = ()) -> ServerError:
    """Build the error of a start: one sentence, then the log's last lines."""
    lines = without(secrets, process.tail(ERROR_TAIL_LINES))
    if not lines:
        return ServerError(f"{sentence}; its log {process.log_file} is empty")
    return ServerError("\n".join([f"{sentence}; the end of {process.log_file}:", *(f"  {line}" for line in lines)]))


def key_from(variable: str | None, variables: Mapping[str, str] = os.environ) -> str:
    """The key held by an environment variable; empty if there is none."""
    return variables.get(variable, "").strip() if variable else ""
