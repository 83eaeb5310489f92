"""What goes to a Triton model and what comes back, the same over HTTP and gRPC.

Triton's chat template is the prompt's own: messages become role-tagged plain text. There is no usage: tokens
are counted by chunks. A model answers with deltas, or (TensorRT-LLM's LLM API model) with all text so far in
every response; both are understood.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from harness.clients.base import OUTPUT_TOKENS, Reply
from harness.clients.exchange import fill_tokens
from harness.records import Message, Prompt

# Tensor names of TensorRT-LLM's ``tensorrt_llm`` model (LLM API) and of the stand-ins for it ...
TEXT_INPUT = "text_input"
STREAMING = "streaming"
MAX_TOKENS = "sampling_param_max_tokens"
TEMPERATURE = "sampling_param_temperature"
SEED = "sampling_param_seed"
WITHOUT_PROMPT = "sampling_param_exclude_input_from_output"
WANT_FINISH_REASON = "return_finish_reason"
TEXT_OUTPUT = "text_output"
FINISH_REASON = "finish_reason"
# ... and of Triton's vLLM backend. Triton makes a request parameter of a name that no tensor has.
VLLM_STREAM = "stream"
VLLM_MAX_TOKENS = "max_tokens"

TENSORS = {
    TEXT_INPUT: "BYTES",
    STREAMING: "BOOL",
    MAX_TOKENS: "INT32",
    TEMPERATURE: "FP32",
    SEED: "UINT64",
    WITHOUT_PROMPT: "BOOL",
    WANT_FINISH_REASON: "BOOL",
}
"""Datatypes of the inputs. Over HTTP Triton looks them up itself; gRPC has to state them."""
SAMPLING = "sampling_param_"
"""TensorRT-LLM's other inputs begin so; any field of ``extra_body`` that does is a tensor, too."""

FORCED_LENGTH = {"ignore_eos": True, "min_tokens": OUTPUT_TOKENS}


def fields_of(prompt: Prompt, *, stream: bool) -> dict[str, Any]:
    """Every field of a request, before a target's own."""
    return {
        TEXT_INPUT: plain_text(prompt.messages),
        STREAMING: stream,
        VLLM_STREAM: stream,
        MAX_TOKENS: prompt.output_tokens,
        VLLM_MAX_TOKENS: prompt.output_tokens,
        TEMPERATURE: 0.0,
        WITHOUT_PROMPT: True,
        WANT_FINISH_REASON: True,
    }


def fill_texts(reply: Reply, texts: list[str], times: Sequence[float]) -> None:
    """Set text and token times from each response's text and arrival; an empty one is no token."""
    deltas = as_deltas(texts)
    fill_tokens(reply, [moment for text, moment in zip(deltas, times, strict=False) if text])
    reply.text = "".join(deltas)


def fill_reason(reply: Reply, reason: str) -> None:
    if reason not in ("", "None"):  # the model sends Python's None as text until the last response
        reply.finish_reason = reason


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


def first_text(value: Any) -> str:
    # one output per beam: a model with several answers with a list
    if isinstance(value, list):
        value = value[0] if value else ""
    return value if isinstance(value, str) else ""
