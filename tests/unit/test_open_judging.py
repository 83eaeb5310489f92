"""Judging an open loop: offered against achieved, and what takes the verdict away."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from harness.judge import judge
from harness.judgement import Judgement, Verdict
from harness.records import OUT_OF_RESOURCES, Outcome, Sample, WorkerFacts
from harness.spec import HourlyPrice, Scenario, Source
from tests.runs import MONOTONIC, failed, load, sample, scenario, stack, unfinished, write_run

RATE = 10
RUN_S = 102


def open_scenario(*sla: str) -> Scenario:
    arrivals = {"kind": "constant", "rate_rps": RATE}
    return Scenario.model_validate(
        scenario(*sla).model_dump(exclude={"sla"}) | {"arrivals": arrivals, "sla": _texts(sla)}
    )


def _texts(sla: tuple[str, ...]) -> tuple[str, ...]:
    return sla or ("p95(response_time) < 2 s", "error_rate < 1 %")


def arrival(place: int, late_s: float = 0.001, e2e_s: float = 0.5, **changes: Any) -> Sample:
    due = place / RATE
    return sample(due + late_s, e2e_s, user=place, scheduled_s=MONOTONIC + due, **changes)


def judged(directory: Path, samples: list[Sample], *sla: str, **changes: Any) -> Judgement:
    facts = changes.pop("load", load(loop="open", users_asked=0, users_reached=0))
    write_run(directory, samples, open_scenario(*sla), facts, **changes)
    return judge(directory)


def steady() -> list[Sample]:
    return [arrival(place) for place in range(RUN_S * RATE)]


def test_offered_is_set_against_achieved(tmp_path: Path) -> None:
    judgement = judged(tmp_path, steady())
    assert judgement.verdict is Verdict.PASS
    found = judgement.load.open_loop
    assert found is not None
    assert (found.scheduled, found.due, found.started, found.late) == (1020, 901, 901, 0)
    assert found.offered_rps == found.started_rps == pytest.approx(10, rel=0.01)
    assert found.completed_rps == pytest.approx(10, rel=0.01)
    assert found.late_p99_s == pytest.approx(0.001)
    assert found.in_flight_halves == pytest.approx((5, 5), rel=0.02)
    assert (judgement.load.users, judgement.load.users_implied, judgement.load.little_holds) == (0, None, None)
    assert judgement.notes[0].startswith(
        "open loop, constant 10/s: 901 arrivals were due in the judged window, 10.01/s;"
    )


def test_response_time_runs_from_the_schedule_and_e2e_from_the_send(tmp_path: Path) -> None:
    samples = [arrival(place, late_s=0.05) for place in range(RUN_S * RATE)]
    judgement = judged(tmp_path, samples, "p95(response_time) < 2 s", "p95(e2e) < 2 s")
    assert [check.value for check in judgement.checks] == pytest.approx([0.55, 0.5])


def test_a_request_belongs_to_the_window_of_its_scheduled_time(tmp_path: Path) -> None:
    """Due before the window's end and sent after it: judged. A closed loop would not."""
    samples = [arrival(place) for place in range(RUN_S * RATE)]
    samples[1000] = arrival(1000, late_s=0.05)
    found = judged(tmp_path, samples).load.open_loop
    assert found is not None
    assert found.due == 901


def test_a_queue_that_grows_is_the_servers_result(tmp_path: Path) -> None:
    samples = [arrival(place, e2e_s=0.5 + place / 100) for place in range(RUN_S * RATE)]
    judgement = judged(tmp_path, samples)
    assert judgement.verdict is Verdict.FAIL
    found = judgement.load.open_loop
    assert found is not None
    assert found.in_flight_halves[1] > 1.5 * found.in_flight_halves[0]


def test_a_stalled_server_fails(tmp_path: Path) -> None:
    samples = [arrival(place) if place < 500 else unfinished(place / RATE, 5, user=place) for place in range(1020)]
    assert judged(tmp_path, samples).verdict is Verdict.FAIL


def test_arrivals_sent_late_are_invalid(tmp_path: Path) -> None:
    late = [arrival(place, late_s=0.15 if place % 20 == 0 else 0.001) for place in range(RUN_S * RATE)]
    judgement = judged(tmp_path, late)
    assert judgement.verdict is Verdict.INVALID
    assert "requests were sent late by 150 ms at p99, more than 5% of the smallest limit (100 ms)" in judgement.sentence
    assert judgement.load.open_loop is not None
    assert judgement.load.open_loop.late == 46


def test_a_client_without_resources_is_invalid_whatever_the_loop(tmp_path: Path) -> None:
    error = f"{OUT_OF_RESOURCES}: Too many open files"
    lacking = failed(50, 0.0, Outcome.REFUSED, user=500, error=error)
    judgement = judged(tmp_path / "open", [*steady()[:500], lacking, *steady()[501:]])
    assert judgement.verdict is Verdict.INVALID
    assert judgement.sentence == (
        f"INVALID: 1 requests could not be started, {error}: allow more open files (ulimit -n) or ports, or use more"
        " processes or hosts."
    )
    refused = failed(50, 0.0, Outcome.REFUSED, user=500, error="cannot connect to here:1: Connection refused")
    assert judged(tmp_path / "refused", [*steady()[:500], refused, *steady()[501:]]).verdict is Verdict.PASS


def test_an_arrival_that_was_never_sent_is_counted_as_due(tmp_path: Path) -> None:
    never = failed(50, 0.0, Outcome.REFUSED, user=500, error=f"{OUT_OF_RESOURCES}: no time", sent_s=math.nan)
    found = judged(tmp_path, [*steady()[:500], never, *steady()[501:]]).load.open_loop
    assert found is not None
    assert (found.due, found.started) == (901, 900)


def test_arrivals_that_nobody_met_are_invalid(tmp_path: Path) -> None:
    facts = load(loop="open", users_asked=0, users_reached=0, arrivals_scheduled=1020, arrivals_due=510)
    halved = judged(tmp_path / "a", steady()[::2], load=facts)
    assert halved.sentence == "INVALID: 1,020 arrivals were scheduled and the load workers met 510."
    facts = facts.model_copy(update={"arrivals_due": 1020})
    lost = judged(tmp_path / "b", steady()[:-20], load=facts)
    assert lost.sentence == "INVALID: 1,020 arrivals were due and 1,000 have a sample."
    cut = facts.model_copy(update={"arrivals_due": 800, "ended_by": "stopped", "complete": False})
    assert judged(tmp_path / "c", steady()[:800], load=cut).verdict is not Verdict.INVALID


def test_a_run_that_ended_before_its_first_arrival(tmp_path: Path) -> None:
    facts = load(loop="open", users_asked=0, started_s=None, judged_until_s=None, complete=False, ended_by="stopped")
    assert judged(tmp_path, [], load=facts).sentence == (
        "INVALID: the run ended before its first arrival (stopped), so nothing was judged."
    )


def test_a_query_costs_the_machines_price_over_what_was_answered(tmp_path: Path) -> None:
    price = HourlyPrice(kind="hourly", usd_per_gpu_hour=3.6, source=Source(text="a test"))
    rented = stack(engine="vllm", hardware={"gpu": "t4"}, price=price.model_dump())
    judgement = judged(tmp_path, steady(), stack=rented)
    assert judgement.cost is not None
    assert judgement.cost.usd_per_query == pytest.approx(0.0001, rel=0.01)
    assert "requests/s" in judgement.cost.arithmetic


def test_a_workers_clock_maps_both_ways() -> None:
    facts = WorkerFacts(
        worker=1, host="h", pid=1, anchor_wall_s=1_000_007.0, anchor_monotonic_s=50.0, clock_offset_s=7.0
    )
    assert facts.wall_s(60.0) == 1_000_010.0
    assert facts.monotonic_s(1_000_010.0) == 60.0
