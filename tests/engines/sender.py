"""Sends distinct prompts through the harness's own client, a few at a time, and prints what each request took.

``python -m tests.engines.sender URL MODEL REQUESTS CONCURRENCY TOKENS WORDS``: a process of its own,
as a load generator is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.clients.base import Reply, Target, Timeouts
from harness.clients.openai_chat import OpenAIChat
from harness.records import Message, Outcome, Prompt
from harness.sse import Events

LONGEST_S = 1500.0
TOPICS = ("rivers", "bread", "clocks", "bridges", "violins", "maps", "bees", "glass", "salt", "sails")


@dataclass(frozen=True)
class Sent:
    """One answered request; ``timings`` is llama.cpp's own account of it, in milliseconds."""

    ttft_s: float
    e2e_s: float
    tokens: int
    timings: dict[str, float]


class Noting(OpenAIChat):
    """The client as it is, keeping what llama.cpp says of its own times beside the answer."""

    timings: dict[str, float] = {}

    def read_events(self, reply: Reply, events: Events, times: Sequence[float], whole: bool) -> None:
        super().read_events(reply, events, times, whole)
        said = [json.loads(data) for data in events.data if b'"timings"' in data]
        self.timings = said[-1]["timings"] if said else {}


def send(url: str, model: str, requests: int, concurrency: int, tokens: int, words: int = 0) -> list[Sent]:
    """Run the sender to its end; ``words`` make each prompt longer."""
    arguments = [url, model, *map(str, (requests, concurrency, tokens, words))]
    done = subprocess.run(
        [sys.executable, "-m", "tests.engines.sender", *arguments],
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Sent(**each) for each in json.loads(done.stdout)]


def prompt(number: int, tokens: int, words: int) -> Prompt:
    text = f"Question {number}: say in simple words what everybody should know about {TOPICS[number % len(TOPICS)]}."
    text += "".join(f" {TOPICS[(number + place) % len(TOPICS)]}" for place in range(words))
    return Prompt(prompt_id=str(number), messages=(Message("user", text),), output_tokens=tokens)


def main() -> None:
    import gevent

    url, model = sys.argv[1:3]
    requests, concurrency, tokens, words = map(int, sys.argv[3:])
    target = Target(url=url, model=model, timeouts=Timeouts(total_s=LONGEST_S))
    numbers = iter(range(requests))
    answered: list[dict[str, Any]] = []

    def user() -> None:
        client = Noting(target)
        client.open()
        for number in numbers:
            reply = client.send(prompt(number, tokens, words), f"agreement/{number}")
            assert reply.outcome is Outcome.OK, reply
            answered.append(
                {
                    "ttft_s": reply.first_token_s - reply.sent_s,
                    "e2e_s": reply.end_s - reply.sent_s,
                    "tokens": reply.output_tokens,
                    "timings": client.timings,
                }
            )
        client.close()

    users = [gevent.spawn(user) for _ in range(concurrency)]
    gevent.joinall(users, raise_error=True)
    json.dump(answered, sys.stdout)


if __name__ == "__main__":
    main()
