"""Collects samples in columns, without a Python object per row, and turns them into Arrow batches."""

from __future__ import annotations

from array import array
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa

from harness.clients import Reply
from harness.records import Message, Prompt, request_id
from harness.runlog import SCHEMA

_FLOATS = ("scheduled_s", "sent_s", "first_byte_s", "first_token_s", "last_token_s", "end_s", "retry_s")
_INTEGERS = (
    "user",
    "sequence",
    "prompt_tokens",
    "output_tokens",
    "requested_tokens",
    "chunks",
    "http_status",
    "retries",
    "cached_tokens",
)
_TEXTS = ("prompt_id", "token_source", "outcome", "finish_reason", "error")


class Recorder:
    """The samples of one worker process since the last flush.

    ``output_share`` of the answers' texts is kept. Whose is fixed by ``seed`` and the request's own name, before it is
    sent: no outcome, and no order in which answers come, can change it.
    """

    def __init__(self, run: str, worker: int, region: str, scenario: str, output_share: float, seed: str) -> None:
        self.sent = 0
        self._run, self._worker = run, worker
        self._constant = {"run": run, "worker": worker, "region": region, "scenario": scenario}
        self._share = output_share
        self._seed = seed
        self._reset()

    def _reset(self) -> None:
        self._floats = {name: array("d") for name in _FLOATS}
        self._integers = {name: array("i") for name in _INTEGERS}
        self._texts: dict[str, list[str]] = {name: [] for name in _TEXTS}
        self._bytes = array("q")
        self._gaps = array("I")
        self._gap_ends = array("i", [0])
        self._outputs: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._bytes)

    def add(self, user: int, sequence: int, prompt: Prompt, scheduled_s: float, reply: Reply) -> None:
        """Record one request, ended or given up."""
        floats, integers, texts = self._floats, self._integers, self._texts
        floats["scheduled_s"].append(scheduled_s)
        floats["sent_s"].append(reply.sent_s)
        floats["first_byte_s"].append(reply.first_byte_s)
        floats["first_token_s"].append(reply.first_token_s)
        floats["last_token_s"].append(reply.last_token_s)
        floats["end_s"].append(reply.end_s)
        floats["retry_s"].append(reply.retry_s)
        integers["user"].append(user)
        integers["sequence"].append(sequence)
        integers["prompt_tokens"].append(reply.prompt_tokens)
        integers["output_tokens"].append(reply.output_tokens)
        integers["requested_tokens"].append(prompt.output_tokens)
        integers["chunks"].append(reply.chunks)
        integers["http_status"].append(reply.http_status)
        integers["retries"].append(reply.retries)
        integers["cached_tokens"].append(reply.cached_tokens)
        texts["prompt_id"].append(prompt.prompt_id)
        texts["token_source"].append(reply.token_source)
        texts["outcome"].append(reply.outcome)
        texts["finish_reason"].append(reply.finish_reason)
        texts["error"].append(reply.error)
        self._bytes.append(reply.bytes)
        self._gaps.extend(reply.gaps_us)
        self._gap_ends.append(len(self._gaps))
        if drawn(self._seed, user, sequence, self._share):
            self._outputs.append(self._output(user, sequence, prompt, reply))

    def _output(self, user: int, sequence: int, prompt: Prompt, reply: Reply) -> dict[str, Any]:
        return {
            "request": request_id(self._run, self._worker, user, sequence),
            "prompt_id": prompt.prompt_id,
            "prompt": prompt.messages[-1].content,
            "expected": prompt.expected,
            "outcome": str(reply.outcome),
            "finish_reason": reply.finish_reason,
            "text": reply.text,
        }

    def flush(self) -> tuple[pa.RecordBatch, list[dict[str, Any]]] | None:
        """Hand over what was collected since the last flush; None when there is nothing."""
        rows = len(self)
        if rows == 0:
            return None
        columns: dict[str, pa.Array] = {}
        for name, floats in self._floats.items():
            columns[name] = pa.array(np.frombuffer(floats, np.float64))
        for name, integers in self._integers.items():
            columns[name] = pa.array(np.frombuffer(integers, np.int32))
        for name, texts in self._texts.items():
            columns[name] = pa.array(texts, pa.string())
        columns["bytes"] = pa.array(np.frombuffer(self._bytes, np.int64))
        columns["gaps_us"] = pa.ListArray.from_arrays(
            pa.array(np.frombuffer(self._gap_ends, np.int32)), pa.array(np.frombuffer(self._gaps, np.uint32))
        )
        for name, value in self._constant.items():
            columns[name] = pa.repeat(pa.scalar(value, SCHEMA.field(name).type), rows)
        batch = pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)
        outputs = self._outputs
        self.sent += rows
        self._reset()
        return batch, outputs


def drawn(seed: str, user: int, sequence: int, share: float) -> bool:
    """Whether a request's text is kept: a uniform number made of its name alone is under ``share``."""
    name = blake2b(f"{seed}/{user}/{sequence}".encode(), digest_size=8).digest()
    return int.from_bytes(name) < share * 2**64


def warm_up() -> None:
    """Make one batch, before load: the first one of a process stops it for 0.4 s, while pyarrow imports pandas."""
    recorder = Recorder("", 0, "", "", 0.0, "")
    recorder.add(0, 0, Prompt("", (Message("user", ""),), 1), 0.0, Reply(0.0))
    flushed = recorder.flush()
    assert flushed is not None
    from_bytes(to_bytes(flushed[0]))


def to_bytes(batch: pa.RecordBatch) -> bytes:
    """One Arrow IPC stream, for a Locust message."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def from_bytes(data: bytes) -> pa.RecordBatch:
    with pa.ipc.open_stream(data) as reader:
        batch: pa.RecordBatch = reader.read_next_batch()
        return batch
