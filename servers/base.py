"""What every launcher shares: the order it gets, the running server it gives back, and how one stands up."""

from __future__ import annotations

import json
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

from harness.connection import Connection
from harness.errors import ServerError
from harness.records import ServerFacts
from harness.spec import Gpu, Scenario, Stack
from servers.process import ServerProcess, describe_exit, without
from servers.ready import ATTEMPT_S, Endpoint, NoTokenError, Progress, first_token, wait_ready

LOCALHOST = "127.0.0.1"
WARM_UP_REQUESTS = 3
"""Tiny and not counted: they fill caches and allocate what an engine allocates on first use."""
ERROR_TAIL_LINES = 15
PORT_IN_USE = ("address already in use", "couldn't bind", "errno 98", "port is already allocated")
"""How servers say it in their logs, in lower case."""

Calibration = Literal["", "roofline", "claims"]


def silent(_line: str) -> None:
    """Progress that nobody wants."""


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
    """Of the stack's hardware, for emulation."""
    connection: Connection | None = None
    """How to reach a server that is there already."""
    calibration: Calibration | None = None
    seed: int = 0
    faults: str = ""
    progress: Progress = silent

    @property
    def model_name(self) -> str:
        """The name under which a server that we start serves its model."""
        named = self.stack.launch.served_model
        return named or (self.stack.model.name if self.stack.model is not None else self.stack.name)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to start one server that announces itself.

    Once it listens, the command prints one line ``{"ready": true, "port": P}`` on standard output, with
    ``version`` and ``model`` where it knows them. It chooses its port itself, so that none can be lost between
    choosing and binding.
    """

    command: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    details: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    emulated: bool = False
    calibration: Calibration = ""


class RunningServer:
    """A server that answers. Leaving its ``with`` block ends it and everything it started."""

    def __init__(self, endpoint: Endpoint, facts: ServerFacts, process: ServerProcess | None = None) -> None:
        self.endpoint = endpoint
        self._facts = facts
        self._process = process

    @property
    def url(self) -> str:
        return self.endpoint.url

    @property
    def model(self) -> str:
        """The name that requests must carry."""
        return self.endpoint.model

    @property
    def pid(self) -> int | None:
        """Root of the server's process tree on this machine; None for a server that somebody else started."""
        return None if self._process is None else self._process.pid

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
        return self._facts.model_copy(
            update={"exit_code": process.poll(), "died": process.died, "log_tail": lines},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Launcher(ABC):
    """Starts one kind of server."""

    name: ClassVar[str]

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
    began = time.monotonic()
    timeout_s = order.stack.launch.ready_timeout_s
    stdout_file = order.work_dir / f"{launcher}.stdout"
    order.progress(f"starting {launcher}")
    try:
        process = ServerProcess(
            recipe.command,
            log_file=order.log_file,
            stdout_file=stdout_file,
            directory=recipe.directory,
            variables=recipe.variables,
        )
    except OSError as error:
        raise ServerError(f"{launcher} cannot start: {error}") from error
    try:
        said = _announcement(process, stdout_file, launcher, began + timeout_s)
        endpoint = Endpoint(
            url=f"http://{LOCALHOST}:{said['port']}",
            model=str(said.get("model") or order.model_name),
            protocol=order.stack.protocol,
        )
        try:
            wait_ready(
                endpoint,
                deadline=began + timeout_s,
                check=lambda: _require_alive(process, launcher),
                progress=order.progress,
            )
            ready_s = time.monotonic() - began
            order.progress(f"{launcher} gave its first token after {ready_s:.1f} s at {endpoint.url}")
        except NoTokenError as error:
            _require_alive(process, launcher)
            raise failed(f"{launcher} was not ready in {timeout_s:g} s: the server {error}", process) from error
        _warm_up(endpoint, order.progress)
        _require_alive(process, launcher)
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
        details=dict(recipe.details),
    )
    return RunningServer(endpoint, facts, process)


def _warm_up(endpoint: Endpoint, progress: Progress) -> None:
    """A failure here is no reason to give up: the server is up, and how it treats its clients is what load measures."""
    for _ in range(WARM_UP_REQUESTS):
        try:
            first_token(endpoint, timeout_s=ATTEMPT_S)
        except NoTokenError as error:
            progress(f"a warm-up request failed: the server {error}")
            return


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


def _announcement(process: ServerProcess, stdout_file: Path, launcher: str, deadline: float) -> dict[str, Any]:
    """Wait for the line that says the port."""
    pause = 0.01
    while True:
        said = _read_announcement(stdout_file)
        if said is not None:
            return said
        _require_alive(process, launcher)
        if time.monotonic() >= deadline:
            raise failed(f"{launcher} did not listen in time (launch.ready_timeout_s)", process)
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


def _require_alive(process: ServerProcess, launcher: str) -> None:
    code = process.poll()
    if code is None:
        return
    lines = process.tail()
    if any(phrase in line.lower() for line in lines for phrase in PORT_IN_USE):
        raise failed(str(_in_use(None)), process)
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
