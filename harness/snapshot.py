"""What a run says of itself while it lasts: the latest state of one cell, for whoever watches.

A watching process beside the load (never the load generator itself) reads what is on disk, judges it as far as it goes,
and replaces ``live.json`` in the run directory every :data:`EVERY_S`. Terminal, web page and stopping rule read that.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from harness.judgement import CheckResult, Distribution, Verdict
from harness.records import Record
from harness.runlog import write_atomically

LIVE = "live.json"
EVERY_S = 2.0


class LiveClient(Record):
    """The load generator's own health over the last seconds; None where it is not known yet."""

    hub_lag_p99_s: float | None = None
    cpu_share_max: float | None = None
    warnings: tuple[str, ...] = ()
    """What would make the run INVALID if it stayed so."""


class Snapshot(Record):
    """One cell at one moment of its load. Seconds after the run clock's zero, unless a name says otherwise."""

    format: int = 1
    run: str
    scenario: str
    stack: str
    written_at_s: float
    """Wall clock."""
    elapsed_s: float | None = None
    """None: the clock has not started (users are still spawning)."""
    warm_up_s: float = 0.0
    run_time_s: float = 0.0
    users: int = 0
    users_asked: int = 0
    in_flight: int | None = None
    completed: int = 0
    """Requests that ended, of the whole run."""
    failed: int = 0
    judged: int = 0
    """Requests of the judged window so far."""
    throughput_rps: float | None = None
    output_tokens_per_s: float | None = None
    slo_attainment: float | None = None
    verdict: Verdict = Verdict.INCONCLUSIVE
    """What the judged requests so far would say at the run's own confidence. It is no verdict: it may turn."""
    sentence: str = ""
    checks: tuple[CheckResult, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    client: LiveClient = LiveClient()


def write_snapshot(run_dir: Path, snapshot: Snapshot) -> None:
    write_atomically(run_dir / LIVE, snapshot.model_dump_json())


def read_snapshot(run_dir: Path) -> Snapshot | None:
    """The newest snapshot; None before the first, or where it cannot be read (it is only a view)."""
    try:
        return Snapshot.model_validate_json((run_dir / LIVE).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None
