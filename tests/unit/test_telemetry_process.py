"""What the recorder is told: whose processes, which page, which GPUs, and no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cell import Cell
from harness.connection import Connection, parse_metrics_url
from harness.errors import UsageError
from harness.records import ReplicaFacts, ServerFacts
from harness.spec import Timing
from harness.telemetry.process import arguments
from servers.base import RunningServer
from servers.ready import Endpoint
from tests.runs import scenario, stack

URL = "http://127.0.0.1:8000/v1"


class Server(RunningServer):
    """A server with facts alone; ``pid`` of one that was started here."""

    def __init__(self, facts: ServerFacts, pid: int | None) -> None:
        super().__init__(Endpoint(url=facts.url, model="m"), facts)
        self._pid = pid

    @property
    def pid(self) -> int | None:
        return self._pid


def told(facts: ServerFacts, pid: int | None = None, **connection: object) -> list[str]:
    cell = Cell(
        run="r",
        run_dir=Path("runs/r"),
        profile="quick",
        scenario=scenario(),
        stack=stack(),
        timing=Timing(warm_up_s=1, run_time_s=5, spawn_s=1),
        connection=Connection.model_validate({"protocol": "openai-chat", "url": facts.url, **connection}),
    )
    return arguments(cell, Server(facts, pid), load_pid=77)


def launched(**changes: object) -> ServerFacts:
    facts = {
        "launcher": "vllm",
        "url": URL,
        "command": ("/x/bin/vllm",),
        "metrics_url": "http://127.0.0.1:8000/metrics",
    }
    return ServerFacts.model_validate({**facts, **changes})


def test_a_server_that_was_started_here() -> None:
    words = told(launched(), pid=99)
    assert words[0] == f"--out={Path.cwd() / 'runs/r/telemetry.jsonl'}"
    assert words[1:4] == ["--load-pid=77", "--server-pid=99", "--metrics-url=http://127.0.0.1:8000/metrics"]
    assert "--gpus" in words
    assert "--guessed" not in words


def test_an_emulator_uses_no_gpu() -> None:
    assert "--gpus" not in told(launched(emulated=True), pid=99)


def test_a_server_elsewhere_has_no_processes_here() -> None:
    words = told(launched(), pid=None)
    assert not [word for word in words if word.startswith("--server-pid")]
    assert "--metrics-url=http://127.0.0.1:8000/metrics" in words


def test_replicas_are_all_read() -> None:
    replicas = [ReplicaFacts(name=f"replica-{n}", metrics_url=f"http://127.0.0.1:{n}/metrics") for n in (1, 2)]
    words = told(launched(metrics_url="", replicas=replicas), pid=99)
    assert [word for word in words if word.startswith("--metrics-url")] == [
        "--metrics-url=http://127.0.0.1:1/metrics",
        "--metrics-url=http://127.0.0.1:2/metrics",
    ]


def test_an_attached_server_is_asked_at_its_metrics_once() -> None:
    words = told(ServerFacts(launcher="attach", url="http://gpu-box:8000/v1"))
    assert "--metrics-url=http://gpu-box:8000/metrics" in words
    assert "--guessed" in words
    assert "--gpus" not in words


def test_an_api_is_not_asked_for_metrics() -> None:
    assert not [
        word for word in told(ServerFacts(launcher="openai", url="https://api.example/v1")) if "metrics" in word
    ]


def test_a_key_goes_to_its_own_server_only() -> None:
    secret = {"api_key_env": "MY_KEY", "headers": {"X-Auth": "Bearer ${TOKEN}"}}
    own = told(ServerFacts(launcher="attach", url=URL, metrics_url="http://127.0.0.1:8000/metrics"), **secret)
    assert "--api-key-env=MY_KEY" in own
    assert "--header=X-Auth: Bearer ${TOKEN}" in own
    other = told(ServerFacts(launcher="attach", url=URL, metrics_url="http://127.0.0.1:8002/metrics"), **secret)
    assert not [word for word in other if word.startswith(("--api-key-env", "--header"))]


def test_metrics_urls_are_checked() -> None:
    assert parse_metrics_url("") == ""
    assert parse_metrics_url("https://box:8002/metrics") == "https://box:8002/metrics"
    for wrong in ("box:8002/metrics", "ftp://box/x", "http://", "http://box:0/", "http://[::1"):
        with pytest.raises(UsageError, match="--metrics-url must look like"):
            parse_metrics_url(wrong)
    with pytest.raises(UsageError, match="carries a password") as refused:
        parse_metrics_url("http://me:hunter2@box/metrics")
    assert "hunter2" not in str(refused.value)
