"""The store: nothing lost, nothing twice, every old version readable, and one sentence for whatever is wrong."""

from __future__ import annotations

import fcntl
import math
import multiprocessing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from harness.errors import HistoryError
from harness.history import store as stores
from harness.history.rows import METRICS, flags_of, row_of
from harness.judgement import Judgement, Mark
from tests import factories
from tests.unit import histories


def of_night(night: int, **changes: Any) -> Judgement:
    started = f"2026-11-{night:02d}T02:10:00Z"
    facts = {"run": f"run-{night:02d}", "provenance": factories.provenance(started=started), **changes}
    return factories.judgement(**facts)


def test_a_judgement_becomes_its_figures() -> None:
    judgement = factories.judgement(telemetry=factories.telemetry())
    row = row_of(judgement)
    spreads = {each.metric: each for each in judgement.distributions}
    assert row.cell.label == "support-chatbot / 7b-t4-vllm / 100 users / full / EMULATED"
    assert row.values["ttft_p95_s"] == spreads["ttft"].p95
    assert row.values["error_share"] == spreads["e2e"].failures / spreads["e2e"].samples
    assert row.values["goodput_rps"] == judgement.goodput_rps
    assert judgement.cost is not None
    assert row.values["usd_per_1000_good"] == judgement.cost.usd_per_1000_good
    assert judgement.telemetry is not None
    assert judgement.telemetry.energy is not None
    assert row.values["energy_per_request_j"] == judgement.telemetry.energy.per_request_j
    assert set(row.values) <= set(METRICS)
    assert row.annotations["server version"] == "0.1.0"
    assert row.annotations["harness"] == "0.1.0"


def test_midnight_is_within_a_night() -> None:
    late = row_of(of_night(1, provenance=factories.provenance(started="2026-11-22T23:50:00Z")))
    early = row_of(of_night(1, provenance=factories.provenance(started="2026-11-23T01:10:00+00:00")))
    next_night = row_of(of_night(1, provenance=factories.provenance(started="2026-11-23T23:50:00Z")))
    assert late.night == early.night == next_night.night - 1


def test_what_measures_something_else_is_another_cell() -> None:
    cells = {row_of(factories.judgement(marks=marks)).cell for marks in ((), (Mark.EMULATED,), (Mark.REDUCED,))}
    cells |= {row_of(factories.judgement(users=users)).cell for users in (100, 200)}
    assert len(cells) == 4
    ended = row_of(factories.judgement(marks=(Mark.EMULATED, Mark.CUT_OFF)))
    assert ended.cell in cells


def test_flags_are_kept_without_ports_and_secrets() -> None:
    command = "vllm serve m --port 8123 --max-num-seqs 64 --dtype=half --api-key sk-planted --enforce-eager"
    assert flags_of(command) == {
        "--max-num-seqs": "64",
        "--dtype": "half",
        "--api-key": "hidden",
        "--enforce-eager": "set",
    }
    assert flags_of("x --open 'quote") == {"--open": "'quote"}


def test_appending_twice_changes_nothing(tmp_path: Path) -> None:
    store = tmp_path / "new" / "history.duckdb"
    nights = [of_night(2), of_night(1)]
    assert stores.append(store, nights) == 2
    first = stores.read(store)
    assert stores.append(store, [*nights, nights[0]]) == 0
    assert stores.read(store) == first
    assert stores.append(store, [of_night(3), of_night(3)]) == 1
    (rows,) = stores.read(store).values()
    assert rows == [row_of(of_night(night)) for night in (1, 2, 3)]


def test_infinite_latencies_survive(tmp_path: Path) -> None:
    store = tmp_path / "h.duckdb"
    broken = factories.judgement(
        distributions=(factories.distribution("e2e", 1, 0.3).model_copy(update={"p95": math.inf}),)
    )
    stores.append(store, [broken])
    assert stores.read(store)[row_of(broken).cell][0].values["e2e_p95_s"] == math.inf


def test_a_judgement_without_a_time_changes_nothing(tmp_path: Path) -> None:
    store = tmp_path / "h.duckdb"
    with pytest.raises(HistoryError, match="does not say when it started"):
        stores.append(store, [of_night(1), factories.judgement(provenance=None)])
    assert not store.exists()


def test_two_processes_append_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    store = tmp_path / "h.duckdb"
    context = multiprocessing.get_context("spawn")
    # Every process's runs are of other hosts' names, so that all are new.
    both = [context.Process(target=append_named, args=(store, host, 6)) for host in ("a", "b")]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    (rows,) = stores.read(store).values()
    assert sorted((row.host, row.run) for row in rows) == [
        (host, f"night-{night:05d}-0") for host in ("a", "b") for night in range(6)
    ]
    assert all(set(row.values) == set(histories.LEVELS) for row in rows)


def append_named(store: Path, host: str, nights: int) -> None:
    from dataclasses import replace

    for row in histories.history(7, nights, 0.02):
        assert stores.append_rows(store, [replace(row, host=host)]) == 1


def test_a_store_in_use_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "h.duckdb"
    stores.append(store, [of_night(1)])
    monkeypatch.setattr(stores, "WAIT_S", 0.0)
    with (tmp_path / "h.duckdb.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(HistoryError, match=r"another process has used .*h\.duckdb"):
            stores.append(store, [of_night(2)])
        with pytest.raises(HistoryError, match="another process"):
            stores.read(store)
    assert stores.append(store, [of_night(2)]) == 1


@pytest.mark.parametrize("version", range(1, len(stores.MIGRATIONS) + 1))
def test_every_version_is_brought_up_to_date(tmp_path: Path, version: int) -> None:
    store = tmp_path / "old.duckdb"
    with duckdb.connect(str(store)) as database:
        stores.migrate(database, upto=version)
        database.execute(
            "INSERT INTO launches (key, run, host, scenario, stack, load, profile, started_s, verdict)"
            " VALUES ('old@h', 'old', 'h', 'support-chatbot', '7b-t4-vllm', '100 users', 'full', 1e9, 'PASS')"
        )
        database.execute("INSERT INTO figures VALUES ('old@h', 'e2e_p95_s', 1.5)")
        if version >= 2:
            database.execute("INSERT INTO annotations VALUES ('old@h', 'harness', '0.0.9')")
        if version >= 3:
            database.execute("INSERT INTO baselines VALUES ('spring', 'old@h')")
    if version < len(stores.MIGRATIONS):
        with pytest.raises(HistoryError, match="older version"):
            stores.read(store)
    assert stores.append(store, [of_night(1)]) == 1
    rows = [row for found in stores.read(store).values() for row in found]
    old = next(row for row in rows if row.run == "old")
    assert (old.values, old.cell.marks) == ({"e2e_p95_s": 1.5}, "")
    assert old.annotations == ({"harness": "0.0.9"} if version >= 2 else {})
    assert stores.baselines(store) == ({"spring": frozenset({"old@h"})} if version >= 3 else {})
    with duckdb.connect(str(store), read_only=True) as database:
        assert stores.version_of(database) == len(stores.MIGRATIONS)


def test_a_newer_store_is_left_alone(tmp_path: Path) -> None:
    store = tmp_path / "new.duckdb"
    stores.append(store, [of_night(1)])
    with duckdb.connect(str(store)) as database:
        database.execute("UPDATE schema_version SET version = 99")
    for use in (lambda: stores.append(store, [of_night(2)]), lambda: stores.read(store)):
        with pytest.raises(HistoryError, match="newer harness"):
            use()


@pytest.mark.parametrize("content", [b"no database at all, but long enough to have a header " * 400, b"\0" * 9000])
def test_a_damaged_store_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    store = tmp_path / "h.duckdb"
    store.write_bytes(content)
    for use in (lambda: stores.append(store, [of_night(1)]), lambda: stores.read(store)):
        with pytest.raises(HistoryError, match=r"h\.duckdb cannot be used as a history: [^\n]+$"):
            use()
    assert store.read_bytes() == content


def test_a_truncated_store_is_one_sentence(tmp_path: Path) -> None:
    store = tmp_path / "h.duckdb"
    stores.append(store, [of_night(night) for night in range(1, 20)])
    store.write_bytes(store.read_bytes()[:5000])
    with pytest.raises(HistoryError, match=r"cannot be used as a history: [^\n]+$"):
        stores.read(store)


def test_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="harness history add"):
        stores.read(tmp_path / "none.duckdb")
    with pytest.raises(HistoryError, match="no file"):
        stores.read(tmp_path)


def test_a_baseline_is_renamed_as_a_whole(tmp_path: Path) -> None:
    store = tmp_path / "h.duckdb"
    assert stores.set_baseline(store, "spring", [of_night(1), of_night(2)]) == 2
    stores.set_baseline(store, "spring", [of_night(3)])
    assert stores.baselines(store) == {"spring": frozenset({"run-03@bench-01"})}
    assert len(next(iter(stores.read(store).values()))) == 3
