"""A server that knows the catalog's translations and spoils a share of them; it keeps books of what it sent.

``GET /books`` says how many answers were spoiled, by the numbers that a client sends as ``X-Request-Id``. Run as
``python -m tests.translating --spoil 0.1``; the first line of its standard output says the port.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

from harness.catalog import load_catalog
from harness.dataset import read_workload
from harness.workload import LANGUAGES
from tests.openai_like import Api, listen, parser, send

CODES = {name: code for code, name in LANGUAGES.items()}


RUBBISH = ("table", "river", "seven", "quickly", "under", "the", "a", "stone", "window")


class Translator(Api):
    def __init__(self, options: Any) -> None:
        super().__init__(options)
        workload = load_catalog().scenario("translation").workload
        self.known = {entry["text"]: entry["references"] for entry in read_workload(workload).entries}
        self.rng = random.Random(options.seed)
        self.spoiled: dict[str, bool] = {}
        self.deck: list[bool] = []

    async def answer(self, writer: Any, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        if path == "/spoiled":
            await send(writer, 200, self.spoiled)
            return
        self.request = headers.get("x-request-id", "")
        await super().answer(writer, method, path, headers, body)

    async def complete(self, writer: Any, asked: dict[str, Any]) -> None:
        request, text = self.request, self.translation(asked["messages"])
        usage = {"prompt_tokens": 20, "completion_tokens": len(text.split()), "total_tokens": 20 + len(text.split())}
        if not self.deck:  # exactly so many of each hundred, in a random order
            self.deck = [place < round(100 * self.options.spoil) for place in range(100)]
            self.rng.shuffle(self.deck)
        self.spoiled[request] = self.deck.pop()
        if self.spoiled[request]:
            text = " ".join(self.rng.choices(RUBBISH, k=7)) + "."
        await asyncio.sleep(self.options.ttft_s)
        await self.stream_text(writer, text, usage)

    def translation(self, messages: list[dict[str, str]]) -> str:
        named = [word.strip(".") for word in messages[0]["content"].split() if word.strip(".") in CODES]
        references = self.known.get(messages[-1]["content"])
        return references[CODES[named[-1]]] if references and named else "Bonjour."

    async def stream_text(self, writer: Any, text: str, usage: dict[str, int]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        choices: list[dict[str, Any]] = [
            {"delta": {"content": word}, "finish_reason": None} for word in text.split(" ")
        ]
        for choice in choices[1:]:
            choice["delta"]["content"] = " " + choice["delta"]["content"]
        choices.append({"delta": {}, "finish_reason": "stop"})
        events = [{"choices": [{"index": 0, **choice}]} for choice in choices] + [{"choices": [], "usage": usage}]
        for event in (*map(json.dumps, events), "[DONE]"):
            data = f"data: {event}\n\n".encode()
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        writer.write(b"0\r\n\r\n")
        await writer.drain()


if __name__ == "__main__":
    options = parser()
    options.add_argument("--spoil", type=float, default=0.1)
    options.add_argument("--seed", type=int, default=1)
    try:
        asyncio.run(listen(options.parse_args(), Translator))
    except KeyboardInterrupt:
        sys.exit(0)
