"""A server that behaves like OpenAI's API where it matters to a load test; it says so itself, and is no GPT-4.

Keys, models, rate limits with their headers, an account that can be empty, usage, context, errors. It keeps books:
``GET /books`` says what it would have billed. Run as ``python -m tests.openai_like --key K``; the first line of its
standard output says the port.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
import time
from pathlib import Path
from typing import Any

MODEL = "like-gpt"
CERTS = Path(__file__).parent / "contract" / "certs"


class Bucket:
    """So much a minute, refilled evenly; it holds that of ``burst_s`` seconds, and is full at the start."""

    def __init__(self, per_min: int, burst_s: float) -> None:
        self.per_min = per_min
        self._most = per_min * burst_s / 60
        self._left, self._at = self._most, time.monotonic()

    @property
    def left(self) -> float:
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self.per_min / 60)
        self._at = now
        return self._left

    def wait_s(self, amount: int) -> float:
        """Seconds until so much is there; it is taken when that is now."""
        left = self.left
        if left >= amount:
            self._left -= amount
            return 0.0
        return (amount - left) * 60 / self.per_min


class Api:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.requests = Bucket(options.rpm, options.burst_s)
        self.tokens = Bucket(options.tpm, options.burst_s)
        self.served = 0
        self.books = {"billed": 0, "prompt_tokens": 0, "completion_tokens": 0, "refused": 0, "seen": 0}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines if line)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                method, path, _ = first.split(" ")
                await self.answer(writer, method, path, headers, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(
        self, writer: asyncio.StreamWriter, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> None:
        if path == "/books":
            await send(writer, 200, self.books)
            return
        key = headers.get("authorization", "").removeprefix("Bearer ")
        if key != self.options.key:
            # As the API does, only worse: it repeats the key.
            text = f"Incorrect API key provided: {key}." if key else "You didn't provide an API key."
            await send(writer, 401, error(text, "invalid_request_error", "invalid_api_key" if key else None))
        elif path == "/v1/models":
            await send(writer, 200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "tests"}]})
        elif path == "/v1/chat/completions" and method == "POST":
            await self.complete(writer, json.loads(body))
        else:
            await send(writer, 404, error(f"Unknown request URL: {method} {path}", "invalid_request_error", None))

    async def complete(self, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
        self.books["seen"] += 1
        options = self.options
        prompt = sum(4 + len(message["content"]) // 4 for message in asked["messages"]) + 3
        most = int(asked.get("max_completion_tokens") or asked.get("max_tokens") or 16)
        refusal = self.refusal(asked, prompt, most)
        if refusal is not None:
            self.books["refused"] += 1
            status, told, more = refusal
            await send(writer, status, told, self.limits() | more)
            return
        self.served += 1
        tokens = min(most, options.tokens or most)
        # Paid for when it is accepted, whether or not somebody waits for it.
        self.books["billed"] += 1
        self.books["prompt_tokens"] += prompt
        self.books["completion_tokens"] += tokens
        cached = min(options.cached, prompt)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": tokens,
            "total_tokens": prompt + tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        await asyncio.sleep(options.ttft_s)
        about = {"id": f"chatcmpl-{self.served}", "created": int(time.time()), "model": f"{MODEL}-0101"}
        if not asked.get("stream"):
            await asyncio.sleep(options.itl_s * (tokens - 1))
            message = {"role": "assistant", "content": " ".join(["word"] * tokens)}
            choice = {"index": 0, "message": message, "finish_reason": "length"}
            whole = {**about, "object": "chat.completion", "choices": [choice], "usage": usage}
            await send(writer, 200, whole, self.limits())
            return
        await self.stream(writer, asked, about, usage, tokens)

    async def stream(
        self,
        writer: asyncio.StreamWriter,
        asked: dict[str, Any],
        about: dict[str, Any],
        usage: dict[str, Any],
        tokens: int,
    ) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.limits().items())
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n{lines}\r\n"
        writer.write(head.encode())
        about = {**about, "object": "chat.completion.chunk"}

        def event(data: object) -> None:
            text = f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()
            writer.write(b"%x\r\n%b\r\n" % (len(text), text))

        for number in range(tokens):
            if number:
                await asyncio.sleep(self.options.itl_s)
            delta = {"content": "word "} | ({"role": "assistant"} if number == 0 else {})
            event({**about, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            await writer.drain()
        event({**about, "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        if (asked.get("stream_options") or {}).get("include_usage"):
            event({**about, "choices": [], "usage": usage})
        event("[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    def refusal(
        self, asked: dict[str, Any], prompt: int, most: int
    ) -> tuple[int, dict[str, Any], dict[str, str]] | None:
        options = self.options
        if asked["model"] != MODEL:
            text = f"The model `{asked['model']}` does not exist or you do not have access to it."
            return 404, error(text, "invalid_request_error", "model_not_found"), {}
        if options.new_length_name and "max_tokens" in asked:
            text = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
            return 400, error(text, "invalid_request_error", "unsupported_parameter", "max_tokens"), {}
        if prompt + most > options.context:
            text = f"This model's maximum context length is {options.context} tokens."
            return 400, error(text, "invalid_request_error", "context_length_exceeded", "messages"), {}
        if options.no_credit:
            text = "You exceeded your current quota, please check your plan and billing details."
            return 429, error(text, "insufficient_quota", "insufficient_quota"), {}
        if options.fault and self.books["seen"] > options.good_first and (self.books["seen"] % options.every == 0):
            text = {429: "Slow down.", 500: "The server had an error.", 503: "The engine is currently overloaded."}
            told = {"retry-after": f"{options.retry_after:g}"} if options.retry_after else {}
            return options.fault, error(text[options.fault], "server_error", None), told
        for what, bucket, amount in (("requests", self.requests, 1), ("tokens", self.tokens, prompt + most)):
            wait_s = bucket.wait_s(amount)
            if wait_s:
                after_s = options.retry_after or wait_s
                text = f"Rate limit reached for {MODEL} on {what} per min: Limit {bucket.per_min}."
                told = {"retry-after": f"{max(1, round(after_s))}", "retry-after-ms": f"{round(after_s * 1000)}"}
                return 429, error(text, what, "rate_limit_exceeded"), told
        return None

    def limits(self) -> dict[str, str]:
        said = {}
        for what, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            left = max(0.0, bucket.left)
            said[f"x-ratelimit-limit-{what}"] = str(bucket.per_min)
            said[f"x-ratelimit-remaining-{what}"] = str(int(left))
            said[f"x-ratelimit-reset-{what}"] = f"{round((bucket.per_min - left) * 60_000 / bucket.per_min)}ms"
        return said


def error(text: str, kind: str, code: str | None, parameter: str | None = None) -> dict[str, Any]:
    return {"error": {"message": text, "type": kind, "param": parameter, "code": code}}


async def send(
    writer: asyncio.StreamWriter, status: int, body: dict[str, Any], more: dict[str, str] | None = None
) -> None:
    data = json.dumps(body).encode()
    lines = "".join(f"{name}: {value}\r\n" for name, value in (more or {}).items())
    head = f"HTTP/1.1 {status} Told\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n{lines}\r\n"
    writer.write(head.encode() + data)
    await writer.drain()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    made.add_argument("--key", default="sk-right-key-0123456789")
    made.add_argument("--rpm", type=int, default=1_000_000)
    made.add_argument("--tpm", type=int, default=1_000_000_000)
    made.add_argument("--burst-s", type=float, default=60.0, help="seconds of a limit that may be used at once")
    made.add_argument("--retry-after", type=float, default=0.0, help="say this instead of the true wait")
    made.add_argument("--ttft-s", type=float, default=0.02)
    made.add_argument("--itl-s", type=float, default=0.001)
    made.add_argument("--tokens", type=int, default=0, help="of an answer; 0: all that were asked for")
    made.add_argument("--cached", type=int, default=0, help="prompt tokens said to come from the cache")
    made.add_argument("--context", type=int, default=8192)
    made.add_argument("--no-credit", action="store_true")
    made.add_argument("--new-length-name", action="store_true")
    made.add_argument("--fault", type=int, default=0, choices=(0, 429, 500, 503))
    made.add_argument("--every", type=int, default=1)
    made.add_argument("--good-first", type=int, default=0)
    made.add_argument("--tls", action="store_true")
    return made


async def listen(options: argparse.Namespace, api: type[Api] = Api) -> None:
    context = None
    if options.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTS / "test_only_server.pem", CERTS / "test_only_server.key")
    server = await asyncio.start_server(api(options).serve, "127.0.0.1", 0, ssl=context, backlog=1024)
    print(json.dumps({"ready": True, "port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(listen(parser().parse_args()))
    except KeyboardInterrupt:
        sys.exit(0)
