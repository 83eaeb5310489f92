"""Sources of token times on a timeline that a test moves by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import cast

import pytest

from servers.emulator import kserve
from servers.emulator.answer import Answer
from servers.emulator.claims import Pace, StartGate
from servers.emulator.engine import Engine
from servers.emulator.sources import BURST, STAGGER_S, EngineSource, PacedSource
from servers.emulator.timeline import Act, Timeline
from servers.emulator.truth import TruthRecord
from servers.emulator.wire import Ask, WireError


class HandTimeline:
    """A Timeline without a loop: ``run`` does everything up to a moment."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Act]] = []
        self._order = itertools.count()

    def at(self, when_s: float, act: Act) -> None:
        heapq.heappush(self._heap, (when_s, next(self._order), act))

    def run(self, until_s: float = float("inf")) -> None:
        while self._heap and self._heap[0][0] <= until_s:
            when_s, _, act = heapq.heappop(self._heap)
            act(when_s)


class Sink:
    """A transport that counts writes, and the owner of its answers."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.generated_tokens = 0
        self.over: list[Answer] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def first_token(self, answer: Answer, sent_s: float) -> None: ...

    def ended(self, answer: Answer) -> None:
        self.over.append(answer)


def answer(sink: Sink, tokens: int, received_s: float = 0.0, prompt: int = 10) -> Answer:
    ask = Ask(prompt, tokens, 0, True, True, False)
    record = TruthRecord("", 0, "", received_s)
    transport = cast(asyncio.Transport, sink)
    return Answer(sink, transport, kserve.GenerateFormat("m"), ask, tokens, record, None, True)


def timeline() -> tuple[HandTimeline, Timeline]:
    hand = HandTimeline()
    return hand, cast(Timeline, hand)


def test_paced_tokens_lie_on_multiples_of_the_gap() -> None:
    hand, given = timeline()
    sink = Sink()
    one = answer(sink, 5, 100.0)
    PacedSource(given, lambda _: Pace(0.5, 0.1)).start(one)
    hand.run()
    assert list(one.record.planned) == [100.5 + index * 0.1 for index in range(5)]
    assert len(sink.written) == 5  # one write per token, the end of the stream with the last
    assert sink.over == [one]


def test_a_gate_holds_answers_back_and_shows_them_waiting() -> None:
    hand, given = timeline()
    source = PacedSource(given, lambda _: Pace(1.0, 0.0), StartGate(1.0, 2))
    answers = [answer(Sink(), 1) for _ in range(4)]
    for each in answers:
        source.start(each)
    assert [(load.running, load.waiting) for load in source.loads()] == [(2, 2)]
    hand.run()
    assert [each.record.planned[0] for each in answers] == [1.0, 1.0, 2.0, 3.0]
    assert source.loads()[0].waiting == 0


def test_a_cancelled_answer_gets_no_more_tokens() -> None:
    hand, given = timeline()
    engines = [Engine(lambda *_: 0.01, 1000, 8)]
    source = EngineSource(given, engines)
    one, two = answer(Sink(), 50), answer(Sink(), 50)
    source.start(one)
    source.start(two)
    hand.run(0.105)
    one.end("client_gone")
    source.cancel(one)
    hand.run()
    assert (one.produced, two.produced) == (10, 50)
    assert engines[0].in_flight == 0
    assert engines[0].reserved_tokens == 0


def test_an_idle_engine_starts_when_the_request_arrived() -> None:
    hand, given = timeline()
    source = EngineSource(given, [Engine(lambda *_: 0.01, 1000, 8)])
    for received_s in (1.0, 7.0):
        late = answer(Sink(), 2, received_s)
        source.start(late)
        hand.run()
        assert list(late.record.planned) == pytest.approx([received_s + 0.01, received_s + 0.02])


def test_large_batches_of_two_replicas_end_their_steps_apart() -> None:
    hand, given = timeline()
    engines = [Engine(lambda *_: 0.05, 100_000, 256) for _ in range(2)]
    source = EngineSource(given, engines)
    answers = [answer(Sink(), 40) for _ in range(2 * BURST)]
    for each in answers:
        source.start(each)
    hand.run()
    ends = sorted({moment for each in answers for moment in each.record.planned[5:]})
    assert min(after - before for before, after in itertools.pairwise(ends)) >= STAGGER_S * 0.999
    assert max(each.record.planned[-1] for each in answers) <= 40 * 0.05 + 2 * STAGGER_S + 0.05


def test_small_batches_are_left_alone() -> None:
    hand, given = timeline()
    source = EngineSource(given, [Engine(lambda *_: 0.05, 1000, 8) for _ in range(2)])
    answers = [answer(Sink(), 3) for _ in range(2)]
    for each in answers:
        source.start(each)
    hand.run()
    assert all(list(each.record.planned) == pytest.approx([0.05, 0.10, 0.15]) for each in answers)


def test_a_request_larger_than_the_cache_is_out_of_memory() -> None:
    _, given = timeline()
    source = EngineSource(given, [Engine(lambda *_: 0.05, 100, 8)])
    with pytest.raises(WireError, match="out of memory: a request of 60 \\+ 50 tokens"):
        source.check(Ask(60, 50, 0, False, True, False))
    source.check(Ask(50, 50, 0, False, True, False))


def test_the_timeline_keeps_its_plan_when_it_runs_late() -> None:
    done: list[tuple[str, float]] = []

    async def play() -> float:
        line = Timeline(asyncio.get_running_loop())
        over = asyncio.Event()
        began = time.monotonic()

        def slow(planned_s: float) -> None:
            done.append(("slow", planned_s - began))
            while time.monotonic() < began + 0.03:
                pass  # holds the loop beyond the next plan

        def last(planned_s: float) -> None:
            done.append(("last", planned_s - began))
            over.set()

        line.at(began + 0.04, last)
        line.at(began + 0.02, lambda planned_s: done.append(("late", planned_s - began)))
        line.at(began + 0.01, slow)
        await over.wait()
        return time.monotonic() - began

    took_s = asyncio.run(play())
    assert [name for name, _ in done] == ["slow", "late", "last"]
    assert [planned for _, planned in done] == pytest.approx([0.01, 0.02, 0.04])
    assert took_s >= 0.04
