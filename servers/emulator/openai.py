"""The OpenAI chat completions protocol, as vLLM speaks it."""

from __future__ import annotations

import time
from typing import Any

from servers.emulator.wire import (
    DEFAULT_TOKENS,
    LAST_CHUNK,
    STREAM_HEAD,
    TEMPLATE_TOKENS,
    TOKENS,
    WORDS,
    Ask,
    WireError,
    dump,
    estimate_tokens,
    event,
    response,
    whole_number,
    whole_text,
)

ERROR_TYPES = {
    400: "BadRequestError",
    404: "NotFoundError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}


def parse(body: dict[str, Any], model: str) -> Ask:
    """Read a chat completion request.

    Raises
    ------
    WireError
        400 for a malformed request, 404 for a model that is not served here.
    """
    asked = body.get("model")
    if asked != model:
        raise WireError(404, f"The model `{asked}` does not exist; this server has `{model}`.", "model_not_found")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise WireError(400, "messages must be a list of at least one message")
    texts = [_content(message) for message in messages]
    prompt_tokens = sum(TEMPLATE_TOKENS + estimate_tokens(text) for text in texts)
    options = body.get("stream_options") or {}
    max_tokens = whole_number(body, ("max_completion_tokens", "max_tokens"), DEFAULT_TOKENS)
    min_tokens = whole_number(body, ("min_tokens",), 0, least=0)
    if min_tokens > max_tokens:
        raise WireError(400, f"min_tokens {min_tokens} is above max_tokens {max_tokens}")
    return Ask(
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        ignore_eos=body.get("ignore_eos") is True,
        stream=body.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        prompt="\0".join(texts),
    )


def _content(message: object) -> str:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise WireError(400, "each message is an object with a role and a content")
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        return "".join(part for part in parts if isinstance(part, str))
    raise WireError(400, "a message's content is a text or a list of text parts")


class ChatFormat:
    """The bytes of one chat completion."""

    def __init__(self, ask: Ask, model: str, number: int) -> None:
        self._ask = ask
        self._model = model
        self._id = f"chatcmpl-emulated-{number:08d}"
        self._created = int(time.time())
        about = {"id": self._id, "object": "chat.completion.chunk", "created": self._created, "model": model}
        self._start = dump(about)[:-1]
        self._tokens = [event(self._start + end) for end in _TOKEN_ENDS] if ask.stream else []

    def head(self) -> bytes:
        return STREAM_HEAD + self._choice(b'{"role":"assistant","content":""}', b"null")

    def token(self, index: int) -> bytes:
        return self._tokens[0 if index == 0 else 1 + (index - 1) % len(WORDS)]

    def tail(self, tokens: int, finish_reason: str) -> bytes:
        end = self._choice(b"{}", b'"%b"' % finish_reason.encode())
        if self._ask.include_usage:
            end += event(self._start + b',"choices":[],"usage":%b}' % dump(self._usage(tokens)))
        return end + event(b"[DONE]") + LAST_CHUNK

    def whole(self, tokens: int, finish_reason: str) -> bytes:
        message = {"role": "assistant", "content": whole_text(tokens)}
        body = {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}],
            "usage": self._usage(tokens),
        }
        return response(200, dump(body))

    def _choice(self, delta: bytes, finish_reason: bytes) -> bytes:
        choice = b',"choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]}' % (delta, finish_reason)
        return event(self._start + choice)

    def _usage(self, tokens: int) -> dict[str, Any]:
        usage: dict[str, Any] = {
            "prompt_tokens": self._ask.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self._ask.prompt_tokens + tokens,
        }
        if self._ask.cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self._ask.cached_tokens}
        return usage


_TOKEN_ENDS = tuple(
    b',"choices":[{"index":0,"delta":{"content":%b},"logprobs":null,"finish_reason":null}]}' % dump(text)
    for text in TOKENS
)


def error(wrong: WireError) -> bytes:
    """Render the error body of an OpenAI server."""
    kind = ERROR_TYPES.get(wrong.status, "Error")
    body = {"error": {"message": wrong.message, "type": kind, "param": None, "code": wrong.code or wrong.status}}
    headers = () if wrong.retry_after_s is None else (("Retry-After", f"{wrong.retry_after_s:g}"),)
    return response(wrong.status, dump(body), headers=headers)


def models(model: str, started_s: float) -> bytes:
    card = {"id": model, "object": "model", "created": int(started_s), "owned_by": "emulator"}
    return response(200, dump({"object": "list", "data": [card]}))
