"""What a judgement says of telemetry whose truth is known: a loop of 20 users beside 110 s of readings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.judge import judge
from harness.judgement import Judgement, SeriesSummary, TelemetrySummary, Verdict
from harness.records import Sample
from harness.runlog import RunReader
from harness.telemetry_log import TELEMETRY, TELEMETRY_LIVE
from harness.telemetry_summary import LINE_POINTS
from tests.runs import (
    MONOTONIC,
    WALL,
    WORKER,
    Loop,
    load,
    loop_run,
    scenario,
    shifted,
    write_run,
    write_telemetry,
)

LOOP = Loop()
GPUS = {"0": "NVIDIA H100", "1": "NVIDIA H100"}

Line = dict[str, Any]


def lines(each: Callable[[float], Line], low: int = -4, high: int = 106) -> Iterator[Line]:
    """One line a second; ``each`` gives its content, at a moment after the run clock's zero."""
    for second in range(low, high):
        t = second + 0.25
        yield {"t": t, **each(t)}


def host(t: float) -> Line:
    return {"v": {"host_cpu_share": 0.5}}


def of_server(samples: list[Sample], factor: float = 1.0) -> Callable[[float], Line]:
    """A server that counts what is truly in flight, at most 8 of them running."""

    def each(t: float) -> Line:
        count = factor * sum(s.sent_s <= MONOTONIC + t < s.end_s for s in samples)
        running = min(count, 8)
        return {"v": {"host_cpu_share": 0.5, "running": running, "waiting": count - running, "scrape_failed": 0}}

    return each


def judged(directory: Path, recorded: Iterable[Line] | None, facts: Line | None = None, **changes: Any) -> Judgement:
    if recorded is not None:
        write_telemetry(directory, recorded, **(facts or {}))
    loop_run(directory, LOOP, **changes)
    return judge(directory)


def summary(directory: Path, each: Callable[[float], Line], **facts: Any) -> TelemetrySummary:
    found = judged(directory, lines(each), facts).telemetry
    assert found is not None
    return found


def series(found: TelemetrySummary, name: str, device: int | None = None) -> SeriesSummary:
    return next(each for each in found.series if (each.name, each.device) == (name, device))


def test_statistics_are_of_the_judged_window_alone(tmp_path: Path) -> None:
    found = summary(tmp_path, lambda t: {"v": {"host_cpu_share": 0.01 * (t - 0.25), "host_load_1m": 3}})
    share = series(found, "host_cpu_share")  # readings at 10.25, 11.25, ... 99.25
    assert (share.readings, share.min, share.max) == (90, pytest.approx(0.10), pytest.approx(0.99))
    assert share.mean == pytest.approx(0.545)
    assert share.p95 == pytest.approx(0.95)  # nearest rank: the 86th of 90
    assert {each.name for each in found.series} == {"host_cpu_share", "host_load_1m"}
    assert found.incomplete == ""


def test_a_counter_is_its_growth_and_a_restart_is_no_growth(tmp_path: Path) -> None:
    def each(t: float) -> Line:
        since = t if t < 50 else t - 50
        return {"v": {"output_tokens_total": 100 * since + 500, "preemptions_total": since // 10, "host_cpu_share": 0}}

    found = summary(tmp_path, each)
    tokens = series(found, "output_tokens_total")
    assert (tokens.readings, tokens.min, tokens.max) == (89, pytest.approx(100), pytest.approx(100))
    assert found.preemptions == 3 + 4 + 1  # at 20.25, 30.25, 40.25; 60.25, ... 90.25; at 10.25 the first


def test_the_servers_count_is_compared_at_its_own_moments(tmp_path: Path) -> None:
    judgement = judged(tmp_path, lines(of_server(LOOP.samples())))
    found = judgement.telemetry
    assert found is not None
    assert found.in_flight_server == found.in_flight_client
    assert found.in_flight_client == pytest.approx(judgement.load.in_flight_mean, rel=0.1)
    said = next(note for note in judgement.notes if note.startswith("the server says"))
    assert f"{found.in_flight_server:.3g} requests in flight" in said
    assert "differ" not in said


def test_a_server_that_others_use_is_told(tmp_path: Path) -> None:
    judgement = judged(tmp_path, lines(of_server(LOOP.samples(), factor=2)))
    assert any("they differ" in note for note in judgement.notes)
    assert judgement.verdict is Verdict.PASS


def test_half_a_count_is_no_count(tmp_path: Path) -> None:
    found = summary(tmp_path, lambda t: {"v": {"waiting": 3, "host_cpu_share": 0}})
    assert (found.in_flight_server, found.in_flight_client) == (None, None)


def test_readings_lie_on_the_samples_clock_whatever_the_wall_clock_did(tmp_path: Path) -> None:
    truth = of_server(LOOP.samples())
    for name, facts in (("stepped", {"anchor_wall_s": WALL + 3600}), ("elsewhere", {"host": "other"})):
        judgement = judged(tmp_path / name, lines(truth), facts)
        assert judgement.telemetry is not None
        assert judgement.telemetry.in_flight_server == judgement.telemetry.in_flight_client


def test_workers_of_other_hosts_have_clocks_of_their_own(tmp_path: Path) -> None:
    """Placed by the recorder's anchor: their monotonic clocks began at another time."""
    samples = shifted(LOOP.samples(), 70_000, worker=0)
    remote = WORKER.model_copy(
        update={"host": "there", "anchor_monotonic_s": MONOTONIC + 70_000, "samples_sent": len(samples)}
    )
    write_telemetry(tmp_path, lines(of_server(LOOP.samples())))
    write_run(tmp_path, samples, scenario(users=20), load(users_asked=20, users_reached=20), workers=(remote,))
    found = judge(tmp_path).telemetry
    assert found is not None
    assert found.in_flight_server == found.in_flight_client


def gpus(t: float, **more: Any) -> Line:
    """Two GPUs of 300 W and 100 W; the first has an energy counter."""
    first = {"gpu_power_w": 290.0, "gpu_energy_j": 300 * t + 9000, "gpu_utilization": 0.9, "gpu_throttle": 5}
    second = {"gpu_power_w": 100.0, "gpu_utilization": 0.1, "gpu_temperature_c": 40, "gpu_throttle": 1}
    return {"v": {"host_cpu_share": 0}, "g": {"0": {**first, "gpu_temperature_c": 60, **more}, "1": second}}


def test_energy_is_counted_where_it_can_be_and_integrated_where_not(tmp_path: Path) -> None:
    judgement = judged(tmp_path, lines(gpus), {"gpus": GPUS})
    assert judgement.telemetry is not None
    energy = judgement.telemetry.energy
    assert energy is not None
    assert energy.joules == pytest.approx(90 * (300 + 100))
    assert (energy.gpus, energy.source) == ((0, 1), "energy counter and integral of power")
    assert energy.requests == round((judgement.load.throughput_rps or 0) * 90) > 500
    assert energy.output_tokens == 11 * energy.requests
    assert energy.per_request_j == pytest.approx(36_000 / energy.requests)
    assert energy.per_1000_tokens_j == pytest.approx(36_000 / energy.output_tokens * 1000)
    assert judgement.telemetry.throttle_reasons == ("software power cap",)


def test_gpus_are_joined_and_kept_apart(tmp_path: Path) -> None:
    found = summary(tmp_path, gpus, gpus=GPUS)
    assert series(found, "gpu_power_w").mean == pytest.approx(390)
    assert series(found, "gpu_utilization").mean == pytest.approx(0.5)
    assert series(found, "gpu_temperature_c").max == 60
    assert series(found, "gpu_power_w", 1).mean == pytest.approx(100)


def test_only_the_servers_gpus_count(tmp_path: Path) -> None:
    found = summary(tmp_path, lambda t: gpus(t, gpu_server_processes=1), gpus=GPUS)
    assert found.gpus == {0: "NVIDIA H100"}
    assert found.energy is not None
    assert found.energy.joules == pytest.approx(90 * 300)
    assert {each.device for each in found.series if each.name.startswith("gpu")} == {0}


def test_without_a_gpu_nothing_of_one_is_there(tmp_path: Path) -> None:
    found = summary(tmp_path, host)
    assert found.energy is None
    assert found.throttle_reasons is None
    assert found.gpus == {}
    assert not [each for each in (*found.series, *found.lines) if each.name.startswith("gpu")]


def test_a_recorder_that_was_killed_takes_no_verdict_away(tmp_path: Path) -> None:
    judgement = judged(tmp_path, lines(gpus, high=60), {"gpus": GPUS, "ended": False})
    assert judgement.verdict is Verdict.PASS
    assert judgement.telemetry is not None
    assert judgement.telemetry.incomplete == "the recorder was killed or died 59 s after the run clock's zero"
    assert judgement.telemetry.energy is None  # not of half a window
    assert any(note.startswith("telemetry is incomplete: the recorder") for note in judgement.notes)
    assert judgement.telemetry.lines[-1].t_s[-1] == 59.25


@pytest.mark.parametrize(
    ("recorded", "says"),
    [
        (tuple(lines(host, low=30)), "the first reading came 30 s after"),
        (tuple(line for line in lines(host) if not 40 < line["t"] < 50), "no reading for 11 s"),
        (tuple(lines(lambda t: {"v": {"running": 1}})), "no readings of this host"),
        (tuple(lines(host, low=105)), "the first reading came"),
    ],
)
def test_other_gaps_are_told(tmp_path: Path, recorded: Iterable[Line], says: str) -> None:
    found = judged(tmp_path, recorded).telemetry
    assert found is not None
    assert says in found.incomplete


def test_failed_scrapes_are_counted_and_leave_a_gap(tmp_path: Path) -> None:
    def each(t: float) -> Line:
        answers = not 40 < t < 50
        return {"v": {"host_cpu_share": 0, "scrape_failed": int(not answers)} | ({"running": 2} if answers else {})}

    judgement = judged(tmp_path, lines(each), {"scrape_error": "HTTP 503"})
    found = judgement.telemetry
    assert found is not None
    assert (found.scrapes, found.scrape_failures) == (110, 10)
    assert any("10 of 110 scrapes" in note and "HTTP 503" in note for note in judgement.notes)
    running = next(line for line in found.lines if line.name == "running")
    assert running.values.count(None) == 1


def test_a_long_run_has_short_lines(tmp_path: Path) -> None:
    def tenth(t: float) -> Line:
        return {"v": {"host_cpu_share": 0, "running": 3.0, "kv_use": 0.123456789}}

    found = judged(tmp_path, ({"t": n / 10, **tenth(n)} for n in range(1100))).telemetry
    assert found is not None
    assert [line.name for line in found.lines] == ["running", "kv_use"]
    for line in found.lines:
        assert len(line.t_s) == len(line.values) <= LINE_POINTS
        assert set(line.values) <= {3.0, 0.1235}


def test_a_run_without_telemetry_says_so_in_one_note(tmp_path: Path) -> None:
    judgement = judged(tmp_path, None)
    assert judgement.telemetry is None
    assert [note for note in judgement.notes if "telemetry" in note] == [
        "no telemetry was recorded: nothing is known of the server's and the machine's own account"
    ]


def test_it_is_sealed_digested_and_read_again(tmp_path: Path) -> None:
    before = judged(tmp_path, lines(host))
    assert TELEMETRY in RunReader(tmp_path).manifest.digests
    assert not (tmp_path / TELEMETRY_LIVE).exists()
    assert judge(tmp_path) == before
    (tmp_path / TELEMETRY).write_bytes(b"PAR1")
    after = judge(tmp_path)
    assert after.verdict is Verdict.INVALID
    assert TELEMETRY in after.sentence
    assert after.telemetry is None
    assert any(note.startswith("no telemetry: ") for note in after.notes)


def test_an_unsealed_run_has_its_telemetry(tmp_path: Path) -> None:
    found = judged(tmp_path, lines(host), seal=False).telemetry
    assert found is not None
    assert series(found, "host_cpu_share").readings > 0


def test_a_run_that_never_started_is_summarised_all_the_same(tmp_path: Path) -> None:
    facts = load(users_asked=20, users_reached=3, started_s=None, judged_until_s=None, complete=False)
    judgement = judged(tmp_path, lines(gpus), {"gpus": GPUS}, load=facts)
    assert judgement.verdict is Verdict.INVALID
    assert judgement.telemetry is not None
    assert judgement.telemetry.series == ()
    assert judgement.telemetry.energy is None
