"""Experiments of the catalog end to end: one on the emulator, whose truth is known, and one on a real engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.comparison import Comparison, Difference
from tests.e2e.processes import ATTEMPTS, HARNESS, ROOT, Started, assert_no_trace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def compared(folder: Path, *words: str) -> Comparison:
    """Repeated where a launch was left out, as it is when this machine starved the load generator."""
    for attempt in range(ATTEMPTS):
        runs = folder / f"runs-{attempt}"
        ended = Started([*HARNESS, "compare", *words, "--run-dir", str(runs)], folder / f"harness-{attempt}").end(800)
        assert ended.code == 0, ended.err
        assert_no_trace(ended.out, ended.err)
        found = Comparison.model_validate_json((runs / "compare.json").read_text(encoding="utf-8"))
        if not any(launch.left_out for arm in found.arms for launch in arm.launches):
            break
    return found


def at(found: Comparison, metric: str) -> Difference:
    return next(each for each in found.pairs[0].differences if each.metric == metric)


def test_int8_waits_for_half_the_bytes(tmp_path: Path) -> None:
    """One launch each says nothing of luck; what the emulator computes is far outside it. The weights of 13B take
    6.4 ms in fp16 and 3.2 ms in INT8 from two A100, of steps that also read KV caches and reduce over both GPUs."""
    found = compared(tmp_path, "--experiment", "int8", "--launches", "1", "--run-time", "12")
    effect = at(found, "tpot_p50").effect
    assert effect is not None
    assert -0.5 < effect < -0.3
    assert at(found, "e2e_p50").effect == pytest.approx(effect, abs=0.1)
    assert any(note.startswith("p50(TPOT) −") for note in found.notes)
    assert all(launch.emulated for arm in found.arms for launch in arm.launches)


@pytest.mark.skipif(
    not (ROOT / ".engines" / "llamacpp").exists() or not any((ROOT / ".models").glob("*SmolLM2*")),
    reason="the real engine is not installed: harness install llamacpp",
)
def test_a_streamed_answer_is_seen_before_a_whole_one_on_a_real_engine(tmp_path: Path) -> None:
    """The first of 24 tokens at most, after a prompt that takes as long as several of them."""
    arms = ("llamacpp-smollm2@stream=off", "llamacpp-smollm2")
    found = compared(
        tmp_path, *arms, "--interleave", "--real", "--scenario", "translation", "--launches", "1", "--run-time", "20"
    )  # fmt: skip
    whole, streamed = (arm.launches[0] for arm in found.arms)
    assert not whole.emulated
    assert "ttft_p50" not in whole.values
    assert streamed.values["perceived_p50"] == streamed.values["ttft_p50"]
    assert streamed.values["perceived_p50"] < 0.8 * whole.values["perceived_p50"]
    assert streamed.values["perceived_p50"] < 0.8 * streamed.values["e2e_p50"]
