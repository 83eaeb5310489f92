"""The continuous-batching engine, without a clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.roofline import Machine, latency_floor_s, step_time_s
from harness.spec import Efficiency, Gpu, ModelShape, Source
from servers.emulator.engine import Engine, Sequence

SOURCE = Source(text="made up")
GPU = Gpu(name="g", title="g", memory_gib=40, bandwidth_gbps=1000, fp16_tflops=100, watts=1, source=SOURCE)
MODEL = ModelShape(name="m", parameters=7e9, layers=32, hidden=4096, kv_heads=32, head_dim=128, weight_bytes=2)
MACHINE = Machine(MODEL, GPU, 1, Efficiency())


@dataclass
class Watched:
    """An engine driven to its end, with everything it did written down."""

    engine: Engine
    first: dict[Sequence, float] = field(default_factory=dict)
    last: dict[Sequence, float] = field(default_factory=dict)
    steps: list[tuple[float, float]] = field(default_factory=list)
    peak_reserved: int = 0
    peak_batch: int = 0

    def run(self, sequences: list[Sequence]) -> None:
        arriving = sorted(sequences, key=lambda sequence: sequence.arrived_s)
        now = 0.0
        while arriving or self.engine.in_flight:
            while arriving and arriving[0].arrived_s <= now:
                self.engine.submit(arriving.pop(0))
            end = self.engine.begin(now)
            if end is None:
                now = arriving[0].arrived_s
                continue
            self.peak_reserved = max(self.peak_reserved, self.engine.reserved_tokens)
            self.peak_batch = max(self.peak_batch, len(self.engine.running))
            self.steps.append((now, end))
            now = end
            for sequence in self.engine.finish():
                self.first.setdefault(sequence, now)
                self.last[sequence] = now


def engine(capacity: int = 4000, max_batch: int = 8, budget: int = 256) -> Engine:
    return Engine(lambda *load: step_time_s(MACHINE, *load), capacity, max_batch, budget)


@st.composite
def workloads(draw: st.DrawFn) -> list[Sequence]:
    sequences = []
    for _ in range(draw(st.integers(1, 30))):
        prompt = draw(st.integers(1, 900))
        asked = draw(st.integers(1, 60))
        length = draw(st.integers(1, asked))
        sequences.append(Sequence(prompt, length, prompt + asked, draw(st.floats(0, 2))))
    return sequences


@settings(deadline=None)
@given(workloads())
def test_every_request_gets_exactly_its_tokens(sequences: list[Sequence]) -> None:
    watched = Watched(engine())
    watched.run(sequences)
    assert all(sequence.produced == sequence.output_tokens for sequence in sequences)
    assert watched.engine.in_flight == 0
    assert watched.engine.reserved_tokens == 0


@settings(deadline=None)
@given(workloads())
def test_memory_and_batch_are_never_exceeded(sequences: list[Sequence]) -> None:
    watched = Watched(engine(capacity=1200, max_batch=4))
    watched.run(sequences)
    assert watched.peak_reserved <= 1200
    assert watched.peak_batch <= 4


@settings(deadline=None)
@given(workloads())
def test_first_come_is_first_served(sequences: list[Sequence]) -> None:
    watched = Watched(engine(capacity=1500, max_batch=3))
    watched.run(sequences)
    admitted = [sequence.admitted_s for sequence in sorted(sequences, key=lambda each: each.arrived_s)]
    assert all(moment is not None for moment in admitted)
    assert admitted == sorted(moment for moment in admitted if moment is not None)
    assert all((sequence.admitted_s or 0.0) >= sequence.arrived_s for sequence in sequences)


@settings(deadline=None)
@given(workloads())
def test_no_answer_beats_its_floor(sequences: list[Sequence]) -> None:
    watched = Watched(engine())
    watched.run(sequences)
    for sequence in sequences:
        floor = latency_floor_s(MODEL, GPU, 1, sequence.prompt_tokens, sequence.output_tokens).total_s
        assert watched.last[sequence] - sequence.arrived_s >= floor * (1 - 1e-9)


@settings(deadline=None)
@given(workloads())
def test_steps_never_overlap(sequences: list[Sequence]) -> None:
    watched = Watched(engine())
    watched.run(sequences)
    assert all(before[1] <= after[0] for before, after in zip(watched.steps, watched.steps[1:], strict=False))


def test_one_request_alone_takes_prefill_and_one_step_per_further_token() -> None:
    watched = Watched(engine())
    alone = Sequence(100, 5, 110, 0.0)
    watched.run([alone])
    expected = step_time_s(MACHINE, 0, 0, 100) + sum(step_time_s(MACHINE, 1, 100 + index, 0) for index in range(1, 5))
    assert watched.last[alone] == pytest.approx(expected)
    assert len(watched.steps) == 5


def test_a_long_prompt_is_cut_into_chunks_and_others_go_on_decoding() -> None:
    watched = Watched(engine(budget=256))
    short, long = Sequence(10, 20, 40, 0.0), Sequence(1000, 2, 1010, 0.0001)
    watched.run([short, long])
    before = sum(1 for start, _ in watched.steps if long.arrived_s <= start < watched.first[long])
    assert before == 4  # 256 + 256 + 256 + 232
    assert short.produced == 20
    assert watched.first[short] < watched.first[long] < watched.last[short]


def test_what_arrives_during_a_step_waits_for_the_next() -> None:
    busy = engine()
    busy.submit(Sequence(10, 3, 20, 0.0))
    end = busy.begin(0.0)
    assert end is not None
    late = Sequence(10, 3, 20, end / 2)
    busy.submit(late)
    assert late.admitted_s is None
    busy.finish()
    busy.begin(end)
    assert late.admitted_s == end


def test_a_request_from_the_future_does_not_start_a_step() -> None:
    idle = engine()
    idle.submit(Sequence(10, 3, 20, 1.0))
    assert idle.begin(0.5) is None
    assert idle.begin(1.0) is not None


def test_a_request_that_never_fits_is_refused() -> None:
    small = engine(capacity=100)
    assert not small.admits(101)
    with pytest.raises(ValueError, match="never fit"):
        small.submit(Sequence(90, 11, 101, 0.0))


def test_cancelled_requests_leave_and_free_their_memory() -> None:
    busy = engine(capacity=100, max_batch=1)
    running, waiting, next_one = (Sequence(10, 50, 80, 0.0) for _ in range(3))
    for sequence in (running, waiting, next_one):
        busy.submit(sequence)
    end = busy.begin(0.0)
    assert end is not None
    busy.cancel(waiting)
    busy.cancel(running)
    assert busy.finish() == []
    assert busy.reserved_tokens == 0
    assert busy.begin(end) is not None
    assert busy.running == [next_one]
    assert waiting.admitted_s is None


def test_a_request_cancelled_between_steps_is_not_run_again() -> None:
    busy = engine()
    gone = Sequence(10, 50, 80, 0.0)
    busy.submit(gone)
    busy.begin(0.0)
    busy.finish()
    busy.cancel(gone)
    assert busy.in_flight == 0
    assert busy.reserved_tokens == 0


def test_begin_and_finish_alternate() -> None:
    busy = engine()
    with pytest.raises(RuntimeError, match="no step"):
        busy.finish()
    busy.submit(Sequence(10, 50, 80, 0.0))
    busy.begin(0.0)
    with pytest.raises(RuntimeError, match="under way"):
        busy.begin(0.0)
