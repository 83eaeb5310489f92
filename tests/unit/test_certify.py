"""The arithmetic of certificates: shapes keep users and rates, joins find the client's error, limits decide."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.catalog import load_catalog
from harness.cell import Cell, Overrides, build_cell
from harness.certificate import Certificate, Shape, Spread
from harness.certify import (
    LEAST_EVENTS_PER_S,
    LIGHT_EVENTS_PER_S,
    RATE_MARGIN,
    REMEDY,
    REUSE_WITHIN_S,
    Seen,
    error_at,
    excesses,
    join,
    merge,
    needed_events_per_s,
    rehearsal_cell,
    reusable,
    shape_of,
    spread,
    too_fast,
    why_skipped,
)
from harness.connection import Connection
from harness.loadgen.certifier import SeenRate
from harness.objective import Objective

CATALOG = load_catalog()
seconds = st.floats(0, 10)


def cell(
    users: int = 100, think_s: float = 5.0, tokens: int = 100, protocol: str = "openai-chat", **changes: Any
) -> Cell:
    overrides = Overrides(users=users, think_time_s=think_s, output_tokens=tokens)
    secret = {"headers": {"X-Tenant": "${TENANT}"}, "extra_body": {"seed": 1}, "api_key_env": "MY_KEY"}
    built = build_cell(
        CATALOG,
        CATALOG.scenario("chatbot"),
        CATALOG.stack("vllm-7b-t4"),
        CATALOG.profile("quick"),
        overrides,
        Connection(protocol=protocol, ca_file="ca.pem", max_retries=2, **secret),
        run_dir="runs/x",  # type: ignore[arg-type]
        run="x",
    )
    return built.model_copy(update=changes)


def errors_of(size_s: float) -> Spread:
    return Spread(**dict.fromkeys(Spread.model_fields, size_s))


def certificate(**changes: Any) -> Certificate:
    facts: dict[str, Any] = {
        "made_s": 1000.0,
        "host": "here",
        "shape": shape_of(cell(), 1),
        "requests": 100,
        "events_per_s": 1000.0,
        "requests_per_s": 100.0,
        "cpu_share": 0.1,
        "cpu_per_event_s": 1e-4,
        "headroom": 10.0,
    }
    same = {"ttft": errors_of(0.001), "e2e": errors_of(0.001), "tpot": errors_of(0.001)}
    return Certificate(**{**facts, **same, **changes})


def checks(*texts: str) -> list[Objective]:
    return [Objective.parse(text) for text in texts]


# What is replayed -----------------------------------------------------------------------------


def test_a_closed_loop_needs_users_times_tokens_over_the_cycle() -> None:
    assert needed_events_per_s(cell(users=100, think_s=8, tokens=100)) == 100 * 100 / (8 + 2)  # 20 ms a token
    assert needed_events_per_s(cell(users=100, think_s=9, tokens=10)) == 100 * 10 / (9 + 1)  # half of 2 s
    assert needed_events_per_s(cell(users=100, think_s=8, tokens=1000)) == 100 * 1000 / (8 + 2)  # never above 2 s


@given(st.integers(5, 3000), st.floats(0, 60), st.integers(1, 2000), st.integers(1, 8))
def test_a_shape_keeps_users_and_rate_and_is_over_in_seconds(
    users: int, think_s: float, tokens: int, workers: int
) -> None:
    wanted = cell(users=users, think_s=think_s, tokens=tokens)
    shape = shape_of(wanted, workers)
    assert (shape.users, shape.workers) == (users, workers)
    assert 1 <= shape.tokens <= tokens
    cycle_s = shape.ttft_s + (shape.tokens - 1) * shape.gap_s + shape.think_s
    assume(shape.gap_s > 0.002)  # nobody streams faster than that
    rate = users * shape.tokens / cycle_s
    assert rate == pytest.approx(max(RATE_MARGIN * needed_events_per_s(wanted), LEAST_EVENTS_PER_S), rel=0.01)
    assert 1.3 <= shape.warm_s <= 2.3
    assert shape.measure_s == (2.5 if needed_events_per_s(wanted) > LIGHT_EVENTS_PER_S else 1.5)


def test_a_shape_can_replay_a_rate_that_was_seen() -> None:
    seen = shape_of(cell(), 1, 5000.0)
    assert seen.needed_events_per_s == 5000
    cycle_s = seen.ttft_s + (seen.tokens - 1) * seen.gap_s + seen.think_s
    assert seen.users * seen.tokens / cycle_s == pytest.approx(5000, rel=0.01)
    assert seen != shape_of(cell(), 1)


def test_the_rehearsal_carries_no_secret_and_nothing_of_the_server() -> None:
    wanted = cell()
    shape = shape_of(wanted, 2)
    found = rehearsal_cell(wanted, shape, "http://127.0.0.1:1")
    connection = found.connection
    assert (connection.url, connection.protocol, connection.model) == ("http://127.0.0.1:1", "openai-chat", "null")
    assert (connection.headers, connection.extra_body, connection.api_key_env, connection.ca_file) == ({}, {}, "", None)
    assert connection.max_retries == 0
    assert found.scenario.workload.output_tokens == shape.tokens
    assert found.scenario.think_time.mean_s == shape.think_s
    assert found.scenario.think_time.distribution == wanted.scenario.think_time.distribution
    assert found.run != wanted.run


def test_what_needs_no_rehearsal() -> None:
    assert why_skipped(cell(users=5)) == ""
    assert why_skipped(cell(users=4)).startswith("fewer than 5 users")


# What came of it ------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(seconds, seconds, seconds, st.integers(1, 50)), min_size=1, max_size=50),
    st.floats(0, 1),
    st.floats(0, 1),
    st.randoms(),
)
def test_a_join_finds_what_the_client_added(
    rows: list[tuple[float, float, float, int]], send_late_s: float, read_late_s: float, rng: Any
) -> None:
    received = np.array([row[0] for row in rows])
    first = received + np.array([row[1] for row in rows])
    last = first + np.array([row[2] for row in rows])
    tokens = np.array([row[3] for row in rows], dtype=np.int32)
    ids = [str(place) for place in range(len(rows))]
    ok = np.ones(len(rows), dtype=bool)
    seen = Seen(ids, ok, received - send_late_s, first + read_late_s, last + read_late_s, last + read_late_s, tokens)
    order = list(range(len(rows)))
    rng.shuffle(order)
    found = join(seen, [ids[place] for place in order], received[order], first[order], last[order])
    added = send_late_s + read_late_s
    assert found.unmatched == 0
    np.testing.assert_allclose(found.ttft_s, added, atol=1e-9)
    np.testing.assert_allclose(found.e2e_s, added, atol=1e-9)
    defined = found.tpot_s[tokens > 1]
    np.testing.assert_allclose(defined, 0, atol=1e-9)
    assert np.isnan(found.tpot_s[tokens == 1]).all()


def test_what_failed_or_is_not_known_is_counted_not_joined() -> None:
    times = np.array([1.0, 2.0, 3.0, 4.0])
    seen = Seen(["a", "b", "c", "d"], np.array([True, False, True, True]), times, times, times, times,
                np.array([2, 2, 2, 2], dtype=np.int32))  # fmt: skip
    found = join(seen, ["a", "b", "d"], times[:3], times[:3], np.array([5.0, 6.0, math.nan]))
    assert (len(found.ttft_s), found.unmatched) == (1, 3)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=300))
def test_a_spread_is_of_sizes_and_rises(values: list[float]) -> None:
    found = spread(np.array(values))
    assert found is not None
    kept = [found.p50_s, found.p90_s, found.p95_s, found.p99_s, found.p999_s, found.max_s]
    assert kept == sorted(kept)
    assert found.max_s == max(abs(value) for value in values)
    assert found == spread(-np.array(values))
    assert set(kept) <= {abs(value) for value in values}


def test_a_spread_of_nothing() -> None:
    assert spread(np.array([])) is None
    assert spread(np.array([math.nan])) is None


def test_several_processes_give_the_worst_error_and_the_sum_of_rates() -> None:
    slow = certificate(e2e=errors_of(0.5), headroom=2.0, hub_lag_p99_s=0.3, made_s=1001.0, unmatched=2)
    found = merge([certificate(hub_lag_p99_s=0.1), slow])
    assert (found.e2e, found.ttft) == (errors_of(0.5), errors_of(0.001))
    assert (found.events_per_s, found.requests, found.unmatched) == (2000, 200, 2)
    assert (found.headroom, found.hub_lag_p99_s, found.made_s) == (2, 0.3, 1001)
    assert found.cpu_per_event_s == pytest.approx(1e-4)
    assert merge([certificate(), certificate(problem="no")]).problem == "no"


# What it means --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("p50(e2e) < 2 s", "p50_s"),
        ("p75(ttft) < 2 s", "p90_s"),
        ("p95(response_time) < 2 s", "p95_s"),
        ("p99(tpot) < 2 s", "p99_s"),
        ("p99.9(e2e) < 2 s", "p999_s"),
        ("mean(e2e) < 2 s", "mean_s"),
        ("max(e2e) < 2 s", "max_s"),
    ],
)
def test_the_error_is_taken_where_the_check_is_judged(text: str, field: str) -> None:
    sizes = {name: float(place) for place, name in enumerate(Spread.model_fields)}
    made = certificate(ttft=Spread(**sizes), e2e=Spread(**sizes), tpot=Spread(**sizes))
    assert error_at(made, Objective.parse(text)) == sizes[field]


def test_five_percent_of_a_limit_is_the_clients_share() -> None:
    limits = checks("p99(e2e) < 500 ms", "p95(ttft) < 200 ms", "p99(itl) < 1 us", "error_rate < 1 %")
    assert excesses(certificate(e2e=errors_of(0.025), ttft=errors_of(0.01)), limits) == []
    (found,) = excesses(certificate(e2e=errors_of(0.0251), ttft=errors_of(0.01)), limits)
    assert found == (
        "the load generator's own error of p99(e2e) was 25.1 ms before the run, more than 5% of the limit (500 ms):"
        f" {REMEDY}"
    )
    assert len(excesses(certificate(e2e=errors_of(1), ttft=errors_of(1)), limits)) == 2


def test_a_failed_rehearsal_is_an_excess_and_a_skipped_one_is_not() -> None:
    failed = Certificate(problem="the null server did not start")
    assert excesses(failed, checks("p95(e2e) < 2 s")) == [
        "the load generator could not be certified: the null server did not start"
    ]
    assert excesses(Certificate(skipped="few users"), checks("p95(e2e) < 2 s")) == []
    assert too_fast(Certificate(skipped="few users"), 1e6) == ""


def test_a_run_may_not_exceed_what_was_certified() -> None:
    assert too_fast(certificate(), None) == ""
    assert too_fast(certificate(), 1099.0) == ""
    assert "streamed 1,101 events/s and the load generator was certified for 1,000" in too_fast(certificate(), 1101.0)


@pytest.mark.parametrize(
    ("changes", "age_s", "expected"),
    [
        ({}, 0.0, True),
        ({}, REUSE_WITHIN_S, True),
        ({}, REUSE_WITHIN_S + 1, False),
        ({}, -1.0, False),
        ({"host": "there"}, 1.0, False),
        ({"reused_from": "another"}, 1.0, False),
        ({"e2e": errors_of(1.0)}, 1.0, False),
        ({"shape": shape_of(cell(users=101), 1)}, 1.0, False),
        ({"shape": None}, 1.0, False),
    ],
)
def test_what_a_neighbour_may_reuse(changes: dict[str, Any], age_s: float, expected: bool) -> None:
    made = certificate(**changes)
    assert reusable(made, shape_of(cell(), 1), "here", made.made_s + age_s, checks("p95(e2e) < 2 s")) is expected


def test_a_certificate_survives_its_file() -> None:
    made = certificate(first=certificate(), when="after the run")
    assert Certificate.model_validate_json(made.model_dump_json()) == made
    assert Shape.model_validate_json(shape_of(cell(), 1).model_dump_json()) == shape_of(cell(), 1)


def test_the_rate_seen_is_that_of_the_busiest_five_seconds() -> None:
    def batch(chunks: int) -> pa.RecordBatch:
        return pa.record_batch({"chunks": pa.array([chunks, 0], pa.int32())})

    rate, start = SeenRate(), time.monotonic()
    for second in range(1, 5):
        rate.add(batch(900), start + second)
    assert rate.peak_per_s is None
    for second in range(5, 21):
        rate.add(batch(1000), start + second + 0.01 * (second % 3))
    assert rate.peak_per_s == pytest.approx(1000)
    for second in range(21, 40):
        rate.add(batch(0), start + second)
    assert rate.peak_per_s == pytest.approx(1000)
