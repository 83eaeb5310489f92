"""The leader's side of certification: asks the load processes to rehearse, weighs what they say, writes it down."""

from __future__ import annotations

import fcntl
import shutil
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
import pyarrow as pa
import pyarrow.compute as pc

from harness.cell import Cell
from harness.certificate import Certificate, Shape
from harness.certify import (
    LIGHT_EVENTS_PER_S,
    excesses,
    merge,
    reusable,
    shape_of,
    too_fast,
    why_skipped,
)
from harness.errors import RunDirectoryError
from harness.loadgen import messages
from harness.loadgen.recorder import from_bytes
from harness.runlog import RunWriter, read_certificate, write_certificate

if TYPE_CHECKING:
    from locust.runners import Runner

ATTEMPTS = 3
"""A neighbour's burst must not spoil a run: the best of so many counts. Lasting starvation spoils them all."""
_REPLY_GRACE_S = 20.0
_RATE_WINDOW_S = 5.0
_HALF_A_BATCH_S = 0.125
_POLL_S = 0.05
_NO_ANSWER = "a load process did not answer"

Interrupted = Callable[[], bool]


class SeenRate:
    """The largest rate of streamed events over any 5 s of a run, counted where samples arrive, four times a second."""

    def __init__(self, streamed: bool = True) -> None:
        self.peak_per_s: float | None = None
        self._streamed = streamed
        self._recent: deque[tuple[float, int]] = deque()
        self._sum = 0
        self._began_s = time.monotonic()

    def add(self, batch: pa.RecordBatch, now_s: float | None = None) -> None:
        now_s = time.monotonic() if now_s is None else now_s
        events = (pc.sum(batch["chunks"]).as_py() or 0) if self._streamed else batch.num_rows
        self._recent.append((now_s, events))
        self._sum += events
        while self._recent[0][0] < now_s - _RATE_WINDOW_S + _HALF_A_BATCH_S:  # a batch holds what came before it
            self._sum -= self._recent.popleft()[1]
        if now_s - self._began_s >= _RATE_WINDOW_S:
            self.peak_per_s = max(self.peak_per_s or 0.0, self._sum / _RATE_WINDOW_S)


class Certifier:
    """``share``: cells of one matrix that run side by side may use one certificate."""

    def __init__(self, runner: Runner, share: bool) -> None:
        self._runner: Any = runner
        self._share = share
        self._replies: list[Certificate] = []
        self._writer: RunWriter | None = None
        runner.register_message(messages.REHEARSED, self._on_samples)
        runner.register_message(messages.CERTIFIED, self._on_certified)

    def before(self, cell: Cell, interrupted: Interrupted) -> Certificate:
        """Certify and write; a run that is interrupted meanwhile gets what there is."""
        skipped = why_skipped(cell)
        if skipped:
            certificate = Certificate(made_s=time.time(), host=socket.gethostname(), skipped=skipped)
        else:
            certificate = self._shared(cell, shape_of(cell, self._runner.worker_count), interrupted)
        write_certificate(cell.run_dir, certificate)
        self._runner.stats.clear_all()  # of Locust: its own page shows the run alone
        return certificate

    def after(self, cell: Cell, first: Certificate, seen_per_s: float | None, interrupted: Interrupted) -> None:
        """Certify again at the rate that a run made, when it exceeded what it was certified for."""
        if seen_per_s is None or not too_fast(first, seen_per_s):
            return
        shape = shape_of(cell, self._runner.worker_count, seen_per_s)
        again = self._certify(cell, shape, interrupted)
        update = {"when": "after the run", "first": first}
        write_certificate(cell.run_dir, again.model_copy(update=update))

    def _shared(self, cell: Cell, shape: Shape, interrupted: Interrupted) -> Certificate:
        if not (self._share and cell.emulated and shape.needed_events_per_s <= LIGHT_EVENTS_PER_S):
            return self._certify(cell, shape, interrupted)
        matrix = cell.run_dir.parent
        with _turn(matrix / f".certificate-{shape.protocol}-{shape.users}.lock", interrupted):
            found = _beside(cell, shape)
            return found if found is not None else self._certify(cell, shape, interrupted, keep=True)

    def _certify(self, cell: Cell, shape: Shape, interrupted: Interrupted, keep: bool = False) -> Certificate:
        best: Certificate | None = None
        for attempt in range(1, ATTEMPTS + 1):
            made = self._ask(cell, shape, interrupted).model_copy(update={"attempts": attempt})
            if best is None or _badness(made, cell) <= _badness(best, cell):
                best = made
            if interrupted() or made.problem == _NO_ANSWER or not excesses(made, cell.scenario.sla):
                break
        assert best is not None
        best = best.model_copy(update={"attempts": attempt})
        if keep:  # before the next one looks
            write_certificate(cell.run_dir, best)
        return best

    def _ask(self, cell: Cell, shape: Shape, interrupted: Interrupted) -> Certificate:
        """Have every load process rehearse at once; their samples are written as a run's are, and thrown away."""
        scratch = cell.run_dir / "certificate.tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        self._replies = []
        self._writer = RunWriter(scratch)
        try:
            self._writer.open_samples()
            self._runner.send_message(
                messages.CERTIFY, {"cell": cell.model_dump_json(), "shape": shape.model_dump_json()}
            )
            deadline_s = time.monotonic() + shape.warm_s + shape.measure_s + _REPLY_GRACE_S
            while len(self._replies) < shape.workers and time.monotonic() < deadline_s and not interrupted():
                if self._runner.worker_count < shape.workers:  # one is gone, and will not answer
                    break
                gevent.sleep(_POLL_S)
        finally:
            writer, self._writer = self._writer, None
            writer.close()
            shutil.rmtree(scratch, ignore_errors=True)
        if len(self._replies) < shape.workers:
            why = "it was interrupted" if interrupted() else _NO_ANSWER
            return Certificate(made_s=time.time(), host=socket.gethostname(), shape=shape, problem=why)
        return merge(self._replies)

    def _on_samples(self, msg: Any, **_: Any) -> None:
        if self._writer is not None:
            self._writer.append(from_bytes(msg.data["batch"]))
            self._writer.append_outputs(msg.data["outputs"])

    def _on_certified(self, msg: Any, **_: Any) -> None:
        self._replies.append(Certificate.model_validate_json(msg.data["certificate"]))


def _badness(certificate: Certificate, cell: Cell) -> tuple[bool, int, float]:
    found = excesses(certificate, cell.scenario.sla)
    return bool(certificate.problem), len(found), certificate.e2e.p99_s if certificate.e2e else 0.0


def _beside(cell: Cell, shape: Shape) -> Certificate | None:
    """A certificate of the same shape and host in a run directory beside this one, not older than ten minutes."""
    host, now_s = socket.gethostname(), time.time()
    for directory in sorted(path.parent for path in cell.run_dir.parent.glob("*/certificate.json")):
        try:
            found = read_certificate(directory)
        except RunDirectoryError:
            continue
        if found is not None and reusable(found, shape, host, now_s, cell.scenario.sla):
            return found.model_copy(update={"reused_from": directory.name, "age_s": round(now_s - found.made_s, 1)})
    return None


@contextmanager
def _turn(path: Path, interrupted: Interrupted) -> Iterator[None]:
    """Wait for one's turn among cells of one shape, without stopping this process's event loop."""
    with path.open("w") as lock:
        while not interrupted():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                gevent.sleep(_POLL_S)
        yield
