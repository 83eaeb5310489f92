"""Triton's generate extension over HTTP: ``/v2/models/{model}/generate_stream``.

Triton's chat template is the prompt's own: messages become role-tagged plain text. The stream has no end mark
but the end of its HTTP body, and no usage: tokens are counted by chunks. A model answers with
deltas, or (TensorRT-LLM's LLM API model) with all text so far in every event; both are understood.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import msgspec

from harness.clients.base import OUTPUT_TOKENS, Reply
from harness.clients.exchange import fill_tokens, find_error
from harness.clients.streaming import StreamingClient
from harness.records import Message, Outcome, Prompt
from harness.sse import Events

# Tensor names of TensorRT-LLM's ``tensorrt_llm`` model (LLM API) and of the stand-ins for it ...
TEXT_INPUT = "text_input"  # BYTES
STREAMING = "streaming"  # BOOL
MAX_TOKENS = "sampling_param_max_tokens"  # INT32
TEMPERATURE = "sampling_param_temperature"  # FP32
WITHOUT_PROMPT = "sampling_param_exclude_input_from_output"  # BOOL
WANT_FINISH_REASON = "return_finish_reason"  # BOOL
TEXT_OUTPUT = "text_output"  # BYTES
# ... and of Triton's vLLM backend. Triton makes a request parameter of a name that no tensor has.
VLLM_STREAM = "stream"
VLLM_MAX_TOKENS = "max_tokens"


class _Answer(msgspec.Struct, gc=False):
    text_output: Any = None
    finish_reason: Any = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Answer)


class TritonGenerate(StreamingClient):
    """One user of ``generate_stream``, or of ``generate`` without streaming."""

    def path(self) -> str:
        verb = "generate_stream" if self.target.stream else "generate"
        return f"{self.target.path}/v2/models/{quote(self.target.model, safe='')}/{verb}"

    def body(self, prompt: Prompt) -> dict[str, Any]:
        body: dict[str, Any] = {
            TEXT_INPUT: plain_text(prompt.messages),
            STREAMING: self.target.stream,
            VLLM_STREAM: self.target.stream,
            MAX_TOKENS: prompt.output_tokens,
            VLLM_MAX_TOKENS: prompt.output_tokens,
            TEMPERATURE: 0.0,
            WITHOUT_PROMPT: True,
            WANT_FINISH_REASON: True,
        }
        self.merge(body, prompt, {"ignore_eos": True, "min_tokens": OUTPUT_TOKENS})
        return body

    def read_events(self, reply: Reply, events: Events, times: Sequence[float], whole: bool) -> None:
        texts: list[str] = []
        error = ""
        for number, payload in enumerate(events.data, 1):
            try:
                answer = _decoder.decode(payload)
            except (msgspec.MsgspecError, UnicodeDecodeError) as failure:
                reply.outcome = Outcome.MALFORMED
                reply.error = f"event {number} is no answer: {failure}"
                break
            if answer.error:
                error = find_error(payload) or "an error without a text"
                break
            texts.append(_first_text(answer.text_output))
            reason = _first_text(answer.finish_reason)
            if reason not in ("", "None"):  # the model sends Python's None as text until the last event
                reply.finish_reason = reason
        deltas = as_deltas(texts)
        fill_tokens(reply, [t for text, t in zip(deltas, times, strict=False) if text])
        reply.text = "".join(deltas)
        if error:
            reply.outcome, reply.error = Outcome.HTTP_ERROR, error
        elif reply.outcome is Outcome.OK and not (whole and texts):
            reply.outcome = Outcome.TRUNCATED
            reply.error = "the stream was cut off" if texts else "the stream held no answer"

    def read_body(self, reply: Reply, data: bytes) -> None:
        try:
            answer = _decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            reply.outcome, reply.error = Outcome.MALFORMED, f"not an answer: {error}"
            return
        if answer.text_output is None:
            reply.outcome, reply.error = Outcome.MALFORMED, f"the answer has no {TEXT_OUTPUT}"
            return
        reply.text = _first_text(answer.text_output)
        reply.finish_reason = _first_text(answer.finish_reason)


def plain_text(messages: tuple[Message, ...]) -> str:
    """Write messages as one prompt; a lone user message stays as it is."""
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].content
    lines = [f"{message.role.capitalize()}: {message.content}" for message in messages]
    return "\n".join([*lines, "Assistant:"])


def as_deltas(texts: list[str]) -> list[str]:
    """Give what each text adds, whether they were deltas or each held all before it."""
    if len(texts) < 2 or len(texts[-1]) <= len(texts[0]):
        return texts
    if not all(after.startswith(before) for before, after in pairwise(texts)):
        return texts
    starts = [0, *map(len, texts)]
    return [text[start:] for start, text in zip(starts, texts, strict=False)]


def _first_text(value: Any) -> str:
    # one output per beam: a model with several answers with a list
    if isinstance(value, list):
        value = value[0] if value else ""
    return value if isinstance(value, str) else ""
