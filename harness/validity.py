"""What makes a run INVALID: faults on the harness's own side, in plain sentences.

Nothing the server does belongs here; that is a result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.certificate import Certificate
from harness.certify import CLIENT_SHARE, REMEDY, excesses, milliseconds, too_fast
from harness.judgement import ClientHealth
from harness.little import Loop
from harness.manifest import Manifest
from harness.metrics import Judged, Requests
from harness.records import OUT_OF_RESOURCES, LoadFacts, Outcome
from harness.statistics import nearest_rank

LITTLE_TOLERANCE = 0.02


def client_health(manifest: Manifest, judged: Judged) -> ClientHealth:
    """Summarise how well the load generator kept time, and whether every sample arrived."""
    workers, requests, rows = manifest.workers, judged.requests, judged.rows
    # Of the requests in flight when warm-up ended, many were sent while users were still being spawned.
    sent_in_window = rows if judged.window is None else rows & (requests.begin_s >= judged.window.low_s)
    lags = np.sort(requests.send_lag_s[sent_in_window & ~np.isnan(requests.send_lag_s)])
    sent = [w.samples_sent for w in workers if w.samples_sent is not None]
    return ClientHealth(
        workers=len(workers),
        hub_lag_p99_s=max((w.hub_lag_p99_s for w in workers if w.hub_lag_p99_s is not None), default=None),
        hub_lag_max_s=max((w.hub_lag_max_s for w in workers if w.hub_lag_max_s is not None), default=None),
        send_lag_p99_s=float(lags[nearest_rank(len(lags), 99) - 1]) if len(lags) else None,
        cpu_share_max=max((w.cpu_share for w in workers if w.cpu_share is not None), default=None),
        samples_sent=sum(sent) if sent else None,
        samples_written=manifest.load.samples_written if manifest.sealed else len(requests),
    )


def little_error(load: LoadFacts, loop: Loop | None) -> float | None:
    """Relative distance of the users that the samples account for from those asked; None in an open loop."""
    if loop is None or load.loop == "open":
        return None
    return abs(loop.users - load.users_asked) / load.users_asked


def faults(
    manifest: Manifest,
    requests: Requests,
    client: ClientHealth,
    loop: Loop | None,
    altered: Sequence[str],
    table: pa.Table,
) -> list[str]:
    """Everything that takes the verdict away, whatever the server did.

    ``table`` has the columns ``outcome`` and ``error`` of the samples.
    """
    found = list(manifest.problems)
    if altered:
        found.append(f"changed since the run was sealed: {', '.join(altered)}")
    found += _lost_samples(manifest, requests)
    found += _missing_users(manifest, loop)
    found += _missing_arrivals(manifest, requests)
    found += _out_of_resources(table)
    found += slow_client(manifest, client)
    return found


def _lost_samples(manifest: Manifest, requests: Requests) -> list[str]:
    found = []
    if requests.defects:
        found.append(
            f"{requests.defects:,} samples cannot be placed in time: no clock anchor of their worker, or no times"
        )
    if not manifest.sealed:
        return found  # killed: what was lost is unknown, and is judged as such
    silent = [str(w.worker) for w in manifest.workers if w.samples_sent is None]
    sent = sum(w.samples_sent or 0 for w in manifest.workers)
    written = manifest.load.samples_written
    if silent:
        found.append(f"load worker {', '.join(silent)} never reported its end, so samples may be lost")
    elif sent != written:
        found.append(f"the load workers sent {sent:,} samples and {written:,} were written")
    if written != len(requests):
        found.append(f"{written:,} samples were written and {len(requests):,} can be read")
    return found


def _missing_users(manifest: Manifest, loop: Loop | None) -> list[str]:
    load = manifest.load
    if load.loop == "open" or not manifest.sealed or load.started_s is None:
        return []
    if load.users_reached < load.users_asked:
        return [f"only {load.users_reached:,} of {load.users_asked:,} users ran"]
    error = little_error(load, loop)
    if loop is not None and error is not None and error > LITTLE_TOLERANCE:
        return [
            f"requests and think times account for {loop.users:,.1f} users, not the {load.users_asked:,} asked"
            f" (N = X (R + Z) must hold within {100 * LITTLE_TOLERANCE:g}%)"
        ]
    return []


def _missing_arrivals(manifest: Manifest, requests: Requests) -> list[str]:
    """Every arrival whose time came has a sample, and the shares of a whole run are the schedule."""
    load = manifest.load
    if load.loop == "closed" or not manifest.sealed or load.started_s is None:
        return []
    if load.ended_by == "run time" and load.arrivals_due != load.arrivals_scheduled:
        return [f"{load.arrivals_scheduled:,} arrivals were scheduled and the load workers met {load.arrivals_due:,}"]
    if load.arrivals_due != len(requests):
        return [f"{load.arrivals_due:,} arrivals were due and {len(requests):,} have a sample"]
    return []


def _out_of_resources(table: pa.Table) -> list[str]:
    """Requests that this machine kept from starting say nothing of the server."""
    refused = table.filter(pc.equal(table.column("outcome"), Outcome.REFUSED)).column("error")
    lacking = refused.filter(pc.starts_with(refused, pattern=OUT_OF_RESOURCES))
    if not len(lacking):
        return []
    return [
        f"{len(lacking):,} requests could not be started, {lacking[0].as_py()}: allow more open files (ulimit -n) or"
        " ports, or use more processes or hosts"
    ]


def certificate_faults(manifest: Manifest, certificate: Certificate | None, events_per_s: float | None) -> list[str]:
    """What the client's certificate says against the verdict; without one it says nothing."""
    if certificate is None:
        return []
    faster = too_fast(certificate, events_per_s)
    return [*excesses(certificate, manifest.scenario.sla), *([faster] if faster else [])]


def certificate_notes(manifest: Manifest, certificate: Certificate | None) -> list[str]:
    """What a reader must know of how the client was certified."""
    tls = "the load generator was certified over plain TCP: what TLS costs it is not in its certificate"
    plain = certificate is not None and certificate.shape is not None and not certificate.shape.tls
    notes = [tls] if plain and manifest.server.url.lower().startswith("https:") else []
    return [*notes, *_how_certified(certificate)]


def distribution_notes(manifest: Manifest, regions: int) -> list[str]:
    """What a reader must know of a run that came from several hosts or regions."""
    allowed_s = CLIENT_SHARE * _smallest_limit_s(manifest)
    unmeasured = [w for w in manifest.workers if w.clock_round_trip_s is None and w.host != manifest.host]
    notes = [f"the clock of load worker {w.worker} on {w.host} was not compared with the master's" for w in unmeasured]
    worst = max(manifest.workers, key=lambda worker: worker.clock_round_trip_s or 0.0, default=None)
    doubt_s = (worst.clock_round_trip_s or 0.0) / 2 if worst is not None else 0.0
    if worst is not None and doubt_s > allowed_s:
        notes.append(
            f"the clock of load worker {worst.worker} on {worst.host} is known only within {1e3 * doubt_s:.3g} ms (half"
            f" a round trip to the master), more than {100 * CLIENT_SHARE:g}% of the smallest limit"
            f" ({1e3 * allowed_s:.3g} ms): no latency depends on it, only when each request falls in the run"
        )
    if regions:
        notes.append(
            f"{regions} regions, each also judged by itself: of that many verdicts one is wrong more often than of one,"
            " and the cell's verdict is that of all requests together"
        )
    return notes


def _how_certified(certificate: Certificate | None) -> list[str]:
    if certificate is None:
        return ["the load generator was not certified: this run has no certificate.json"]
    if certificate.skipped:
        return [f"the load generator was not certified: {certificate.skipped}"]
    if certificate.reused_from:
        return [
            f"the load generator's certificate is that of {certificate.reused_from}, of the same shape on this host,"
            f" {certificate.age_s:.0f} s before"
        ]
    return []


def slow_client(manifest: Manifest, client: ClientHealth) -> list[str]:
    allowed = CLIENT_SHARE * _smallest_limit_s(manifest)
    lags = (("its event loop ran late", client.hub_lag_p99_s), ("requests were sent late", client.send_lag_p99_s))
    return [
        f"the load generator was the bottleneck: {what} by {milliseconds(lag)} ms at p99, more than"
        f" {100 * CLIENT_SHARE:g}% of the smallest limit ({milliseconds(allowed)} ms): {REMEDY}"
        for what, lag in lags
        if lag is not None and lag > allowed
    ]


def _smallest_limit_s(manifest: Manifest) -> float:
    return min((check.limit for check in manifest.scenario.sla if check.is_latency), default=math.inf)
