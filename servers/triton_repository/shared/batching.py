"""Static batches of streamed answers: what the models of this repository share, without Triton.

It is copied beside each ``model.py`` and runs in Triton's Python, so it imports nothing but the standard library.

A static batch starts together and ends together: a request that comes meanwhile waits for its end. A row whose answer
has ended is no longer heard, and the batch is over with its last row.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Sampling:
    """How one answer's tokens are chosen."""

    max_tokens: int
    temperature: float = 0.0
    """0: always the most likely token."""
    seed: int | None = None
    top_k: int = 0
    """0: all tokens."""
    top_p: float = 1.0
    ignore_eos: bool = False
    """Go on to ``max_tokens``, for answers of an exact length."""

    @property
    def greedy(self) -> bool:
        return self.temperature <= 0

    def may_join(self, other: Sampling) -> bool:
        """Whether one batch can hold both: its settings are for all rows, and a seed holds only for a row alone."""
        if self.ignore_eos != other.ignore_eos or self.greedy != other.greedy:
            return False
        if self.greedy:
            return True
        alike = (self.temperature, self.top_k, self.top_p) == (other.temperature, other.top_k, other.top_p)
        return alike and self.seed is None and other.seed is None


@dataclass
class Times:
    """On this process's monotonic clock, nanoseconds; 0: not yet."""

    arrival_ns: int = field(default_factory=time.monotonic_ns)
    first_scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0


class Sender(Protocol):
    """The way back to one client."""

    def send(self, text: str, reason: str, times: Times) -> None:
        """Send what was added; ``reason`` is empty until the last time."""

    def fail(self, why: str) -> None:
        """End with an error."""

    def is_cancelled(self) -> bool:
        """Whether the client has gone."""


class Answer:
    """One request's answer, from its arrival to its last token; used by one thread at a time."""

    def __init__(self, text: str, sampling: Sampling, sender: Sender, *, streaming: bool = True) -> None:
        self.text = text
        self.sampling = sampling
        self.times = Times()
        self.ended = False
        self.tokens = 0
        self._sender = sender
        self._streaming = streaming
        self._unsent = ""

    def add(self, piece: str) -> None:
        """Add one token's text, which may be empty: half a character waits for its other half."""
        if self.ended:
            return
        self.tokens += 1
        self.times.last_token_ns = time.monotonic_ns()
        self.times.first_token_ns = self.times.first_token_ns or self.times.last_token_ns
        self._unsent += piece
        if self.tokens >= self.sampling.max_tokens:
            self._end("length")
        elif self._sender.is_cancelled():
            self.fail("the client has gone")
        elif self._streaming and self._unsent:
            self._sender.send(self._unsent, "", self.times)
            self._unsent = ""

    def stop(self) -> None:
        """End it: the model has said all."""
        if not self.ended:
            self._end("stop")

    def fail(self, why: str) -> None:
        if not self.ended:
            self.ended = True
            self._sender.fail(why)

    def _end(self, reason: str) -> None:
        self.ended = True
        self._sender.send(self._unsent, reason, self.times)


Run = Callable[[list[Answer]], None]
"""Answers a batch: every answer has ended when it returns."""


def take_batch(waiting: deque[Answer], largest: int) -> list[Answer]:
    """Take the first that waits, and in their order those that may join it."""
    taken = [waiting.popleft()]
    others: list[Answer] = []
    while waiting and len(taken) < largest:
        answer = waiting.popleft()
        (taken if taken[0].sampling.may_join(answer.sampling) else others).append(answer)
    waiting.extendleft(reversed(others))
    return taken


class Batches:
    """Runs what waits, one batch after another, in the thread that made the engine: no other may use it."""

    def __init__(self, make: Callable[[], Run], largest: int) -> None:
        self._make = make
        self._largest = largest
        self._waiting: deque[Answer] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._made = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def open(self) -> None:
        """Make the engine and wait until it is there; its own error is raised here."""
        self._thread.start()
        self._made.wait()
        if self._error is not None:
            raise self._error

    def put(self, answer: Answer) -> None:
        with self._changed:
            self._waiting.append(answer)
            self._changed.notify()

    def close(self) -> None:
        """Refuse what waits and let the batch that runs come to its end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        try:
            run = self._make()
        except Exception as error:  # whatever it is, it belongs to who waits in open()
            self._error = error
            return
        finally:
            self._made.set()
        while batch := self._next():
            now = time.monotonic_ns()
            for answer in batch:
                answer.times.first_scheduled_ns = now
            try:
                run(batch)
                why = "the engine ended without an end of this answer"
            except Exception as error:  # one bad batch must not end the server
                why = f"{type(error).__name__}: {error}"
            for answer in batch:
                answer.fail(why)

    def _next(self) -> list[Answer]:
        """The next batch; empty once it is closed."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                while self._waiting:
                    self._waiting.popleft().fail("the server is being stopped")
                return []
            return take_batch(self._waiting, self._largest)
