"""Triton's generate extension over HTTP: ``/v2/models/{model}/generate_stream``.

The stream has no end mark but the end of its HTTP body. Names and texts are :mod:`triton_fields`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from harness.clients.base import Reply
from harness.clients.exchange import find_error
from harness.clients.streaming import StreamingClient
from harness.clients.triton_fields import (
    FORCED_LENGTH,
    TEXT_OUTPUT,
    fields_of,
    fill_reason,
    fill_texts,
    first_text,
)
from harness.records import Outcome, Prompt
from harness.sse import Events


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
        body = fields_of(prompt, stream=self.target.stream)
        self.merge(body, prompt, FORCED_LENGTH)
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
            texts.append(first_text(answer.text_output))
            fill_reason(reply, first_text(answer.finish_reason))
        fill_texts(reply, texts, times)
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
        reply.text = first_text(answer.text_output)
        fill_reason(reply, first_text(answer.finish_reason))
