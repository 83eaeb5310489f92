"""The llama.cpp server with a small real model: the engine that every machine can run.

Its own environment holds the server as a Python package. With ``runtime: path`` or ``container`` it is llama.cpp's
own program, ``llama-server``, whose model may be any GGUF file.
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import ServerError
from servers import llamacpp_main
from servers.base import Launcher, Order, RunningServer, port_for, stand_up
from servers.environments import ENVIRONMENTS, home, problems
from servers.models.digests import model_digest
from servers.recipe import Recipe
from servers.runtimes import has_our_files, listen_host, program

CONTEXT_TOKENS = 4096
SLOTS = 4
SPARE_HTTP_THREADS = 8
"""Beyond one per user, each of whom holds a connection: for scrapes of metrics and for certification."""


class LlamaCpp(Launcher):
    name = "llamacpp"

    def start(self, order: Order) -> RunningServer:
        if order.stack.launch.runtime != "venv":
            return stand_up(order, self.name, _own_program(order))
        environment = ENVIRONMENTS[self.name]
        missing = problems(environment)
        if missing:
            raise ServerError(f"{self.name} cannot start: {'; '.join(missing)}; run: {environment.command}")
        launch = order.stack.launch
        model = _model_file(launch.model_file)
        slots = launch.slots or SLOTS
        context = launch.context_tokens or CONTEXT_TOKENS
        threads = launch.threads or max(1, len(os.sched_getaffinity(0)) - 1)
        command = (
            str(environment.python),
            str(Path(llamacpp_main.__file__)),
            f"--model={model}",
            f"--name={order.model_name}",
            f"--port={order.port or 0}",
            f"--slots={slots}",
            f"--context={context}",
            f"--threads={threads}",
            f"--http-threads={order.users + SPARE_HTTP_THREADS}",
        )
        details: dict[str, str | int | float | bool] = {
            "slots": slots,
            "context_tokens": context,
            "threads": threads,
            "model_file": model.name,
            "model_digest": model_digest(model),
        }
        return stand_up(order, self.name, Recipe(command, metrics_path="/metrics", details=details))


def _own_program(order: Order) -> Recipe:
    launch = order.stack.launch
    port, slots, context = port_for(order), launch.slots or SLOTS, launch.context_tokens or CONTEXT_TOKENS
    if has_our_files(launch):
        model = _model_file(launch.model_file)
    elif launch.model_file is None:
        raise ServerError(f"launch.model_file must name a GGUF file of {launch.ssh_host}")
    else:
        model = Path(launch.model_file)
    command = (
        *program(launch, LlamaCpp.name, "/app/llama-server"),  # where llama.cpp's images have it
        *("--model", str(model), "--alias", order.model_name),
        *("--host", listen_host(launch), "--port", str(port)),
        *("--parallel", str(slots), "--ctx-size", str(context)),
        *("--threads-http", str(order.users + SPARE_HTTP_THREADS)),
        *(("--threads", str(launch.threads)) if launch.threads else ()),
        *("--metrics", *launch.arguments),
    )
    details: dict[str, str | int | float | bool] = {
        "slots": slots,
        "context_tokens": context,
        "model_file": model.name,
    }
    return Recipe(command, port=port, mounts=(model,), metrics_path="/metrics", details=details)


def _model_file(named: str | None) -> Path:
    """A name is looked for in ``.models``; None is the model that comes with the environment."""
    default = ENVIRONMENTS["llamacpp"].models[0].path
    path = default if named is None else home() / ".models" / Path(named).expanduser()
    if not path.is_file():
        raise ServerError(
            f"the model file {path} is not there; launch.model_file names a GGUF file in {home()}/.models"
        )
    return path
