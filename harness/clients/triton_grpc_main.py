"""``python -m harness.clients.triton_grpc_main``: send one request over gRPC and say how it went.

A process of its own, because a readiness probe must leave no trace of gRPC in the one that asks: that may still
fork, and is not always patched by gevent. The request comes as JSON on stdin, since its headers may hold a key.
"""

import gevent.monkey

gevent.monkey.patch_all()

import json  # noqa: E402
import sys  # noqa: E402

from harness.clients import CLIENTS, Target, Timeouts  # noqa: E402
from harness.records import Message, Prompt  # noqa: E402

PROTOCOL = "triton-grpc"


def main() -> None:
    asked = json.load(sys.stdin)
    timeouts = Timeouts(total_s=asked["timeout_s"], connect_s=asked["timeout_s"])
    target = Target(
        url=asked["url"],
        model=asked["model"],
        protocol=PROTOCOL,
        headers=asked["headers"],
        extra_body=asked["extra_body"],
        ca_file=asked["ca_file"],
        stream=asked["stream"],
        timeouts=timeouts,
    )
    client = CLIENTS[PROTOCOL](target)
    prompt = Prompt("probe", (Message("user", asked["text"]),), asked["tokens"])
    reply = client.send(prompt, asked["request_id"])
    client.close()
    print(
        json.dumps(
            {"outcome": reply.outcome, "status": reply.http_status, "error": reply.error, "token": bool(reply.text)}
        )
    )


if __name__ == "__main__":
    main()
