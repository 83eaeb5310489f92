"""``harness compare --interleave`` on the emulator: arms of known speed, launched in turn as a user would."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.comparison import Comparison, Difference, Finding
from harness.runlog import RunReader
from tests.e2e.processes import HARNESS, Started, assert_no_trace

LOAD = "users=20,think_time_s=1,output_tokens=32,run_time_s=12"
FAST = f"vllm-7b-int8-a100@{LOAD}"
SAME = f"{FAST},calibration=roofline"
"""What it is anyway."""
FAR = f"{FAST},network=far:100ms"
SLOW = f"vllm-13b-a100@{LOAD}"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_slow_arm_a_far_one_and_the_same_again(tmp_path: Path) -> None:
    """13 billion fp16 weights take 3.7 times as long to read as 7 billion in INT8; 100 ms each way are 200 ms."""
    command = [*HARNESS, "compare", FAST, SLOW, "--more", SAME, "--more", FAR, "--interleave", "--scenario", "chatbot"]
    command += ["--min-effect", "20%", "--run-dir", str(tmp_path / "runs"), "--gate"]
    ended = Started(command, tmp_path / "harness").end(timeout_s=1100)
    assert ended.code == 99, ended.err
    assert_no_trace(ended.out, ended.err)
    folder = tmp_path / "runs"
    assert (folder / "compare.html").is_file()
    found = Comparison.model_validate_json((folder / "compare.json").read_text(encoding="utf-8"))
    assert [len(arm.launches) for arm in found.arms] == [3, 3, 3, 3]
    assert found.interleaved
    slow, same, far = found.pairs
    assert slow.finding is Finding.WORSE, slow.sentence
    assert 1.0 < (at(slow.differences, "tpot_p50").effect or 0.0) < 5.0
    assert same.finding is Finding.NO_DIFFERENCE, same.sentence
    assert far.finding is Finding.WORSE, far.sentence
    ttft = at(far.differences, "ttft_p50")
    assert (ttft.b or 0.0) - (ttft.a or 0.0) >= 0.2
    assert all(pair.notes == () for pair in found.pairs)
    run = RunReader(Path(found.arms[3].launches[0].directory)).manifest
    assert run.overrides["network"] == "far:100ms"
    again = Started([*HARNESS, "compare", *arm_folders(found)[:2], "--output", tmp_path / "again"], tmp_path / "second")
    assert again.end().code == 0
    repeated = Comparison.model_validate_json((tmp_path / "again" / "compare.json").read_text(encoding="utf-8"))
    assert repeated.interleaved
    assert at(repeated.pairs[0].differences, "e2e_p95").effect == at(slow.differences, "e2e_p95").effect


def at(differences: tuple[Difference, ...], metric: str) -> Difference:
    return next(each for each in differences if each.metric == metric)


def arm_folders(found: Comparison) -> list[str]:
    return [str(Path(arm.launches[0].directory).parent) for arm in found.arms]
