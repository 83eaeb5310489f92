"""Sends translations of the catalog through the harness's own client, and prints each as ``outputs.jsonl`` has it.

``python -m tests.engines.answers URL MODEL PROTOCOL COUNT CONCURRENCY``: a process of its own, as a load generator is.
"""

import gevent.monkey

gevent.monkey.patch_all()

import json  # noqa: E402
import random  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402

from harness.catalog import load_catalog  # noqa: E402
from harness.clients import CLIENTS, Target, Timeouts, prepare  # noqa: E402
from harness.dataset import read_workload  # noqa: E402
from harness.records import Outcome, Prompt  # noqa: E402
from harness.workload import prompt_sources  # noqa: E402

SEED = 1
"""One seed: every engine is asked the same."""


def main() -> None:
    url, model, protocol = sys.argv[1:4]
    count, concurrency = map(int, sys.argv[4:])
    workload = load_catalog().scenario("translation").workload
    source = prompt_sources(workload, read_workload(workload))(random.Random(SEED))
    asked = iter([source.next(None) for _ in range(count)])
    prepare(protocol)
    # The likeliest words, or each engine would draw others by chance.
    target = Target(
        url=url, model=model, protocol=protocol, extra_body=GREEDY[protocol], timeouts=Timeouts(total_s=300.0)
    )
    answered: list[dict[str, Any]] = []

    def user() -> None:
        client = CLIENTS[protocol](target)
        client.open()
        for prompt in asked:
            reply = client.send(prompt, f"quality/{prompt.prompt_id}")
            assert reply.outcome is Outcome.OK, reply
            answered.append({**described(prompt), "text": reply.text, "finish_reason": reply.finish_reason})
        client.close()

    gevent.joinall([gevent.spawn(user) for _ in range(concurrency)], raise_error=True)
    json.dump(answered, sys.stdout)


def described(prompt: Prompt) -> dict[str, Any]:
    return {"prompt_id": prompt.prompt_id, "prompt": prompt.messages[-1].content, "expected": prompt.expected}


GREEDY: dict[str, dict[str, Any]] = {
    "openai-chat": {"temperature": 0},
    "triton-generate-stream": {"sampling_param_temperature": 0.0},
    "triton-grpc": {"sampling_param_temperature": 0.0},
}
"""Fields of a request for an answer without chance."""


if __name__ == "__main__":
    main()
