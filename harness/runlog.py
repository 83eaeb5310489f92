"""The run directory: its only reader and its only writer.

While load runs, samples are appended to ``samples.arrows`` (an Arrow IPC stream, one flushed
batch at a time), which stays readable after a kill. ``seal`` turns it into ``samples.parquet``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.certificate import CERTIFICATE_FORMAT, Certificate
from harness.errors import RunDirectoryError
from harness.json_file import read_json_file
from harness.manifest import Manifest
from harness.records import RUN_FORMAT, Sample
from harness.telemetry_log import TELEMETRY, Telemetry, read_telemetry, seal_telemetry

MANIFEST = "manifest.json"
SAMPLES = "samples.parquet"
SAMPLES_LIVE = "samples.arrows"
OUTPUTS = "outputs.jsonl"
SERVER_LOG = "server.log"
REPLICA_LOGS = "server-*.log"
CERTIFICATE = "certificate.json"
JUDGEMENT = "judgement.json"
REPORT = "report.html"
GAPS = "gaps_us"
ROW_GROUP = 100_000
"""Rows of one row group of ``samples.parquet``, about."""

SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("worker", pa.int32()),
        ("region", pa.string()),
        ("user", pa.int32()),
        ("sequence", pa.int32()),
        ("scenario", pa.string()),
        ("prompt_id", pa.string()),
        ("scheduled_s", pa.float64()),
        ("sent_s", pa.float64()),
        ("first_byte_s", pa.float64()),
        ("first_token_s", pa.float64()),
        ("last_token_s", pa.float64()),
        ("end_s", pa.float64()),
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("requested_tokens", pa.int32()),
        ("token_source", pa.string()),
        ("chunks", pa.int32()),
        ("gaps_us", pa.list_(pa.uint32())),
        ("outcome", pa.string()),
        ("http_status", pa.int32()),
        ("finish_reason", pa.string()),
        ("retries", pa.int32()),
        ("retry_s", pa.float64()),
        ("bytes", pa.int64()),
        ("cached_tokens", pa.int32()),
        ("error", pa.string()),
    ]
)
"""Columns of ``samples.parquet``: the fields of :class:`~harness.records.Sample`, in order."""

_COLUMNS = tuple(field.name for field in fields(Sample))


def sample_batch(samples: Sequence[Sample]) -> pa.RecordBatch:
    """Build one Arrow batch; for tests and small numbers (load workers build columns directly)."""
    columns = [pa.array([getattr(sample, name) for sample in samples], SCHEMA.field(name).type) for name in _COLUMNS]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


class RunWriter:
    """Writes one run directory; whatever ends the process, what was recorded until then is readable.

    Raises
    ------
    RunDirectoryError
        When the directory holds a run already, cannot be made, or the disk is full.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.samples_written = 0
        self._stream: pa.ipc.RecordBatchStreamWriter | None = None
        self._file: IO[bytes] | None = None
        self._outputs: IO[str] | None = None
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(f"cannot make the run directory {directory}: {error.strerror}") from error
        if (directory / MANIFEST).exists():
            raise RunDirectoryError(f"{directory} holds a run already; choose another --run-dir")

    def open_samples(self) -> None:
        with _disk_errors(self.directory):
            self._file = (self.directory / SAMPLES_LIVE).open("wb")
            self._stream = pa.ipc.new_stream(self._file, SCHEMA)
            self._file.flush()
            self._outputs = (self.directory / OUTPUTS).open("w", encoding="utf-8")

    def append(self, batch: pa.RecordBatch) -> None:
        """Append and flush one batch, so that a kill loses nothing already shipped."""
        if self._stream is None or self._file is None:
            raise RunDirectoryError("samples are appended only between open_samples and seal")
        with _disk_errors(self.directory):
            self._stream.write_batch(batch)
            self._file.flush()
        self.samples_written += batch.num_rows

    def append_outputs(self, outputs: Iterable[dict[str, Any]]) -> None:
        if self._outputs is None:
            raise RunDirectoryError("outputs are appended only between open_samples and seal")
        with _disk_errors(self.directory):
            for output in outputs:
                self._outputs.write(json.dumps(output, ensure_ascii=False) + "\n")
            self._outputs.flush()

    def write_manifest(self, manifest: Manifest) -> None:
        write_atomically(self.directory / MANIFEST, manifest.model_dump_json(indent=1))

    def close(self) -> None:
        for resource in (self._stream, self._file, self._outputs):
            if resource is not None:
                with contextlib.suppress(OSError, pa.ArrowException):
                    resource.close()
        self._stream = self._file = self._outputs = None

    def seal(self, manifest: Manifest) -> Manifest:
        """Turn the live stream into Parquet, digest every file and write the final manifest."""
        self.close()
        return seal(self.directory, manifest)


def seal(directory: Path, manifest: Manifest) -> Manifest:
    """Seal a directory whose writer is gone as well; samples already sealed stay as they are."""
    with _disk_errors(directory):
        live = directory / SAMPLES_LIVE
        if live.exists():
            partial = directory / (SAMPLES + ".part")
            with pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer:
                for group in _row_groups(_live_batches(live)):
                    writer.write_table(group)
            partial.replace(directory / SAMPLES)
            live.unlink()
        seal_telemetry(directory)
        digests = {name: file_digest(directory / name) for name in _sealed_files(directory)}
        sealed = manifest.model_copy(update={"sealed": True, "digests": digests})
        write_atomically(directory / MANIFEST, sealed.model_dump_json(indent=1))
        return sealed


def compactable(directory: Path) -> bool:
    """Whether :func:`compact` would do anything: a run whose SLA speaks of the gaps keeps them."""
    manifest, samples = RunReader(directory).manifest, directory / SAMPLES
    judges_gaps = any(check.metric == "itl" for check in manifest.scenario.sla)
    if not manifest.sealed or judges_gaps or not samples.exists():
        return False
    return not manifest.compacted or file_digest(samples) != manifest.digests[SAMPLES]


def compact(directory: Path) -> None:
    """Drop the gaps between tokens from a sealed run, most of its samples' bytes; all else stays to be judged.

    The manifest keeps the digest of before.

    Raises
    ------
    RunDirectoryError
        When the run is damaged, was altered, or cannot be written.
    """
    reader, samples = RunReader(directory), directory / SAMPLES
    manifest = reader.manifest
    if reader.altered_files():
        raise RunDirectoryError(f"{directory} was changed since it was sealed, so it is left as it is")
    table, field = reader.samples(), SCHEMA.field(GAPS)
    none = pa.ListArray.from_arrays(pa.array([0] * (table.num_rows + 1), pa.int32()), pa.array([], pa.uint32()))
    table = table.set_column(table.schema.get_field_index(GAPS), field, none)
    partial = directory / (SAMPLES + ".part")
    with _disk_errors(directory):
        pq.write_table(table, partial, compression="zstd", compression_level=19)
        before = manifest.compacted.get(SAMPLES, manifest.digests[SAMPLES])
        done = {"digests": manifest.digests | {SAMPLES: file_digest(partial)}, "compacted": {SAMPLES: before}}
        # In this order: should a kill come between, the file still has a digest that the manifest knows.
        write_atomically(directory / MANIFEST, manifest.model_copy(update=done).model_dump_json(indent=1))
        partial.replace(samples)


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Join what was shipped in quarters of a second: each row group has a cost of its own in the file's footer."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        if rows >= ROW_GROUP:
            yield pa.Table.from_batches(held, SCHEMA)
            held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held, SCHEMA)


class RunReader:
    """Reads one run directory, sealed or cut off."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def manifest(self) -> Manifest:
        missing = f"{self.directory} is not a run directory: it has no {MANIFEST}"
        return read_json_file(self.directory / MANIFEST, Manifest, RUN_FORMAT, missing)

    def samples(self) -> pa.Table:
        """All samples, in the order written; of an unsealed run, all whole batches.

        Raises
        ------
        RunDirectoryError
            When the Parquet file is damaged.
        """
        sealed = self.directory / SAMPLES
        if sealed.exists():
            try:
                return pq.read_table(sealed, schema=SCHEMA)
            except (OSError, pa.ArrowException) as error:
                raise RunDirectoryError(f"{sealed} is damaged: {error}") from error
        return pa.Table.from_batches(list(_live_batches(self.directory / SAMPLES_LIVE)), SCHEMA)

    def telemetry(self) -> Telemetry | None:
        """What was recorded beside the load; None where nothing was.

        Raises
        ------
        RunDirectoryError
            When the Parquet file is damaged.
        """
        return read_telemetry(self.directory)

    def outputs(self) -> Iterator[dict[str, Any]]:
        path = self.directory / OUTPUTS
        if not path.exists():
            return
        with path.open(encoding="utf-8", errors="replace") as lines:  # a kill may cut a character
            for line in lines:
                with contextlib.suppress(json.JSONDecodeError):  # the last line of a killed run
                    yield json.loads(line)

    def altered_files(self) -> tuple[str, ...]:
        """Names of sealed files whose digest no longer matches."""
        manifest = self.manifest
        return tuple(
            name
            for name, digest in manifest.digests.items()
            if not (self.directory / name).exists()
            or file_digest(self.directory / name) not in (digest, manifest.compacted.get(name))
        )


def write_certificate(directory: Path, certificate: Certificate) -> None:
    write_atomically(directory / CERTIFICATE, certificate.model_dump_json(indent=1))


def read_certificate(directory: Path) -> Certificate | None:
    """The client's certificate; None for a run that has none.

    Raises
    ------
    RunDirectoryError
        When it is damaged, or of a newer version.
    """
    path = directory / CERTIFICATE
    return read_json_file(path, Certificate, CERTIFICATE_FORMAT, "") if path.exists() else None


def run_directories(path: Path) -> list[Path]:
    """The run directories at ``path``: itself, or those one level below (a matrix)."""
    if (path / MANIFEST).exists():
        return [path]
    found = sorted(child.parent for child in path.glob(f"*/{MANIFEST}"))
    if not found:
        raise RunDirectoryError(f"{path} is not a run directory: it has no {MANIFEST}, nor has any folder in it")
    return found


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or leave the old one."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that takes ``path``'s place when it is whole, and never if it could not be finished."""
    partial = path.with_name(path.name + ".part")
    with _disk_errors(path.parent):
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        partial.replace(path)


def _live_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Whole batches of a stream that may end in the middle of one."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb") as file:
        try:
            reader = pa.ipc.open_stream(file)
            while True:
                yield reader.read_next_batch()
        except (StopIteration, pa.ArrowException, OSError):
            return


def _sealed_files(directory: Path) -> list[str]:
    replicas = sorted(path.name for path in directory.glob(REPLICA_LOGS))
    names = (SAMPLES, OUTPUTS, TELEMETRY, SERVER_LOG, *replicas, CERTIFICATE)
    return [name for name in names if (directory / name).exists()]


def file_digest(path: Path) -> str:
    """``sha256:...``."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _disk_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunDirectoryError(
                f"no space left on the disk of {directory}; what was recorded until now is kept"
            ) from error
        raise RunDirectoryError(f"cannot write in {directory}: {error}") from error
