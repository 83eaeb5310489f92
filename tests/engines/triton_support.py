"""What the tests on a real Triton share: its environment, a stack over a model repository, and timed requests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from harness.catalog import load_catalog
from harness.spec import Scenario, Stack
from servers import RunningServer, launcher_for
from servers.environments import ENVIRONMENTS, make
from servers.triton import REPOSITORIES

ROOT = Path(__file__).parents[2]
MODEL = "standin"
HTTP, GRPC = "triton-generate-stream", "triton-grpc"


def need_triton() -> None:
    """Make the environment where it is not complete: a missing one is no reason to skip."""
    make(ENVIRONMENTS["triton"], print)


def repository_in(folder: Path, source: Path = REPOSITORIES / "standin") -> Path:
    """A model repository of its own that holds the stand-in."""
    shutil.copytree(source, folder / "repository" / MODEL, ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "repository"


def document(repository: Path, protocol: str = HTTP, **launch: Any) -> dict[str, Any]:
    """The stack as a user's catalog would state it."""
    return {
        "kind": "stack",
        "name": "triton-standin",
        "title": "Triton over a stand-in for TensorRT-LLM's model",
        "engine": "triton-trtllm",
        "protocol": protocol,
        "price": {"kind": "none", "reason": "a test"},
        "launch": {"repository": str(repository), "served_model": MODEL, "ready_timeout_s": 60, **launch},
    }


def stack(repository: Path, protocol: str = HTTP, **launch: Any) -> Stack:
    return Stack.model_validate(document(repository, protocol, **launch))


def catalog_file(folder: Path, repository: Path, protocol: str = HTTP, **launch: Any) -> Path:
    path = folder / "triton-standin.yaml"
    path.write_text(yaml.safe_dump(document(repository, protocol, **launch)), encoding="utf-8")
    return path


def scenario() -> Scenario:
    return load_catalog().scenario("translation")


def launch(wanted: Stack, folder: Path, port: int | None = None) -> RunningServer:
    files = {"log_file": folder / "server.log", "work_dir": folder}
    return launcher_for(wanted, emulate=False).launch(wanted, scenario(), users=8, port=port, **files)


def url(server: RunningServer, port: str = "http_port") -> str:
    return f"http://127.0.0.1:{server.facts().details[port]}"


def ask(address: str, protocol: str, **options: Any) -> subprocess.Popen[str]:
    """Start requests by the harness's own clients in a process that gevent has patched; read with :func:`answers`."""
    asked = {"url": address, "model": MODEL, "protocol": protocol, **options}
    command = [sys.executable, "-m", "tests.engines.triton_requests", json.dumps(asked)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"NO_COLOR": "1"}
    )


def answers(asking: subprocess.Popen[str], timeout_s: float = 120.0) -> list[dict[str, Any]]:
    out, err = asking.communicate(timeout=timeout_s)
    assert asking.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def stubs(server: RunningServer) -> list[int]:
    """The processes of the server's models."""
    return [pid for pid, line in family(server) if "triton_python_backend_stub" in line.split("\0")[0]]


def family(server: RunningServer) -> list[tuple[int, str]]:
    import psutil

    assert server.pid is not None
    found = psutil.Process(server.pid).children(recursive=True)
    return [(each.pid, "\0".join(each.cmdline())) for each in found if each.status() != psutil.STATUS_ZOMBIE]


def edited(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text(encoding="utf-8")
    after = change(before)
    assert after != before
    path.write_text(after, encoding="utf-8")
