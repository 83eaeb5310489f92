"""OpenAI's chat completions, as vLLM, llama.cpp, TensorRT-LLM, transformers and the APIs serve it.

What counts as content: ``content``, ``reasoning_content`` or ``reasoning``, ``refusal`` and tool calls,
when not empty. A chunk that only carries the role is no token. The server's usage beats counting chunks,
because one chunk may carry several tokens. A stream ends with ``[DONE]``; without it, with a finish
reason; with neither it was cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from harness.clients.base import OUTPUT_TOKENS, Reply
from harness.clients.exchange import fill_tokens, find_error
from harness.clients.streaming import StreamingClient
from harness.records import Outcome, Prompt, TokenSource
from harness.sse import Events

DONE = b"[DONE]"


class _Text(msgspec.Struct, gc=False):
    """A delta or a message. Content is text, or a list of parts on some servers."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Text | None = None
    message: _Text | None = None
    finish_reason: str | None = None


class _CachedTokens(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _CachedTokens | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Chunk)


class OpenAIChat(StreamingClient):
    """One user of ``/v1/chat/completions``."""

    def path(self) -> str:
        prefix = self.target.path
        if prefix.endswith("/chat/completions"):
            return prefix
        return f"{prefix if prefix.endswith('/v1') else prefix + '/v1'}/chat/completions"

    def body(self, prompt: Prompt) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.target.model,
            "messages": [{"role": m.role, "content": m.content} for m in prompt.messages],
            "max_tokens": prompt.output_tokens,
            "temperature": 0,
            "stream": self.target.stream,
        }
        if self.target.stream:
            body["stream_options"] = {"include_usage": True}
        if "max_completion_tokens" in self.target.extra_body:
            del body["max_tokens"]  # a server that knows the new name refuses both
        self.merge(body, prompt, {"ignore_eos": True, "min_tokens": OUTPUT_TOKENS})
        return body

    def read_events(self, reply: Reply, events: Events, times: Sequence[float], whole: bool) -> None:
        payloads, done = events.data, False
        if payloads and payloads[-1] == DONE:
            payloads, done = payloads[:-1], True
        elif DONE in payloads:
            payloads, done = payloads[: payloads.index(DONE)], True
        chunks, malformed = _decode(payloads)
        token_times: list[float] = []
        texts: list[str] = []
        usage: _Usage | None = None
        finish_reason: str | None = None
        # zip stops at the first malformed event: what came before it still counts
        for chunk, arrived_s in zip(chunks, times, strict=False):
            if chunk.choices:
                for choice in chunk.choices:
                    if choice.finish_reason is not None:
                        finish_reason = choice.finish_reason
                    delta = choice.delta
                    if delta is None:
                        continue
                    if delta.content:
                        texts.append(delta.content)
                        token_times.append(arrived_s)
                    elif delta.reasoning_content or delta.reasoning or delta.refusal or delta.tool_calls:
                        token_times.append(arrived_s)
            if chunk.usage is not None:
                usage = chunk.usage
        fill_tokens(reply, token_times)
        reply.text = _join(texts)
        reply.finish_reason = finish_reason or ""
        _fill_usage(reply, usage)
        error = _stream_error(payloads, chunks, events.names)
        if error:
            reply.outcome, reply.error = Outcome.HTTP_ERROR, error
        elif malformed:
            reply.outcome, reply.error = Outcome.MALFORMED, malformed
        elif not done and finish_reason is None:
            reply.outcome = Outcome.TRUNCATED
            reply.error = f"the stream {'ended' if whole else 'was cut off'} without its end mark"

    def read_body(self, reply: Reply, data: bytes) -> None:
        try:
            answer = _decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            reply.outcome, reply.error = Outcome.MALFORMED, f"not a chat completion: {error}"
            return
        if not answer.choices or answer.choices[0].message is None:
            reply.outcome, reply.error = Outcome.MALFORMED, "the answer has no message"
            return
        reply.text = _join([answer.choices[0].message.content])
        reply.finish_reason = answer.choices[0].finish_reason or ""
        _fill_usage(reply, answer.usage)


def _decode(payloads: list[bytes]) -> tuple[list[_Chunk], str]:
    """Decode in one call when all is well, else one by one up to the first that is not JSON."""
    try:
        chunks = _decoder.decode_lines(b"\n".join(payloads))
        if len(chunks) == len(payloads):
            return chunks, ""
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    chunks = []
    for number, payload in enumerate(payloads, 1):
        try:
            chunks.append(_decoder.decode(payload) if payload else _Chunk())
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return chunks, f"event {number} is no chunk: {error}"
    return chunks, ""


def _stream_error(payloads: list[bytes], chunks: list[_Chunk], names: dict[int, bytes]) -> str:
    for index, chunk in enumerate(chunks):
        if chunk.error:
            return find_error(payloads[index]) or "an error without a text"
        if chunk.choices is None and chunk.usage is None:
            found = find_error(payloads[index])
            if found:
                return found
    for index, name in names.items():
        if name == b"error" and index < len(payloads):
            return find_error(payloads[index]) or payloads[index][:500].decode("utf-8", "replace")
    return ""


def _join(texts: list[Any]) -> str:
    return "".join(text for text in texts if isinstance(text, str))


def _fill_usage(reply: Reply, usage: _Usage | None) -> None:
    if usage is None:
        return
    if usage.prompt_tokens is not None:
        reply.prompt_tokens = usage.prompt_tokens
    if usage.completion_tokens is not None:
        reply.output_tokens = usage.completion_tokens
        reply.token_source = TokenSource.USAGE
    details = usage.prompt_tokens_details
    if details is not None and details.cached_tokens is not None:
        reply.cached_tokens = details.cached_tokens
