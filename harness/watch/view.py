"""From what a run has written so far to a snapshot of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from harness.evidence import Terms, longest_limit
from harness.judgement import CheckResult, ClientHealth, Distribution, Verdict
from harness.manifest import Manifest
from harness.metrics import judged_part, read_requests
from harness.objective import Objective
from harness.records import LoadFacts
from harness.sla import cell_verdict, evaluate, good_and_bad, measured
from harness.snapshot import LiveClient, Snapshot
from harness.summary import distributions
from harness.validity import slow_client
from harness.watch.channel import LoadNews


@dataclass(frozen=True, slots=True)
class SoFar:
    """What judging the requests so far gave; it costs more than the rest of a snapshot, and may be older."""

    judged: int = 0
    throughput_rps: float | None = None
    output_tokens_per_s: float | None = None
    slo_attainment: float | None = None
    verdict: Verdict = Verdict.INCONCLUSIVE
    sentence: str = ""
    checks: tuple[CheckResult, ...] = ()
    distributions: tuple[Distribution, ...] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """Of the whole run."""

    completed: int = 0
    failed: int = 0


def judged_so_far(manifest: Manifest, table: pa.Table, elapsed_s: float) -> SoFar:
    """Judge what was issued since the warm-up, and so long ago that it is over while every limit is kept.

    Requests in flight are not known here, so a server that answers some and leaves others waiting looks better than
    it is. A look at which a run may end asks for them.
    """
    load, sla = manifest.load, manifest.scenario.sla
    settled_s = longest_limit([each for each in sla if each.is_latency])
    until_s = min(load.run_time_s, elapsed_s - manifest.scenario.longest_limit_s)
    requests = read_requests(table, manifest.workers, _cut(load, until_s))
    judged = judged_part(_cut(load, until_s), requests, settled_s, streamed=manifest.stream)
    window = judged.window
    if window is None or not judged.rows.any():
        return SoFar(sentence="nothing to judge yet: the warm-up is not over" if window is None else "")
    checks = evaluate(sla, judged, Terms(manifest.confidence))
    checks = tuple(each for each in checks if each.metric != "itl")  # gaps are not kept here
    verdict = cell_verdict(checks)
    good, bad = (judged.rows & rows for rows in good_and_bad(_without_gaps(manifest), requests))
    known = int((good | bad).sum())
    ended = judged.ended_in_window(requests.ok)
    spreads = distributions(manifest, judged)[0]
    return SoFar(
        judged=int(judged.rows.sum()),
        throughput_rps=float(ended.sum()) / window.length_s,
        output_tokens_per_s=float(np.maximum(requests.output_tokens[ended], 0).sum()) / window.length_s,
        slo_attainment=int(good.sum()) / known if known else None,
        verdict=verdict,
        sentence=_sentence(verdict, checks),
        checks=checks,
        distributions=tuple(each for each in spreads if each.metric != "itl"),
    )


def snapshot(manifest: Manifest, news: LoadNews, counts: Counts, so_far: SoFar, now_s: float) -> Snapshot:
    """Put a snapshot together; ``now_s`` is the wall clock's."""
    load = manifest.load
    return Snapshot(
        run=manifest.run,
        scenario=manifest.scenario.name,
        stack=manifest.stack.name,
        written_at_s=now_s,
        elapsed_s=None if load.started_s is None else max(0.0, now_s - load.started_s),
        warm_up_s=load.warm_up_s,
        run_time_s=load.run_time_s,
        users=news.users,
        users_asked=load.users_asked,
        in_flight=news.in_flight,
        completed=counts.completed,
        failed=counts.failed,
        judged=so_far.judged,
        throughput_rps=so_far.throughput_rps,
        output_tokens_per_s=so_far.output_tokens_per_s,
        slo_attainment=so_far.slo_attainment,
        verdict=so_far.verdict,
        sentence=so_far.sentence,
        checks=so_far.checks,
        distributions=so_far.distributions,
        client=_client(manifest, news),
    )


def _client(manifest: Manifest, news: LoadNews) -> LiveClient:
    health = ClientHealth(workers=len(manifest.workers), hub_lag_p99_s=news.hub_lag_p99_s)
    return LiveClient(
        hub_lag_p99_s=news.hub_lag_p99_s,
        cpu_share_max=news.cpu_share_max,
        warnings=tuple(slow_client(manifest, health)),
    )


def _cut(load: LoadFacts, until_s: float) -> LoadFacts:
    return load.model_copy(update={"judged_until_s": (load.started_s or 0.0) + until_s})


def _without_gaps(manifest: Manifest) -> Sequence[Objective]:
    kept = measured(manifest.scenario.sla, streamed=manifest.stream)
    return [each for each in kept if each.metric != "itl"]


def _sentence(verdict: Verdict, checks: Sequence[CheckResult]) -> str:
    mine = [each for each in checks if each.verdict is verdict] or list(checks)
    known = [each for each in mine if each.margin is not None]
    tightest = min(known, key=lambda each: each.margin or 0.0, default=mine[0] if mine else None)
    return "" if tightest is None else tightest.reason
