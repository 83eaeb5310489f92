"""What the tests of models in Triton's Python backend share: made models, a running server, and answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness.catalog import load_catalog
from harness.spec import Stack
from servers import RunningServer
from servers.environments import ENVIRONMENTS, make
from servers.models import ensure

ROOT = Path(__file__).parents[2]
HTTP, GRPC = "triton-generate-stream", "triton-grpc"
PORTS = {HTTP: "http_port", GRPC: "grpc_port"}


def stack_with(name: str, weights: str) -> Stack:
    """A stack of the catalog on other weights; what it needs is made where it is not there."""
    make(ENVIRONMENTS["triton-onnx"], print)
    ensure(weights, print)
    stack = load_catalog().stack(name)
    return stack.model_copy(update={"launch": stack.launch.model_copy(update={"weights": weights})})


def ask(
    server: RunningServer,
    protocol: str,
    prompts: list[str],
    tokens: int = 16,
    *,
    at_once: bool = False,
    **fields: Any,
) -> list[dict[str, Any]]:
    """Answers to prompts by the harness's client of a protocol, in their order; ``fields`` go into each request."""
    asked = {
        "url": f"http://127.0.0.1:{server.facts().details[PORTS[protocol]]}",
        "model": server.model,
        "protocol": protocol,
        "prompts": prompts,
        "tokens": tokens,
        "at_once": at_once,
        "fields": fields,
    }
    command = [sys.executable, "-m", "tests.engines.onnx_requests", json.dumps(asked)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def batches(answers: list[dict[str, Any]]) -> int:
    """In how many batches they were computed: rows of one batch were scheduled at the same nanosecond."""
    return len({answer["server"]["first_scheduled_time_ns"] for answer in answers})
