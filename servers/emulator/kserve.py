"""The KServe generate extension, as Triton speaks it: ``/v2/models/NAME/generate`` and ``generate_stream``.

Inputs carry TensorRT-LLM's names (``text_input``, ``sampling_param_max_tokens``), with the older ``max_tokens``
beside them. A stream has no ``[DONE]``: it ends with its body.
"""

from __future__ import annotations

from typing import Any

from servers.emulator.wire import (
    DEFAULT_TOKENS,
    LAST_CHUNK,
    STREAM_HEAD,
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

MAX_TOKENS = ("sampling_param_max_tokens", "max_tokens", "request_output_len")
MIN_TOKENS = ("sampling_param_min_tokens", "min_tokens")
IGNORE_EOS = ("sampling_param_ignore_eos", "ignore_eos")


def parse(body: dict[str, Any], *, stream: bool) -> Ask:
    """Read a generate request; parameters stand beside the text or in ``parameters``.

    Raises
    ------
    WireError
        400 for a malformed request.
    """
    text = body.get("text_input")
    if not isinstance(text, str):
        raise WireError(400, "text_input must be a text")
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise WireError(400, "parameters must be an object")
    values = parameters | body
    max_tokens = whole_number(values, MAX_TOKENS, DEFAULT_TOKENS)
    return Ask(
        prompt_tokens=estimate_tokens(text),
        max_tokens=max_tokens,
        min_tokens=min(max_tokens, whole_number(values, MIN_TOKENS, 0, least=0)),
        ignore_eos=any(values.get(name) is True for name in IGNORE_EOS),
        stream=stream,
        include_usage=False,
    )


class GenerateFormat:
    """The bytes of one generate answer."""

    def __init__(self, model: str) -> None:
        self._fixed = {"model_name": model, "model_version": "1"}
        start = dump(self._fixed)[:-1]
        self._tokens = [event(start + end) for end in _TOKEN_ENDS]

    def head(self) -> bytes:
        return STREAM_HEAD

    def token(self, index: int) -> bytes:
        return self._tokens[0 if index == 0 else 1 + (index - 1) % len(WORDS)]

    def tail(self, tokens: int, finish_reason: str) -> bytes:  # noqa: ARG002
        return LAST_CHUNK

    def whole(self, tokens: int, finish_reason: str) -> bytes:  # noqa: ARG002
        return response(200, dump(self._fixed | {"text_output": whole_text(tokens)}))


_TOKEN_ENDS = tuple(b',"text_output":%b}' % dump(text) for text in TOKENS)


def error(wrong: WireError) -> bytes:
    """Render Triton's error body."""
    headers = () if wrong.retry_after_s is None else (("Retry-After", f"{wrong.retry_after_s:g}"),)
    return response(wrong.status, dump({"error": wrong.message}), headers=headers)


def model_metadata(model: str) -> bytes:
    body = {
        "name": model,
        "versions": ["1"],
        "platform": "emulator",
        "inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1]}],
        "outputs": [{"name": "text_output", "datatype": "BYTES", "shape": [1]}],
    }
    return response(200, dump(body))
