"""A run without streaming: only the end of an answer has a time, and no check pretends otherwise."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from harness.catalog import load_catalog
from harness.cell import Overrides, attached_stack, build_cell
from harness.connection import Connection
from harness.judge import judge
from harness.judgement import Judgement, Verdict
from harness.matrix import Options, build_cells
from harness.objective import Objective
from harness.records import Sample, TokenSource
from harness.sla import measured
from harness.watch.channel import LookAsked
from harness.watch.deciding import decide
from tests import runs

WHOLE = {"first_token_s": math.nan, "last_token_s": math.nan, "chunks": 0, "gaps_us": (), "output_tokens": -1}


def whole(samples: list[Sample]) -> list[Sample]:
    from dataclasses import replace

    return [replace(each, **WHOLE, token_source=TokenSource.NONE) for each in samples]


def judged(directory: Path, *sla: str, stream: bool = False) -> Judgement:
    loop = runs.Loop()
    spec = runs.scenario(*sla, users=loop.users, think_s=loop.think_s)
    facts = runs.load(users_asked=loop.users, users_reached=loop.users)
    runs.write_run(directory, whole(loop.samples()), spec, facts, stream=stream)
    return judge(directory)


def test_what_needs_single_tokens_is_not_measured(tmp_path: Path) -> None:
    found = judged(tmp_path, "p95(e2e) < 2 s", "p95(ttft) < 300 ms", "p99(itl) < 1 s", "mean(tpot) < 1 s")
    verdicts = [check.verdict for check in found.checks]
    assert verdicts == [Verdict.PASS, *[Verdict.NOT_MEASURED] * 3]
    assert found.verdict is Verdict.PASS
    assert "asked for whole" in found.checks[1].reason
    assert {spread.metric for spread in found.distributions} == {"e2e"}
    assert {curve.metric for curve in found.curves} == {"e2e"}
    assert {point.ttft_p50_s for point in found.timeline} == {None}
    assert found.slo_attainment == 1.0


def test_goodput_asks_only_what_was_measured(tmp_path: Path) -> None:
    found = judged(tmp_path, "goodput > 1 req/s", "p95(e2e) < 2 s", "p95(ttft) < 1 ms")
    assert found.checks[0].verdict is Verdict.PASS


def test_a_failure_of_the_rest_still_fails(tmp_path: Path) -> None:
    found = judged(tmp_path, "p95(e2e) < 600 ms", "p95(ttft) < 300 ms")
    assert (found.verdict, found.checks[1].verdict) == (Verdict.FAIL, Verdict.NOT_MEASURED)


def test_nothing_measured_is_no_pass(tmp_path: Path) -> None:
    found = judged(tmp_path, "p95(ttft) < 300 ms")
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "not measured" in found.sentence


def test_a_streamed_run_without_tokens_fails(tmp_path: Path) -> None:
    """The same samples of a run that asked for streams: an answer that never began."""
    assert judged(tmp_path, "p95(ttft) < 300 ms", stream=True).verdict is Verdict.FAIL


def test_measured_keeps_the_order() -> None:
    objectives = [Objective.parse(text) for text in ("p95(ttft) < 1 s", "p95(e2e) < 1 s", "error_rate < 1 %")]
    assert measured(objectives, streamed=True) == tuple(objectives)
    assert measured(objectives, streamed=False) == tuple(objectives[1:])


@pytest.mark.parametrize("stream", [True, False])
def test_a_look_does_not_fail_what_is_not_measured(stream: bool) -> None:
    catalog = load_catalog()
    connection = Connection(protocol="openai-chat", stream=stream)
    scenario = runs.scenario("p95(ttft) < 300 ms")
    profile = catalog.profile("quick").model_copy(update={"looks": (0.5,)})
    cell = build_cell(
        catalog, scenario, attached_stack("m"), profile, Overrides(), connection, run_dir=Path("unused"), run="r"
    )
    manifest = cell.manifest()
    manifest = manifest.model_copy(update={"load": manifest.load.model_copy(update={"started_s": runs.WALL})})
    table = runs.table([runs.failed(20.0 + k / 100, 0.01) for k in range(500)])
    asked = LookAsked(number=1, at_s=60.3, judged_until_s=runs.WALL + 60.0, samples=500, workers=(runs.WORKER,))
    assert decide(manifest, table, asked).decided == ("fail" if stream else "")


@pytest.mark.parametrize("stream", [True, False])
def test_the_option_reaches_manifest_and_command(stream: bool) -> None:
    options = Options(scenarios=("chatbot",), attach="http://127.0.0.1:1", model="m", stream=stream)
    (cell,) = build_cells(load_catalog(), options)
    assert (cell.connection.stream, cell.manifest().stream) == (stream, stream)
    assert ("--no-stream" in cell.command) == (not stream)
