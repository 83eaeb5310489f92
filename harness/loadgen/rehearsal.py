"""A rehearsal on one load-generating process: the run's users, for seconds, against a null server of known timing.

The way is the run's own: :class:`Session` and its client, Locust's request event, recording, Arrow batches shipped
to the leader. Only the users' greenlets are ours instead of Locust's, which would end its test with them.
"""

from __future__ import annotations

import gc
import json
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.cell import Cell
from harness.certificate import Certificate, Shape
from harness.certify import SPAWN_S, Seen, join, rehearsal_cell, spread
from harness.errors import HarnessError, LoadError
from harness.loadgen import messages
from harness.loadgen.recorder import from_bytes
from harness.loadgen.session import Session
from harness.records import WorkerFacts, request_id
from harness.runlog import SCHEMA
from servers import null_server
from servers.process import ServerProcess

if TYPE_CHECKING:
    from locust.env import Environment

NULL_SERVER_PEM = Path(null_server.__file__).with_name("null_server.pem")
"""Certificate and key of 127.0.0.1. The key is public, so nothing but a rehearsal may trust it."""
ROOT = Path(null_server.__file__).parents[1]
"""``-m`` looks in the working directory, so that a checkout that is not installed runs too."""
_READY_S = 10.0
_DRAIN_S = 3.0
_STOP_GRACE_S = 10.0
"""For the null server to write its log."""


def rehearse(environment: Environment, cell: Cell, shape: Shape, worker: int) -> Certificate:
    """Rehearse and compare; whatever goes wrong is the certificate's ``problem``."""
    folder = Path(tempfile.mkdtemp(prefix="harness-certificate-"))
    about = Certificate(host=socket.gethostname(), shape=shape)
    try:
        return _rehearse(environment, cell, shape, worker, folder, about)
    except (HarnessError, OSError, ValueError) as error:
        return about.model_copy(update={"made_s": time.time(), "problem": str(error)})
    finally:
        gc.unfreeze()  # the rehearsal's users are gone: the run's start collects what they left
        environment.stats.clear_all()
        shutil.rmtree(folder, ignore_errors=True)


def _rehearse(
    environment: Environment, cell: Cell, shape: Shape, worker: int, folder: Path, about: Certificate
) -> Certificate:
    log = folder / "truth"
    server = _start_null_server(shape, log, folder)
    try:
        address = f"{'https' if shape.tls else 'http'}://127.0.0.1:{_port(server, folder)}"
        alike = rehearsal_cell(cell, shape, address, str(NULL_SERVER_PEM) if shape.tls else None)
        session = _RehearsalSession(environment, alike, worker)
        began_s, ended_s = _load(session, shape)
    finally:
        server.stop()
    if not log.exists():
        raise LoadError(f"the null server wrote no log; it said: {' '.join(server.tail(5))}")
    table = session.table()
    window = (pc.field("sent_s") >= began_s) & (pc.field("end_s") <= ended_s)
    table = table.filter(window) if table.num_rows else table
    truth = null_server.read_truth(log)
    errors = join(_seen(table), truth.ids, *(np.frombuffer(column) for column in truth[1:]))
    seconds = ended_s - began_s
    ended = session.table().filter(_ended_in(began_s, ended_s))
    events = (int(pc.sum(ended["chunks"]).as_py() or 0) if shape.stream else ended.num_rows) / seconds
    facts = session.ended
    cpu_share = facts.cpu_share if facts is not None else None
    e2e = spread(errors.e2e_s)
    return about.model_copy(
        update={
            "made_s": time.time(),
            "requests": len(errors.ttft_s),
            "unmatched": errors.unmatched,
            "events_per_s": events,
            "requests_per_s": len(errors.ttft_s) / seconds,
            "ttft": spread(errors.ttft_s),
            "e2e": e2e,
            "tpot": spread(errors.tpot_s),
            "hub_lag_p50_s": facts.hub_lag_p50_s if facts else None,
            "hub_lag_p99_s": facts.hub_lag_p99_s if facts else None,
            "hub_lag_max_s": facts.hub_lag_max_s if facts else None,
            "cpu_share": cpu_share,
            "cpu_per_event_s": cpu_share / events if cpu_share is not None and events else None,
            "headroom": events / cpu_share / (shape.needed_events_per_s / shape.workers) if cpu_share else None,
            "problem": "" if e2e else "no request of its rehearsal was answered in time",
        }
    )


def _ended_in(began_s: float, ended_s: float) -> Any:
    return (pc.field("end_s") >= began_s) & (pc.field("end_s") <= ended_s)


def _load(session: _RehearsalSession, shape: Shape) -> tuple[float, float]:
    """Drive this process's share of the users; return the measured time on the monotonic clock."""
    users = -(-shape.users // shape.workers)
    greenlets = []
    try:
        start_s = time.monotonic()
        for user in range(users):
            greenlets.append(gevent.spawn(session.drive))
            if user % 16 == 15:
                gevent.sleep(max(0.0, start_s + SPAWN_S * user / users - time.monotonic()))
        gevent.sleep(max(0.0, start_s + shape.warm_s - time.monotonic()))
        session.started(0.0)
        began_s = time.monotonic()
        gevent.sleep(shape.measure_s)
        ended_s = time.monotonic()
        session.end(min(_DRAIN_S, 1.0 + shape.ttft_s + shape.gap_s * shape.tokens))
    finally:
        session.issuing = False
        gevent.killall(greenlets, timeout=_DRAIN_S)
    return began_s, ended_s


class _RehearsalSession(Session):
    """Ships as a run does, under another name, and keeps what it shipped."""

    def __init__(self, environment: Environment, cell: Cell, worker: int) -> None:
        self.batches: list[pa.RecordBatch] = []
        self.ended: WorkerFacts | None = None
        super().__init__(environment, cell, worker)

    def _send(self, message: str, data: dict[str, Any]) -> None:
        if message == messages.SAMPLES:
            self.batches.append(from_bytes(data["batch"]))
            super()._send(messages.REHEARSED, data)
        elif message == messages.END:
            self.ended = WorkerFacts.model_validate_json(data["facts"])

    def table(self) -> pa.Table:
        return pa.Table.from_batches(self.batches, SCHEMA)


def _seen(table: pa.Table) -> Seen:
    run, worker, user, sequence = (table[name].to_pylist() for name in ("run", "worker", "user", "sequence"))
    return Seen(
        ids=[request_id(*names) for names in zip(run, worker, user, sequence, strict=True)],
        ok=np.asarray(pc.equal(table["outcome"], "ok").to_numpy(), dtype=bool),
        sent_s=table["sent_s"].to_numpy(),
        first_s=table["first_token_s"].to_numpy(),
        last_s=table["last_token_s"].to_numpy(),
        end_s=table["end_s"].to_numpy(),
        tokens=table["chunks"].to_numpy(),
    )


def _start_null_server(shape: Shape, log: Path, folder: Path) -> ServerProcess:
    # It stands for a server elsewhere: load that is bound to one core must not share that core with it.
    plain = (sys.executable, "-I", "-S", null_server.__file__, "--any-core")
    command = [sys.executable, "-m", "servers.null_grpc_server"] if shape.protocol == "triton-grpc" else [*plain]
    command += ["--log", str(log), "--tokens", str(shape.tokens)]
    command += ["--ttft", str(shape.ttft_s), "--gap", str(shape.gap_s)]
    command += ["--tls", str(NULL_SERVER_PEM)] if shape.tls else []
    return ServerProcess(
        command, log_file=folder / "stderr", stdout_file=folder / "stdout", directory=ROOT, grace_s=_STOP_GRACE_S
    )


def _port(server: ServerProcess, folder: Path) -> int:
    deadline_s = time.monotonic() + _READY_S
    while True:
        line, newline, _ = (folder / "stdout").read_text(encoding="utf-8").partition("\n")
        if newline:
            return int(json.loads(line)["port"])
        if server.poll() is not None or time.monotonic() >= deadline_s:
            raise LoadError(f"the null server did not start; it said: {' '.join(server.tail(5)) or 'nothing'}")
        gevent.sleep(0.01)
