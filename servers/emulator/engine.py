"""Continuous batching, step by step and without a clock: callers pass the time in and get the step's end back.

As vLLM does it: first come, first served; prompts are prefilled in chunks of at most a budget of tokens per step,
mixed with the decoding of everybody else; the step that completes a prompt yields its first token; a finished request
leaves at the end of its step. Memory differs: admission reserves prompt + the most tokens the answer may take, so
nothing is ever preempted (vLLM admits more and recomputes).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.roofline import PREFILL_BUDGET

StepTime = Callable[[int, int, int], float]
"""Seconds of a step, of (requests decoding, tokens of KV read, prompt tokens prefilled)."""


@dataclass(slots=True, eq=False)
class Sequence:
    """One request inside an engine. ``reserve_tokens`` of KV are held from admission to its end."""

    prompt_tokens: int
    output_tokens: int
    reserve_tokens: int
    arrived_s: float
    prefilled: int = 0
    produced: int = 0
    admitted_s: float | None = None
    cancelled: bool = False
    _chunk: int = field(default=0, repr=False)

    @property
    def done(self) -> bool:
        return self.produced >= self.output_tokens


class Engine:
    """One replica.

    ``begin`` and ``finish`` alternate. What arrives after a step began waits for the next one.
    """

    def __init__(
        self,
        step_time: StepTime,
        kv_capacity_tokens: int,
        max_batch: int,
        prefill_budget: int = PREFILL_BUDGET,
    ) -> None:
        self._step_time = step_time
        self._capacity = kv_capacity_tokens
        self._max_batch = max_batch
        self._budget = prefill_budget
        self._step_end_s: float | None = None
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.reserved_tokens = 0

    @property
    def kv_capacity_tokens(self) -> int:
        return self._capacity

    @property
    def in_flight(self) -> int:
        return len(self.waiting) + len(self.running)

    @property
    def stepping(self) -> bool:
        return self._step_end_s is not None

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache that is reserved."""
        return self.reserved_tokens / self._capacity if self._capacity else 0.0

    def admits(self, reserve_tokens: int) -> bool:
        """Whether such a request fits into this engine at all."""
        return reserve_tokens <= self._capacity

    def submit(self, sequence: Sequence) -> None:
        """Queue a request; arrivals are in order of time.

        Raises
        ------
        ValueError
            When it could never be admitted: it would block the queue for ever.
        """
        if not self.admits(sequence.reserve_tokens):
            raise ValueError(f"{sequence.reserve_tokens} tokens never fit into {self._capacity}")
        self.waiting.append(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Drop a request; one that runs leaves with the step that is under way."""
        sequence.cancelled = True
        if sequence.admitted_s is None:
            self.waiting.remove(sequence)
        elif not self.stepping:
            self._release()

    def begin(self, now_s: float) -> float | None:
        """Start a step at ``now_s``; return when it ends, None when there is nothing to do."""
        if self._step_end_s is not None:
            raise RuntimeError("a step is under way")
        self._admit(now_s)
        if not self.running:
            return None
        budget = self._budget
        decoding = kv_tokens = prefilling = 0
        for sequence in self.running:
            if sequence.prefilled == sequence.prompt_tokens:
                sequence._chunk = 0
                decoding += 1
                kv_tokens += sequence.prompt_tokens + sequence.produced
            else:
                chunk = min(budget, sequence.prompt_tokens - sequence.prefilled)
                sequence._chunk = chunk
                budget -= chunk
                prefilling += chunk
                kv_tokens += sequence.prefilled if chunk else 0
        self._step_end_s = now_s + self._step_time(decoding, kv_tokens, prefilling)
        return self._step_end_s

    def finish(self) -> list[Sequence]:
        """End the step; return the sequences that got a token by it, ``produced`` already counted."""
        if self._step_end_s is None:
            raise RuntimeError("no step is under way")
        self._step_end_s = None
        emitted = []
        leaving = False
        for sequence in self.running:
            if sequence.cancelled:
                leaving = True
                continue
            if sequence.prefilled < sequence.prompt_tokens:
                sequence.prefilled += sequence._chunk
                if sequence.prefilled < sequence.prompt_tokens:
                    continue
            sequence.produced += 1
            leaving = leaving or sequence.done
            emitted.append(sequence)
        if leaving:
            self._release()
        return emitted

    def _admit(self, now_s: float) -> None:
        while self.waiting and len(self.running) < self._max_batch:
            sequence = self.waiting[0]
            if sequence.arrived_s > now_s or self.reserved_tokens + sequence.reserve_tokens > self._capacity:
                return  # first come, first served: nobody overtakes
            self.waiting.popleft()
            sequence.admitted_s = now_s
            self.reserved_tokens += sequence.reserve_tokens
            self.running.append(sequence)

    def _release(self) -> None:
        gone = [sequence for sequence in self.running if sequence.done or sequence.cancelled]
        self.running = [sequence for sequence in self.running if not (sequence.done or sequence.cancelled)]
        self.reserved_tokens -= sum(sequence.reserve_tokens for sequence in gone)
