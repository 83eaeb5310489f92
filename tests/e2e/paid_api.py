"""A stack of the catalog that pays for tokens, on a server that behaves like OpenAI's API and keeps books."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.processes import server_started
from tests.openai_like import MODEL

KEY = "sk-right-key-0123456789"
INPUT_USD, OUTPUT_USD, CACHED_USD = 30.0, 60.0, 15.0
STACK = """
kind: stack
name: like-api
title: A server that behaves like an API
engine: openai
price:
  kind: tokens
  usd_per_million_input: {input}
  usd_per_million_output: {output}
  usd_per_million_cached_input: {cached}
  source: {{text: made up}}
launch: {{url: "{url}", served_model: {model}, api_key_env: LIKE_KEY}}
"""


class Api:
    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.catalog = folder / "like-api.yaml"
        about = {"input": INPUT_USD, "output": OUTPUT_USD, "cached": CACHED_USD, "url": url, "model": MODEL}
        self.catalog.write_text(STACK.format(**about), encoding="utf-8")

    def books(self) -> dict[str, int]:
        with urllib.request.urlopen(f"{self.url}/books", timeout=10) as answer:
            return json.load(answer)  # type: ignore[no-any-return]

    def billed_usd(self) -> float:
        """At the full price of every prompt token: what is cached is never dearer."""
        books = self.books()
        return (books["prompt_tokens"] * INPUT_USD + books["completion_tokens"] * OUTPUT_USD) / 1e6

    def command(self, *options: str | Path) -> tuple[str | Path, ...]:
        return ("run", "content", "--catalog", self.catalog, "--stack", "like-api", "--real", *options)


@contextmanager
def api(folder: Path, *options: str) -> Iterator[Api]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.openai_like", *options]
    with server_started(command, folder / "api") as url:
        yield Api(url, folder)
