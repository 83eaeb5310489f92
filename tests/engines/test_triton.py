"""The real Triton binary over a stand-in for TensorRT-LLM's model, asked by the harness's own clients.

The stand-in has the tensors of NVIDIA's model and keeps a stated pace; it generates nothing, and no figure of it is
TensorRT-LLM's.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import statistics
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ServerError
from servers import RunningServer
from servers.base import LOCALHOST
from servers.environments import ENVIRONMENTS
from servers.triton import REPOSITORIES
from servers.triton_main import LOST
from servers.triton_statistics import ServerTimes, is_ready, model_statistics, server_version
from servers.triton_trtllm import render, rendering_of
from tests.e2e.processes import assert_nothing_left, listening, wait_until
from tests.engines.triton_support import (
    GRPC,
    HTTP,
    MODEL,
    answers,
    ask,
    edited,
    launch,
    need_triton,
    repository_in,
    stack,
    stubs,
    url,
)

pytestmark = pytest.mark.engines

ALLOWED = 0.05
"""What the client's mean may differ from the server's own account."""
ATTEMPTS = 3
"""Should other processes take the machine in the middle of one."""


@pytest.fixture(scope="module", autouse=True)
def _environment() -> None:
    need_triton()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("triton")
    with launch(stack(repository_in(folder)), folder) as server:
        yield server
    assert_nothing_left(folder)


PORTS = {HTTP: "http_port", GRPC: "grpc_port"}


def test_facts(server: RunningServer) -> None:
    facts = server.facts()
    assert facts.launcher == "triton-trtllm"
    assert facts.version == f"triton {server_version(url(server))}"
    assert re.fullmatch(r"triton 2\.\d+\.\d+", facts.version)
    assert facts.model == MODEL
    assert facts.ready_s is not None
    assert 0 < facts.ready_s < 60
    assert not facts.died
    assert server.url == url(server)


def test_it_listens_on_this_machine_only_at_the_three_ports_it_was_given(server: RunningServer) -> None:
    assert server.pid is not None
    given = {server.facts().details[name] for name in ("http_port", "grpc_port", "metrics_port")}
    heard = {(address.removeprefix("::ffff:"), port) for address, port in listening(server.pid)}
    assert heard == {(LOCALHOST, port) for port in given}
    assert len(given) == 3


def test_metrics_are_at_their_own_port(server: RunningServer) -> None:
    with urllib.request.urlopen(server.facts().metrics_url, timeout=10) as answer:
        text = answer.read().decode()
    assert f'nv_inference_request_success{{model="{MODEL}",version="1"}}' in text


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_both_protocols_give_the_same_text_and_count(server: RunningServer, protocol: str) -> None:
    before = model_statistics(url(server), MODEL)
    (answer,) = answers(ask(url(server, PORTS[protocol]), protocol, requests=1, users=1, tokens=[7, 7]))
    assert answer["outcome"] == "ok"
    assert answer["error"] == ""
    assert answer["text"] == "stand-in text of no model stand-in text"
    assert answer["tokens"] == 7
    assert answer["finish_reason"] == "length"
    assert ServerTimes.of(answer["server"]) is not None
    counted = model_statistics(url(server), MODEL) - before
    assert (counted.requests, counted.failed) == (1, 0)
    assert is_ready(url(server), MODEL)


def test_statistics_of_a_model_that_is_not_there(server: RunningServer) -> None:
    with pytest.raises(ServerError, match=r"does not say: .*'no-such' is not available"):
        model_statistics(url(server), "no-such")


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_the_client_agrees_with_the_model_s_own_times(server: RunningServer, protocol: str) -> None:
    """200 requests of 32 to 64 tokens, 16 at a time, which is a quarter of what the stand-in runs together."""
    for _ in range(ATTEMPTS):
        before = model_statistics(url(server), MODEL)
        found = answers(ask(url(server, PORTS[protocol]), protocol, requests=200, users=16, tokens=[32, 64]))
        assert (model_statistics(url(server), MODEL) - before).requests == 200
        error = disagreement(found)
        print(protocol, {name: f"{value:+.2%}" for name, value in error.items()})
        if max(abs(value) for value in error.values()) <= ALLOWED:
            return
    pytest.fail(f"the client's times differ from the server's by {error}")


def disagreement(found: list[dict[str, Any]]) -> dict[str, float]:
    """Relative difference of the means, client's over server's; more than nothing, for the wire takes time."""
    assert len(found) == 200
    assert {answer["outcome"] for answer in found} == {"ok"}
    assert all(answer["tokens"] == answer["asked"] for answer in found)
    times = [ServerTimes.of(answer["server"]) for answer in found]
    error = {}
    for name in ("ttft_s", "e2e_s"):
        server = statistics.fmean(getattr(each, name) for each in times)
        client = statistics.fmean(answer[name] for answer in found)
        assert client > server > 0
        error[name] = client / server - 1
    return error


def test_the_rendered_repository_loads_with_nvidia_s_model_replaced(tmp_path: Path) -> None:
    """What is rendered for TensorRT-LLM, on the real Triton; the stand-in lies where NVIDIA's model would."""
    rendered = stack(tmp_path, served_model="tensorrt_llm")
    repository = render(rendering_of(rendered, "hf/model"), tmp_path / "repository")
    sources = tmp_path / "sources"
    shutil.copytree(REPOSITORIES / "standin" / "1", sources)
    options = {
        "served_model": "tensorrt_llm",
        "runtime": "path",
        "executable": str(ENVIRONMENTS["triton"].directory / "bin" / "tritonserver"),
        "arguments": ["--disable-auto-complete-config"],
    }
    with pytest.raises(ServerError, match="TensorRT-LLM's Triton model is not in /app/all_models"):
        launch(stack(repository, **options), tmp_path / "without")
    variables = {"TENSORRT_LLM_MODEL": str(sources)}
    with launch(stack(repository, variables=variables, **options), tmp_path / "with") as server:
        assert server.model == "tensorrt_llm"
        assert is_ready(url(server), "tensorrt_llm")


def test_a_stub_killed_under_load_ends_the_server_and_every_request(tmp_path: Path) -> None:
    with launch(stack(repository_in(tmp_path)), tmp_path) as server:
        ports = [server.facts().details[name] for name in ("http_port", "grpc_port", "metrics_port")]
        options = {"requests": 2, "users": 2, "tokens": [4000, 4000], "timeout_s": 60.0}
        asking = [ask(url(server, PORTS[protocol]), protocol, **options) for protocol in PORTS]
        wait_until(lambda: model_statistics(url(server), MODEL).requests >= 8, "4 to warm up and 4 requests under way")
        (stub,) = stubs(server)
        os.kill(stub, signal.SIGKILL)
        wait_until(lambda: server.poll() is not None, "the server has ended")
        found = [answer for each in asking for answer in answers(each)]
        facts = server.facts()
    assert facts.died
    assert facts.exit_code == LOST
    assert facts.log_tail[-1].startswith(f"the process of model '{MODEL}' was killed by SIGKILL (out of memory?)")
    assert len(found) == 4
    for answer in found:
        assert answer["outcome"] in ("reset", "truncated", "refused")
        assert answer["took_s"] < 45
    for port in ports:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((LOCALHOST, int(port)))
    assert_nothing_left(tmp_path)


DIES = "__import__('os').kill(__import__('os').getpid(), 9)"


@pytest.mark.parametrize(
    ("broken", "begins"),
    [
        (
            "raise RuntimeError('no weights here')",
            f"triton-trtllm: failed to load '{MODEL}' version 1: Internal: RuntimeError: no weights here ",
        ),
        (
            DIES,
            (  # whoever notices first: Triton itself, or the process that watches it
                f"triton-trtllm: failed to load '{MODEL}' version 1: Internal: Stub process ",
                f"triton-trtllm ended with exit code {LOST} while starting; the end of ",
            ),
        ),
    ],
    ids=["raises", "is killed"],
)
def test_a_model_that_does_not_load(tmp_path: Path, broken: str, begins: str | tuple[str, ...]) -> None:
    repository = repository_in(tmp_path)
    edited(repository / MODEL / "1" / "model.py", lambda text: starting_with("initialize", broken, text))
    with pytest.raises(ServerError) as caught:
        launch(stack(repository), tmp_path)
    assert str(caught.value).startswith(begins)
    assert " while starting; the end of " in str(caught.value)
    assert_nothing_left(tmp_path)


def starting_with(function: str, statement: str, text: str) -> str:
    return re.sub(rf"( +)def {function}\(.*\n", lambda found: f"{found[0]}{found[1] * 2}{statement}\n", text)


def test_a_stub_that_dies_at_its_first_request_fails_the_launch(tmp_path: Path) -> None:
    repository = repository_in(tmp_path)
    edited(repository / MODEL / "1" / "model.py", lambda text: starting_with("execute", DIES, text))
    with pytest.raises(ServerError, match=f"exit code {LOST} while starting") as caught:
        launch(stack(repository), tmp_path)
    assert f"the process of model '{MODEL}' was killed by SIGKILL" in str(caught.value).splitlines()[-1]
    assert_nothing_left(tmp_path)


def test_a_port_that_is_taken(server: RunningServer, tmp_path: Path) -> None:
    port = int(server.facts().details["http_port"])
    with pytest.raises(ServerError, match=f"^port {port} on 127.0.0.1 is in use"):
        launch(stack(repository_in(tmp_path)), tmp_path, port=port)
