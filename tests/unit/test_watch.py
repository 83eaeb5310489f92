"""What the watching process reads of a run that is being written, and what it says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.judgement import Verdict
from harness.manifest import Manifest
from harness.metrics import read_requests
from harness.runlog import SAMPLES_LIVE, RunWriter, sample_batch
from harness.snapshot import LIVE, read_snapshot
from harness.watch import samples as watch_samples
from harness.watch.__main__ import Watch
from harness.watch.channel import FOLDER, NEWS, LineReader, LoadNews, append, clear
from harness.watch.samples import SampleTail
from harness.watch.view import Counts, SoFar, judged_so_far, snapshot
from tests import runs


def started(*sla: str, **changes: object) -> Manifest:
    """As it is written when the run clock starts."""
    load = runs.load(judged_until_s=None, stopped_issuing_s=None, drained_s=None, ended_by="", complete=False)
    facts = {"run": "r", "profile": "quick", "scenario": runs.scenario(*sla), "stack": runs.stack(), "load": load}
    return Manifest.model_validate({**facts, "workers": (runs.WORKER,), **changes})


def test_samples_are_read_as_they_are_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_samples, "_JOIN_AT", 3)
    writer, tail = RunWriter(tmp_path), SampleTail(tmp_path)
    tail.read()  # nothing is there yet
    writer.open_samples()
    written = []
    for place in range(20):
        batch = [runs.sample(place + each / 10, user=place) for each in range(3)] + [runs.failed(place + 0.5)]
        writer.append(sample_batch(batch))
        written += batch
        tail.read()
        assert (tail.seen, tail.failed) == (4 * (place + 1), place + 1)
    whole = runs.table(written)
    kept = read_requests(tail.table(), [runs.WORKER], runs.load())
    told = read_requests(whole, [runs.WORKER], runs.load())
    assert kept.values["e2e"].tolist() == told.values["e2e"].tolist()
    assert kept.values["tpot"].tolist()[:3] == told.values["tpot"].tolist()[:3]
    assert tail.table().nbytes < whole.nbytes / 2
    writer.close()


def test_a_batch_that_is_half_written_is_waited_for(tmp_path: Path) -> None:
    writer, tail = RunWriter(tmp_path), SampleTail(tmp_path)
    writer.open_samples()
    for place in range(2):
        writer.append(sample_batch([runs.sample(float(place))]))
    path = tmp_path / SAMPLES_LIVE
    whole = path.read_bytes()
    for cut in (3, 300, len(whole) - 900, len(whole) - 1):
        path.write_bytes(whole[:cut])
        tail.read()
        assert tail.seen < 2
    path.write_bytes(whole)
    tail.read()
    tail.read()
    assert tail.seen == tail.table().num_rows == 2
    writer.close()


def test_memory_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_samples, "MOST_SAMPLES", 10)
    writer, tail = RunWriter(tmp_path), SampleTail(tmp_path)
    writer.open_samples()
    for place in range(4):
        writer.append(sample_batch([runs.sample(float(place)), runs.sample(place + 0.5), runs.failed(place + 0.7)]))
        tail.read()
    assert not tail.whole
    assert (tail.seen, tail.failed, tail.table().num_rows) == (12, 4, 0)
    writer.close()


def test_lines_are_read_once_and_a_cut_one_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / FOLDER / NEWS
    path.parent.mkdir()
    reader = LineReader(path, LoadNews)
    assert reader.read() == []
    append(path, LoadNews(users=1))
    append(path, LoadNews(users=2, in_flight=1))
    assert [news.users for news in reader.read()] == [1, 2]
    with path.open("a") as file:
        file.write('{"users": 3')
    assert reader.read() == []
    with path.open("a") as file:
        file.write('}\nnot one\n{"users": 4}\n')
    assert [news.users for news in reader.read()] == [3, 4]
    clear(tmp_path)
    append(path, LoadNews())
    assert list(tmp_path.iterdir()) == []


def test_what_is_judged_so_far() -> None:
    """Issued since the warm-up, and so long ago that it would be over; what is younger is left out."""
    manifest = started("p95(e2e) < 2 s", "error_rate < 1 %", "p95(itl) < 1 s")
    many = [runs.sample(start / 10, 0.5) for start in range(600)]
    found = judged_so_far(manifest, runs.table(many), elapsed_s=42.0)
    assert found.judged == pytest.approx(300, abs=10)  # issued in 10 s to 40 s, and those in flight at 10 s
    assert found.throughput_rps == pytest.approx(10, rel=0.05)
    assert found.output_tokens_per_s == pytest.approx(110, rel=0.05)
    assert [check.metric for check in found.checks] == ["e2e", "error_rate"]
    assert found.slo_attainment == 1.0
    slow = judged_so_far(manifest, runs.table([runs.sample(start / 10, 3.0) for start in range(600)]), elapsed_s=42.0)
    assert (slow.verdict, slow.slo_attainment) == (Verdict.FAIL, 0.0)
    assert "p95(e2e) is 3 s" in slow.sentence
    early = judged_so_far(manifest, runs.table(many), elapsed_s=9.0)
    assert (early.judged, early.verdict) == (0, Verdict.INCONCLUSIVE)
    assert "warm-up" in early.sentence


def test_a_snapshot_warns_of_a_client_that_runs_late() -> None:
    news = LoadNews(users=1, in_flight=1, hub_lag_p99_s=0.5, cpu_share_max=0.99)
    seen = snapshot(started(), news, Counts(7, 2), SoFar(judged=5), runs.WALL + 12.5)
    assert (seen.elapsed_s, seen.completed, seen.failed, seen.judged, seen.in_flight) == (12.5, 7, 2, 5, 1)
    assert len(seen.client.warnings) == 1
    assert "event loop ran late by 500 ms" in seen.client.warnings[0]
    calm = snapshot(started(), LoadNews(hub_lag_p99_s=0.001), Counts(), SoFar(), runs.WALL)
    assert calm.client.warnings == ()


def test_a_watch_follows_a_run_from_its_first_file(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    watch.look_around()
    assert not (tmp_path / LIVE).exists()
    writer = RunWriter(tmp_path)
    writer.open_samples()
    manifest = started()
    writer.write_manifest(manifest.model_copy(update={"load": manifest.load.model_copy(update={"started_s": None})}))
    watch.look_around()
    waiting = read_snapshot(tmp_path)
    assert waiting is not None
    assert waiting.elapsed_s is None
    writer.write_manifest(manifest)
    writer.append(sample_batch([runs.sample(start / 10, 0.5) for start in range(1000)]))
    (tmp_path / FOLDER).mkdir()
    append(tmp_path / FOLDER / NEWS, LoadNews(users=1, in_flight=3))
    watch.look_around()
    seen = read_snapshot(tmp_path)
    assert seen is not None
    assert (seen.completed, seen.users, seen.in_flight) == (1000, 1, 3)
    assert seen.verdict is Verdict.PASS
    assert {each.metric for each in seen.distributions} >= {"e2e", "ttft"}
    writer.close()


def test_a_folder_that_is_gone_is_no_failure(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    watch = Watch(folder)
    watch.look_around()
    assert not folder.exists()
