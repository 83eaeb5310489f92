"""A search against an emulator whose capacity is known by construction, from the command line to the page.

The stack replays a claim of one user and 100 ms without thinking: it starts at most 1.05 x 1 / 0.1 = 10.5 answers a
second. N users who do not think wait N / 10.5 s for each, all of them alike: a limit of 1.96 s is kept by 20 users
(1.90 s) and broken by 21 (2 s).
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from harness.capacity_log import read_capacity, write_capacity
from harness.capacity_record import CapacityRecord
from harness.errors import ExitCode
from harness.judgement import Verdict
from tests.e2e.processes import ATTEMPTS, HARNESS, Ended, assert_no_trace, harness, in_phase, manifest_of, started

TRUTH = 1.96 * 10.5
SEARCH_S = 420.0
"""No search of these few levels takes longer, whatever else the machine does."""
FILES = {
    "scenario": """
kind: scenario
name: desk
title: A desk
users: 45
think_time: {distribution: constant, mean_s: 0, reason: a test}
sla: [p90(e2e) < 1.96 s]
sla_reason: a test
cost_sensitivity: medium
quality_need: medium
workload: {kind: synthetic, input_tokens: 8, output_tokens: 2, output_length: forced}
stacks: [gate, paid]
""",
    "gate": """
kind: stack
name: gate
title: Starts 10.5 answers a second
engine: emulator
price: {kind: hourly, usd_per_gpu_hour: 1.0, source: {text: made up, read: 2020-01-01}}
hardware: {gpu: t4}
model: {name: tiny, parameters: 1.0e+6, layers: 1, hidden: 64, kv_heads: 1, head_dim: 64, weight_bytes: 2}
claims: {desk: {latency_s: 0.1, tokens: 2, users: 1, source: made up}}
emulation: {calibration: claims}
""",
    "paid": """
kind: stack
name: paid
title: An API
engine: openai
price: {kind: tokens, usd_per_million_input: 10, usd_per_million_output: 20, source: {text: made up, read: 2020-01-01}}
claims: {desk: {latency_s: 0.05, tokens: 2, source: made up}}
""",
}


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    folder = tmp_path / "catalog"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def words(catalog: Path, run_dir: Path) -> list[str]:
    levels = ("--start", "16", "--users-max", "24", "--levels-max", "8", "--run-time", "14")
    return [
        *HARNESS,
        "capacity",
        "desk",
        "--stack",
        "gate",
        *levels,
        "--catalog",
        str(catalog),
        "--run-dir",
        str(run_dir),
    ]


def unstarved_search(command: list[str], folder: Path) -> tuple[Ended, CapacityRecord]:
    """Repeat a search whose client was starved, which it says by INVALID levels, with those levels run again."""
    for attempt in range(ATTEMPTS):
        with started([*command, "--resume", "--confirm", "--json"], folder / f"search-{attempt}") as search:
            ended = search.end(SEARCH_S)
        assert_no_trace(ended.err)
        run_dir = Path(command[-1])
        found = read_capacity(run_dir)
        if found.interval.invalid is None:
            return ended, found
        kept = tuple(level for level in found.levels if level.verdict is not Verdict.INVALID)
        write_capacity(run_dir, found.model_copy(update={"levels": kept}))
    pytest.fail(f"the client was starved {ATTEMPTS} times: {found.sentence}")


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(1500)
def test_a_known_cliff_is_found_and_the_search_survives_ctrl_c(catalog: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "search"
    command = words(catalog, run_dir)
    with started(command, tmp_path / "first") as first:
        progress = run_dir / "level-02-24-users" / "progress.jsonl"
        first.until(lambda: in_phase(progress, "load"), "the second level's load", SEARCH_S)
        first.send(signal.SIGINT)
        cut = first.end()
    assert cut.code == ExitCode.INCONCLUSIVE
    assert "the search ended because interrupted" in cut.out
    assert [level.load for level in read_capacity(run_dir).levels] == [16]
    assert_no_trace(cut.out, cut.err)

    ended, found = unstarved_search(command, tmp_path)
    assert ended.code == ExitCode.PASS, (found.sentence, ended.err)
    assert found.interval.feasible is not None
    assert found.interval.infeasible is not None
    assert found.interval.feasible <= TRUTH < found.interval.infeasible
    assert found.interval.feasible >= TRUTH / 1.05
    assert {manifest_of(run_dir / level.run_dir).confidence for level in found.levels} == {found.level_confidence}
    assert found.levels[0].run_dir.startswith("level-01-16-users")
    assert found.binding.startswith("p90(e2e) is ")
    assert found.shape == "cliff"
    assert found.sizing is not None
    assert found.sizing.replicas is not None
    assert found.sizing.replicas.needed == 3  # 45 / (0.8 x 20) = 2.8
    assert any("to be looked up again" in tag.flag for tag in found.prices)
    assert found.confirmation is not None
    assert found.confirmation.sentence.endswith("a replayed claim says nothing of more replicas than it was made for")
    told = json.loads(ended.out)
    assert told["sentence"] == found.sentence
    assert Path(told["page"]).read_text(encoding="utf-8").count("<svg") >= 3

    shown = harness("report", run_dir)
    assert shown.code == 0
    assert shown.out.strip() == str(run_dir / "capacity.html")
