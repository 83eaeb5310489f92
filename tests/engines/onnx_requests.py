"""Sends prompts to a Triton all at once, or one after another, by the harness's own clients.

``python -m tests.engines.onnx_requests JSON`` in a process of its own, which gevent has patched. Prints one JSON object
a request, in the order of the prompts.
"""

from tests.engines.triton_requests import facts, server_outputs  # isort: skip  patches

import json
import sys
from typing import Any

import gevent

from harness.clients import CLIENTS, Target, Timeouts, prepare
from harness.records import Message, Prompt


def main() -> None:
    asked = json.loads(sys.argv[1])
    prepare(asked["protocol"])
    target = Target(
        url=asked["url"],
        model=asked["model"],
        protocol=asked["protocol"],
        extra_body={"sampling_param_return_perf_metrics": True, **asked["fields"]},
        timeouts=Timeouts(total_s=60.0),
    )
    if asked["at_once"]:
        users = [gevent.spawn(answer, target, text, asked["tokens"]) for text in asked["prompts"]]
        gevent.joinall(users, raise_error=True)
        found = [user.value for user in users]
    else:
        found = [answer(target, text, asked["tokens"]) for text in asked["prompts"]]
    for each in found:
        print(json.dumps(each))


def answer(target: Target, text: str, tokens: int) -> dict[str, Any]:
    client = CLIENTS[target.protocol](target)
    client.open()
    reply = client.send(Prompt("p", (Message("user", text),), tokens), "test")
    found = {**facts(reply), "server": server_outputs(target.protocol, client)}
    client.close()
    return found


if __name__ == "__main__":
    main()
