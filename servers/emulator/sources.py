"""Where the times of tokens come from: constants, a claim, or the physics of a GPU."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from servers.emulator.answer import Answer
from servers.emulator.claims import ClaimModel, Pace, StartGate
from servers.emulator.engine import Engine, Sequence
from servers.emulator.prefix_cache import PrefixCache
from servers.emulator.timeline import Timeline
from servers.emulator.wire import Ask, WireError

STAGGER_S = 0.005
"""What writing one burst of tokens may take; replicas with large batches end their steps at least this far apart."""
BURST = 256
"""Tokens that may fall due within that time."""


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    running: int
    waiting: int
    kv_usage: float


class Source(Protocol):
    def check(self, ask: Ask) -> None:
        """Raise a WireError for a request that can never be served."""

    def recall(self, ask: Ask) -> Ask:
        """Note how much of the prompt need not be computed."""

    def start(self, answer: Answer) -> None:
        """Plan the answer's tokens, from ``answer.record.received_s`` on."""

    def cancel(self, answer: Answer) -> None:
        """Forget an answer before its last token; harmless after it."""

    def loads(self) -> list[ReplicaLoad]:
        """What each replica is doing."""


class _PacedAnswer:
    """Tokens at ``start + ttft + i x gap``: multiples of the gap, so that no error adds up."""

    __slots__ = ("_answer", "_first_s", "_gap_s", "_index", "_timeline")

    def __init__(self, timeline: Timeline, answer: Answer, start_s: float, pace: Pace) -> None:
        self._timeline = timeline
        self._answer = answer
        self._first_s = start_s + pace.ttft_s
        self._gap_s = pace.gap_s
        self._index = 0
        timeline.at(self._first_s, self.fire)

    def fire(self, planned_s: float) -> None:
        answer = self._answer
        if answer.over:
            return
        self._index += 1
        if self._index < answer.output_tokens:
            self._timeline.at(self._first_s + self._index * self._gap_s, self.fire)
        answer.token(planned_s)


class PacedSource:
    """Known times: ``pace`` gives them per answer, ``gate`` may hold starts back."""

    def __init__(self, timeline: Timeline, pace: Callable[[Answer], Pace], gate: StartGate | None = None) -> None:
        self._timeline = timeline
        self._pace = pace
        self._gate = gate
        self._in_flight = 0
        self._waiting = 0

    @classmethod
    def of_claim(cls, timeline: Timeline, model: ClaimModel, seed: int) -> PacedSource:
        def pace(answer: Answer) -> Pace:
            return model.pace(answer.output_tokens, random.Random(f"{seed}/pace/{answer.record.number}"))

        gate = None if model.burst == 0 else StartGate(model.rate_rps, model.burst)
        return cls(timeline, pace, gate)

    def check(self, ask: Ask) -> None:
        """Everything fits."""

    def recall(self, ask: Ask) -> Ask:
        return ask

    def start(self, answer: Answer) -> None:
        self._in_flight += 1
        answer.record.batch = self._in_flight
        received_s = answer.record.received_s
        start_s = received_s if self._gate is None else self._gate.start_s(received_s)
        if start_s > received_s:
            self._waiting += 1
            self._timeline.at(start_s, self._stop_waiting)
        _PacedAnswer(self._timeline, answer, start_s, self._pace(answer))

    def cancel(self, answer: Answer) -> None:  # noqa: ARG002
        self._in_flight -= 1

    def loads(self) -> list[ReplicaLoad]:
        waiting = min(self._waiting, self._in_flight)
        return [ReplicaLoad(self._in_flight - waiting, waiting, 0.0)]

    def _stop_waiting(self, planned_s: float) -> None:  # noqa: ARG002
        self._waiting -= 1


class EngineSource:
    """Replicas of a continuous-batching engine, each request to the one with the fewest requests.

    Real replicas write their tokens at the same time, one process cannot: a step that would bring the tokens due
    within :data:`STAGGER_S` above :data:`BURST` ends a little later. Replicas in step do that once and then stay
    apart; small batches never do.
    """

    def __init__(self, timeline: Timeline, engines: list[Engine], prefix_cache: PrefixCache | None = None) -> None:
        self._timeline = timeline
        self._engines = engines
        self._prefix_cache = prefix_cache
        self._answers: dict[Sequence, Answer] = {}
        self._next = 0
        self._due: dict[Engine, tuple[float, int]] = {}

    def check(self, ask: Ask) -> None:
        tokens = ask.prompt_tokens + ask.max_tokens
        capacity = self._engines[0].kv_capacity_tokens
        if not self._engines[0].admits(tokens):
            raise WireError(
                500,
                f"out of memory: a request of {ask.prompt_tokens} + {ask.max_tokens} tokens needs more KV cache than "
                f"the {capacity} tokens that fit beside the weights",
                "out_of_memory",
            )

    def recall(self, ask: Ask) -> Ask:
        if self._prefix_cache is None:
            return ask
        return replace(ask, cached_tokens=min(self._prefix_cache.recall(ask.prompt), ask.prompt_tokens))

    def start(self, answer: Answer) -> None:
        index = self._least_loaded()
        engine = self._engines[index]
        record = answer.record
        tokens = answer.ask.prompt_tokens + answer.ask.max_tokens
        # The last token is computed in any case: the first one of the answer comes from it.
        known = min(answer.ask.cached_tokens or 0, answer.ask.prompt_tokens - 1)
        sequence = Sequence(answer.ask.prompt_tokens, answer.output_tokens, tokens, record.received_s, prefilled=known)
        answer.source_state = (engine, sequence)
        self._answers[sequence] = answer
        engine.submit(sequence)
        record.replica = index
        record.batch = engine.in_flight
        if not engine.stepping:
            self._step(engine, record.received_s)

    def cancel(self, answer: Answer) -> None:
        state = answer.source_state
        if isinstance(state, tuple):
            engine, sequence = state
            if self._answers.pop(sequence, None) is not None and not sequence.done:
                engine.cancel(sequence)

    def loads(self) -> list[ReplicaLoad]:
        return [ReplicaLoad(len(engine.running), len(engine.waiting), engine.kv_usage) for engine in self._engines]

    def _least_loaded(self) -> int:
        """Ties go round, or the first replica would get every request of a quiet hour."""
        count = len(self._engines)
        order = [(self._next + offset) % count for offset in range(count)]
        index = min(order, key=lambda candidate: self._engines[candidate].in_flight)
        self._next = (index + 1) % count
        return index

    def _step(self, engine: Engine, now_s: float) -> None:
        end_s = engine.begin(now_s)
        if end_s is None and engine.waiting:
            # We run late: the next request arrived after the planned end of the last step, on an idle engine.
            end_s = engine.begin(max(now_s, engine.waiting[0].arrived_s))
        if end_s is None:
            self._due.pop(engine, None)
            return
        end_s = self._staggered(engine, end_s)
        self._due[engine] = (end_s, len(engine.running))

        def finish(planned_s: float) -> None:
            emitted = engine.finish()
            self._step(engine, planned_s)
            for sequence in emitted:
                answer = self._answers.get(sequence)
                if answer is not None:
                    answer.token(planned_s)

        self._timeline.at(end_s, finish)

    def _staggered(self, engine: Engine, end_s: float) -> float:
        others = sorted(due for other, due in self._due.items() if other is not engine)
        tokens = len(engine.running)
        for due_s, due_tokens in others:
            if abs(due_s - end_s) < STAGGER_S and tokens + due_tokens > BURST:
                end_s = due_s + STAGGER_S
        return end_s
