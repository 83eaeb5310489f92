"""The real llama.cpp with its real model: the whole way from a stack of the catalog to tokens."""

from __future__ import annotations

import http.client
import json
import os
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from harness.catalog import load_catalog
from harness.cell import attached_stack
from harness.connection import Connection
from harness.errors import ServerError
from servers import LAUNCHERS, RunningServer, launcher_for
from servers.environments import ENVIRONMENTS, problems

CATALOG = load_catalog()
STACK = CATALOG.stack("llamacpp-smollm2")
SCENARIO = CATALOG.scenario("chatbot")


@pytest.fixture(scope="module", autouse=True)
def _environment() -> None:
    missing = problems(ENVIRONMENTS["llamacpp"], digests=True)
    assert not missing, f"{'; '.join(missing)}; run: make engine-llamacpp"


def launch(directory: Path, **options: Any) -> RunningServer:
    stack = options.pop("stack", STACK)
    files = {"log_file": directory / "server.log", "work_dir": directory}
    return launcher_for(stack, emulate=False).launch(stack, SCENARIO, users=3, **files, **options)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with launch(tmp_path_factory.mktemp("llamacpp")) as server:
        yield server


def ask(server: RunningServer, method: str, path: str, body: object = None) -> str:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    try:
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read().decode()
    finally:
        connection.close()


def test_facts(server: RunningServer) -> None:
    facts = server.facts()
    assert facts.launcher == "llamacpp"
    assert facts.version.startswith("xllamacpp 20")
    assert facts.model == STACK.launch.served_model
    assert facts.ready_s is not None
    assert facts.ready_s < STACK.launch.ready_timeout_s
    assert facts.details["slots"] == STACK.launch.slots
    assert not facts.emulated
    assert not facts.died
    assert any(f"n_slots = {STACK.launch.slots}" in line for line in (server_log(server)))


def server_log(server: RunningServer) -> list[str]:
    assert server._process is not None
    return server._process.log_file.read_text().splitlines()


def test_it_generates_what_was_asked_for(server: RunningServer) -> None:
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": "Name three colours."}],
        "max_tokens": 12,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    lines = [line for line in ask(server, "POST", "/v1/chat/completions", body).splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    texts = [choice["delta"].get("content") for event in events for choice in event["choices"]]
    assert len("".join(text or "" for text in texts)) > 10
    usage = next(event["usage"] for event in events if event.get("usage"))
    assert usage["completion_tokens"] == 12


def test_it_lists_its_model_and_its_metrics(server: RunningServer) -> None:
    models = json.loads(ask(server, "GET", "/v1/models"))
    assert [model["id"] for model in models["data"]] == [server.model]
    assert "llamacpp:prompt_tokens_total" in ask(server, "GET", "/metrics")


def test_it_can_be_attached_to(server: RunningServer, tmp_path: Path) -> None:
    files = {"log_file": tmp_path / "log", "work_dir": tmp_path}
    connection = Connection(protocol="openai_chat", url=server.url)
    attach = LAUNCHERS["attach"]
    with attach.launch(attached_stack(""), SCENARIO, users=1, connection=connection, **files) as attached:
        assert attached.model == server.model
    wrong = connection.model_copy(update={"model": "gpt-4"})
    with pytest.raises(ServerError, match="does not serve 'gpt-4'; it serves SmolLM2"):
        attach.launch(attached_stack("gpt-4"), SCENARIO, users=1, connection=wrong, **files)
    assert server.poll() is None


def test_its_port_is_taken(server: RunningServer, tmp_path: Path) -> None:
    port = urlsplit(server.url).port
    with pytest.raises(ServerError, match=f"^port {port} on 127.0.0.1 is in use"):
        launch(tmp_path, port=port)


def test_a_model_that_is_none(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF, or so it says")
    stack = STACK.model_copy(update={"launch": STACK.launch.model_copy(update={"model_file": str(broken)})})
    with pytest.raises(ServerError, match="llamacpp ended with exit code 1 while starting; the end of") as caught:
        launch(tmp_path, stack=stack)
    assert "failed to load model" in str(caught.value)
    missing = STACK.model_copy(update={"launch": STACK.launch.model_copy(update={"model_file": "no-such.gguf"})})
    with pytest.raises(ServerError, match=r"the model file .*/\.models/no-such\.gguf is not there"):
        launch(tmp_path, stack=missing)


def test_a_killed_server_is_noticed(tmp_path: Path) -> None:
    with launch(tmp_path) as server:
        assert server.pid is not None
        (child,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        while server.poll() is None:
            os.sched_yield()
    assert server.facts().died
    assert server.facts().exit_code == -signal.SIGKILL
