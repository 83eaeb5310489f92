"""The run directory: readable after a kill at any byte, sealed once, honest about a full disk."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import RunDirectoryError
from harness.manifest import Manifest
from harness.records import Sample
from harness.runlog import (
    MANIFEST,
    OUTPUTS,
    SAMPLES,
    SAMPLES_LIVE,
    SCHEMA,
    RunReader,
    RunWriter,
    run_directories,
    sample_batch,
    seal,
    write_atomically,
)
from tests.runs import Loop, failed, load, loop_run, sample, scenario, stack


def manifest() -> Manifest:
    return Manifest(run="r", profile="quick", scenario=scenario(), stack=stack(), load=load())


def write_batches(directory: Path, batches: int = 5, rows: int = 20) -> RunWriter:
    writer = RunWriter(directory)
    writer.open_samples()
    writer.write_manifest(manifest())
    for batch in range(batches):
        writer.append(sample_batch([sample(10.0 + row, sequence=batch * rows + row) for row in range(rows)]))
        writer.append_outputs([{"request": str(batch), "text": "voilà\u2028"}])
    return writer


def test_columns_are_the_fields_of_a_sample() -> None:
    assert SCHEMA.names == [field.name for field in fields(Sample)]


def test_samples_survive_the_round_trip(tmp_path: Path) -> None:
    made = [sample(error="a\nb", region="eu", gaps_us=(1, 2, 4_000_000_000)), failed(sent_s=math.nan)]
    writer = RunWriter(tmp_path / "run")
    writer.open_samples()
    writer.append(sample_batch(made))
    sealed = writer.seal(manifest())
    reader = RunReader(tmp_path / "run")
    assert reader.manifest == sealed
    assert reader.samples().schema.names == SCHEMA.names
    first, second = reader.samples().to_pylist()
    for name in SCHEMA.names:
        assert first[name] == (list(made[0].gaps_us) if name == "gaps_us" else getattr(made[0], name))
    assert math.isnan(second["sent_s"])


def test_a_running_run_can_be_read(tmp_path: Path) -> None:
    writer = write_batches(tmp_path)
    assert RunReader(tmp_path).samples().num_rows == writer.samples_written == 100
    assert len(list(RunReader(tmp_path).outputs())) == 5
    writer.close()


def test_sealing(tmp_path: Path) -> None:
    writer = write_batches(tmp_path)
    sealed = writer.seal(manifest())
    assert sealed.sealed
    assert set(sealed.digests) == {SAMPLES, OUTPUTS}
    assert not (tmp_path / SAMPLES_LIVE).exists()
    assert RunReader(tmp_path).altered_files() == ()
    again = seal(tmp_path, sealed)
    assert again == sealed
    assert RunReader(tmp_path).samples().num_rows == 100
    with pytest.raises(RunDirectoryError, match="between open_samples and seal"):
        writer.append(sample_batch([sample()]))
    with pytest.raises(RunDirectoryError, match="between open_samples and seal"):
        writer.append_outputs([{}])


def test_a_killed_run_can_be_sealed_afterwards(tmp_path: Path) -> None:
    write_batches(tmp_path).close()
    live = tmp_path / SAMPLES_LIVE
    live.write_bytes(live.read_bytes()[:-200])
    seal(tmp_path, RunReader(tmp_path).manifest)
    assert RunReader(tmp_path).samples().num_rows == 80
    assert RunReader(tmp_path).altered_files() == ()


def test_changed_and_missing_files_are_found(tmp_path: Path) -> None:
    write_batches(tmp_path).seal(manifest())
    (tmp_path / OUTPUTS).write_text("{}\n", encoding="utf-8")
    assert RunReader(tmp_path).altered_files() == (OUTPUTS,)
    (tmp_path / SAMPLES).unlink()
    assert set(RunReader(tmp_path).altered_files()) == {OUTPUTS, SAMPLES}


@pytest.fixture(scope="module")
def live_stream() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_batches(Path(folder)).close()
        return (Path(folder) / SAMPLES_LIVE).read_bytes()


@settings(max_examples=150)
@given(share=st.floats(0, 1))
def test_a_stream_cut_at_any_byte_is_readable(live_stream: bytes, share: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        cut = round(share * len(live_stream))
        (directory / SAMPLES_LIVE).write_bytes(live_stream[:cut])
        rows = RunReader(directory).samples()
        assert rows.num_rows % 20 == 0
        assert rows.column("sequence").to_pylist() == list(range(rows.num_rows))
        if cut == len(live_stream):
            assert rows.num_rows == 100


def test_a_half_written_output_is_left_out(tmp_path: Path) -> None:
    """Cut at any byte of the last line, inside its characters of two and three bytes as well."""
    write_batches(tmp_path).close()
    path = tmp_path / OUTPUTS
    whole = path.read_bytes()
    for cut in range(2, len(whole) // 5):
        path.write_bytes(whole[:-cut])
        assert [each["request"] for each in RunReader(tmp_path).outputs()] == ["0", "1", "2", "3"]


def test_one_directory_holds_one_run(tmp_path: Path) -> None:
    write_batches(tmp_path).close()
    with pytest.raises(RunDirectoryError, match="choose another --run-dir"):
        RunWriter(tmp_path)


def test_unreadable_directories_are_explained(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        _ = RunReader(tmp_path).manifest
    (tmp_path / MANIFEST).write_text("{", encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="is damaged or of another version"):
        _ = RunReader(tmp_path).manifest
    (tmp_path / MANIFEST).write_text(json.dumps({"format": 99}), encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="use a newer one"):
        _ = RunReader(tmp_path).manifest
    (tmp_path / SAMPLES).write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(RunDirectoryError, match="is damaged"):
        RunReader(tmp_path).samples()
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="cannot make the run directory"):
        RunWriter(tmp_path / "file" / "run")


def test_run_directories(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="nor has any folder in it"):
        run_directories(tmp_path)
    for name in ("b", "a"):
        write_batches(tmp_path / name).close()
    assert run_directories(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert run_directories(tmp_path / "a") == [tmp_path / "a"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json.part").symlink_to("/dev/full")
    with pytest.raises(RunDirectoryError, match="no space left on the disk"):
        write_atomically(tmp_path / MANIFEST, "{}")
    (tmp_path / OUTPUTS).symlink_to("/dev/full")
    writer = RunWriter(tmp_path)
    writer.open_samples()
    with pytest.raises(RunDirectoryError, match="no space left on the disk"):
        writer.append_outputs([{"text": "x"}])
    writer.close()


FILL = """
import resource, sys
from pathlib import Path
from harness.errors import RunDirectoryError
from harness.runlog import RunWriter, sample_batch
from tests.runs import sample
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
writer = RunWriter(Path(sys.argv[1]))
writer.open_samples()
try:
    for number in range(1000):
        writer.append(sample_batch([sample(sequence=number * 20 + row) for row in range(20)]))
except RunDirectoryError as error:
    print(error)
    writer.close()
    print(writer.samples_written)
"""


def test_what_was_recorded_before_the_disk_refused_is_kept(tmp_path: Path) -> None:
    """A limit on file sizes refuses writes as a full disk does, half-way through a batch."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FILL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    message, written = done.stdout.splitlines()
    assert message.startswith((f"cannot write in {tmp_path}", "no space left"))
    assert done.stderr == ""
    rows = RunReader(tmp_path).samples()
    assert rows.num_rows >= int(written) > 0
    assert rows.column("sequence").to_pylist() == list(range(rows.num_rows))


def test_a_copied_run_is_the_same_run(tmp_path: Path) -> None:
    loop_run(tmp_path / "run", Loop(users=3))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    here, there = RunReader(tmp_path / "run"), RunReader(tmp_path / "copy")
    assert here.manifest == there.manifest
    assert here.samples().equals(there.samples())
    assert there.altered_files() == ()


def test_an_empty_batch_is_no_harm(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    writer.open_samples()
    writer.append(pa.RecordBatch.from_pylist([], SCHEMA))
    writer.seal(manifest())
    assert RunReader(tmp_path).samples().num_rows == 0
