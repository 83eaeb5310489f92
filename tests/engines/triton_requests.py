"""Requests to a Triton by the harness's own clients, and beside each what the server's model says of it.

``python -m tests.engines.triton_requests JSON`` in a process of its own, because gRPC needs one that gevent has
patched. Prints one JSON object a request.
"""

import gevent.monkey

gevent.monkey.patch_all()

import json  # noqa: E402
import struct  # noqa: E402
import sys  # noqa: E402
from random import Random  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402

from harness.clients import CLIENTS, Target, Timeouts, prepare  # noqa: E402
from harness.clients.base import Reply  # noqa: E402
from harness.clients.grpc_channels import prepare as loaded  # noqa: E402
from harness.records import Message, Prompt  # noqa: E402

PERF_METRICS = "sampling_param_return_perf_metrics"


def main() -> None:
    asked = json.loads(sys.argv[1])
    prepare(asked["protocol"])
    target = Target(
        url=asked["url"],
        model=asked["model"],
        protocol=asked["protocol"],
        extra_body={PERF_METRICS: True, "sampling_param_seed": 7},
        timeouts=Timeouts(total_s=asked.get("timeout_s", 60.0)),
    )
    lengths = Random(3)
    work = [lengths.randint(*asked["tokens"]) for _ in range(asked["requests"])]
    users = [gevent.spawn(user, target, number, work) for number in range(asked["users"])]
    gevent.joinall(users, raise_error=True)


def user(target: Target, number: int, work: list[int]) -> None:
    client = CLIENTS[target.protocol](target)
    client.open()
    while work:
        tokens = work.pop()
        reply = client.send(Prompt("p", (Message("user", "How are you?"),), tokens), f"user-{number}-{tokens}")
        said = server_outputs(target.protocol, client)
        print(json.dumps({"asked": tokens, **facts(reply), "server": said}), flush=True)
    client.close()


def facts(reply: Reply) -> dict[str, Any]:
    return {
        "outcome": reply.outcome,
        "error": reply.error,
        "text": reply.text,
        "tokens": reply.output_tokens,
        "finish_reason": reply.finish_reason,
        "ttft_s": reply.first_token_s - reply.sent_s,
        "e2e_s": reply.last_token_s - reply.sent_s,
        "took_s": reply.end_s - reply.sent_s,
    }


def server_outputs(protocol: str, client: Any) -> dict[str, Any]:
    """The ``*_time_ns`` outputs of the last response, read from the client's own raw bytes."""
    exchange = client._current()
    return of_grpc(exchange.parts) if protocol == "triton-grpc" else of_http(b"".join(exchange.parts))


def of_http(raw: bytes) -> dict[str, Any]:
    events = [json.loads(line[5:]) for line in raw.split(b"\n") if line.startswith(b"data:")]
    return {name: value for name, value in events[-1].items() if name.endswith("_time_ns")} if events else {}


def of_grpc(parts: list[bytes]) -> dict[str, Any]:
    if not parts:
        return {}
    answer = loaded().messages.ModelStreamInferResponse.FromString(parts[-1]).infer_response
    raw = zip(answer.outputs, answer.raw_output_contents, strict=True)
    return {output.name: struct.unpack("<q", data)[0] for output, data in raw if output.name.endswith("_time_ns")}


if __name__ == "__main__":
    main()
