"""The truth log: what the server did, when it planned to and when it did it. JSON lines.

The first line is ``{"anchor": {...}}`` with one wall-clock and one monotonic time of the same moment; every further
line is one request. ``received_s`` and ``end_s`` are ``CLOCK_MONOTONIC`` seconds; ``planned_us`` and ``sent_us`` hold
one offset from ``received_s`` per token, in microseconds. Clocks of one host compare across its processes.
"""

from __future__ import annotations

import os
import time
from array import array
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

FLUSH_S = 0.02
"""Between two calls of :meth:`TruthLog.work`."""
WORK_S = 0.001
"""Time that one call may take: a thousand answers that end together must not delay the tokens of others."""
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True, eq=False)
class TruthRecord:
    """One request, while it is being answered. Times are monotonic seconds."""

    request_id: str
    number: int
    path: str
    received_s: float
    prompt_tokens: int = 0
    asked_tokens: int = 0
    output_tokens: int = 0
    replica: int = 0
    batch: int = 0
    """Requests on the same replica when this one arrived, itself included."""
    fault: str = ""
    outcome: str = "in_flight"
    status: int = 0
    planned: array[float] = field(default_factory=lambda: array("d"))
    sent: array[float] = field(default_factory=lambda: array("d"))
    end_s: float | None = None

    def as_json(self) -> dict[str, Any]:
        received = self.received_s
        return {
            "request_id": self.request_id,
            "number": self.number,
            "path": self.path,
            "received_s": received,
            "prompt_tokens": self.prompt_tokens,
            "asked_tokens": self.asked_tokens,
            "output_tokens": self.output_tokens,
            "replica": self.replica,
            "batch": self.batch,
            "fault": self.fault,
            "outcome": self.outcome,
            "status": self.status,
            "planned_us": _offsets_us(self.planned, received),
            "sent_us": _offsets_us(self.sent, received),
            "end_s": self.end_s,
        }


def _offsets_us(moments: array[float], start_s: float) -> list[int]:
    offsets: list[int] = np.rint((np.frombuffer(moments) - start_s) * 1e6).astype(np.int64).tolist()
    return offsets


class TruthLog:
    """Takes records at once, writes them by and by: :meth:`work` is called by time, :meth:`close` writes the rest."""

    def __init__(self, path: Path | None, about: dict[str, Any]) -> None:
        self._file: IO[bytes] | None = None
        self._waiting: deque[TruthRecord] = deque()
        if path is not None:
            self._file = path.open("wb", buffering=0)
            anchor = {"wall_s": time.time(), "monotonic_s": time.monotonic(), "pid": os.getpid()}
            self._file.write(_encode({"anchor": anchor | about}) + b"\n")

    def write(self, record: TruthRecord) -> None:
        """Take a finished record, which must not change any more."""
        if self._file is not None:
            self._waiting.append(record)

    def work(self, limit_s: float = WORK_S) -> None:
        """Write waiting records for about ``limit_s``."""
        if self._file is None or not self._waiting:
            return
        until = time.monotonic() + limit_s
        lines = []
        while self._waiting and time.monotonic() < until:
            lines.append(_encode(self._waiting.popleft().as_json()) + b"\n")
        self._file.write(b"".join(lines))

    def close(self) -> None:
        self.work(float("inf"))
        if self._file is not None:
            self._file.close()
            self._file = None
