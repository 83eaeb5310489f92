"""The facts beside a verdict: percentiles, outcomes, prompts, and the load in one line."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.judgement import Curve, Distribution, LoadSummary, OpenLoad, OutcomeCount, PromptViolations
from harness.little import Loop, overlap
from harness.manifest import Manifest
from harness.metrics import STREAMED, BoolArray, Judged, Observed, Window
from harness.objective import LATENCY_METRICS
from harness.records import LATE_S, Outcome
from harness.statistics import nearest_rank
from harness.timeline import curve
from harness.validity import LITTLE_TOLERANCE, little_error

WORST_PROMPTS = 10
TOKEN_COUNTS = ("requested_tokens", "output_tokens", "prompt_tokens", "cached_tokens")


def distributions(manifest: Manifest, judged: Judged) -> tuple[tuple[Distribution, ...], tuple[Curve, ...]]:
    """Percentiles of every latency metric, and the curves to draw of them."""
    objectives = manifest.scenario.sla
    found, curves = [], []
    for metric in LATENCY_METRICS:
        if metric == "response_time" and manifest.load.loop == "closed":
            continue  # e2e, but for the client's own lag
        if metric in STREAMED and not judged.streamed:
            continue
        observed = judged.observe(metric)
        limit = max((o.limit for o in objectives if o.metric == metric), default=judged.settled_s)
        overdue = observed.count_unfinished_beyond(limit, inclusive=True)
        if observed.known + overdue:
            found.append(_distribution(metric, observed, overdue))
        if len(observed.values):
            curves.append(curve(metric, observed))
    return tuple(found), tuple(curves)


def _distribution(metric: str, observed: Observed, overdue: int) -> Distribution:
    samples = observed.known + overdue

    def at(percentile: str) -> float:
        return observed.at_rank(nearest_rank(samples, percentile))

    mean = float(observed.values.mean()) / observed.per_second if len(observed.values) else None
    return Distribution(
        metric=metric,
        samples=samples,
        failures=observed.infinite + overdue,
        mean_ok=mean,
        p50=at("50"),
        p90=at("90"),
        p95=at("95"),
        p99=at("99"),
        p999=at("99.9"),
        max=observed.at_rank(samples),
    )


def outcome_counts(table: pa.Table, rows: BoolArray) -> tuple[OutcomeCount, ...]:
    """How the judged requests ended, the most frequent first, with a few of the errors' texts."""
    judged = table.select(["outcome", "error"]).filter(pa.array(rows))
    counts = pc.value_counts(judged.column("outcome")).to_pylist()
    found = []
    for entry in sorted(counts, key=lambda each: (-each["counts"], each["values"])):
        texts: list[str] = []
        if entry["values"] != Outcome.OK:
            mine = judged.filter(pc.equal(judged.column("outcome"), entry["values"]))
            texts = [text for text in pc.unique(mine.column("error").slice(0, 10_000)).to_pylist() if text]
        found.append(
            OutcomeCount(
                outcome=entry["values"],
                count=entry["counts"],
                share=entry["counts"] / judged.num_rows,
                examples=tuple(texts[:3]),
            )
        )
    return tuple(found)


def worst_prompts(table: pa.Table, known: BoolArray, bad: BoolArray) -> tuple[PromptViolations, ...]:
    """The prompts with the most violations: the 95% holds for this set of prompts."""
    if not bad.any():
        return ()
    prompts = table.column("prompt_id").combine_chunks().dictionary_encode()
    names, codes = prompts.dictionary.to_pylist(), prompts.indices.to_numpy()
    requests = np.bincount(codes[known], minlength=len(names))
    violations = np.bincount(codes[bad], minlength=len(names))
    worst = sorted(np.flatnonzero(violations).tolist(), key=lambda code: (-violations[code], names[code]))
    return tuple(
        PromptViolations(prompt_id=names[code], requests=int(requests[code]), violations=int(violations[code]))
        for code in worst[:WORST_PROMPTS]
    )


def load_summary(manifest: Manifest, table: pa.Table, judged: Judged, loop: Loop | None) -> LoadSummary:
    """Say what load there was, and what it moved."""
    requests, rows, window = judged.requests, judged.rows, judged.window
    load = manifest.load
    error = little_error(load, loop)
    closed = load.loop == "closed"
    ok = requests.ok & rows

    def mean(name: str) -> float | None:
        values = table.column(name).to_numpy()[ok]
        values = values[values >= 0]
        return float(values.mean()) if len(values) else None

    rate: dict[str, float | None] = {"tokens": None, "chunks": None}
    if window is not None:
        ended = judged.ended_in_window(requests.ok)
        rate["tokens"] = float(np.maximum(requests.output_tokens[ended], 0).sum()) / window.length_s
        rate["chunks"] = float(np.maximum(requests.chunks[ended], 0).sum()) / window.length_s
    sources = pc.unique(table.column("token_source").filter(pa.array(ok))).to_pylist()
    return LoadSummary(
        users=load.users_asked,
        users_reached=load.users_reached,
        open_loop=_open_load(manifest, judged),
        think_s=loop.think_s if loop and closed else None,
        throughput_rps=loop.throughput_rps if loop else None,
        response_s=loop.response_s if loop else None,
        in_flight_mean=loop.in_flight if loop else None,
        users_implied=loop.users if loop and closed else None,
        little_error=error,
        little_holds=None if error is None else error <= LITTLE_TOLERANCE,
        requests=len(requests),
        judged=int(rows.sum()),
        output_tokens_per_s=rate["tokens"],
        events_per_s=rate["chunks"],
        window_s=window.length_s if window else None,
        tokens_asked_mean=mean("requested_tokens"),
        tokens_got_mean=mean("output_tokens"),
        prompt_tokens_mean=mean("prompt_tokens"),
        cached_tokens_mean=mean("cached_tokens"),
        token_source=", ".join(sorted(sources)),
    )


def _open_load(manifest: Manifest, judged: Judged) -> OpenLoad | None:
    requests, window, arrivals = judged.requests, judged.window, manifest.scenario.arrivals
    if arrivals is None or window is None:
        return None
    due = (requests.issued_s >= window.low_s) & (requests.issued_s <= window.high_s)
    late_s = np.sort(requests.send_lag_s[due & ~np.isnan(requests.send_lag_s)])
    completed = int(judged.ended_in_window(~requests.unfinished).sum())
    middle_s = (window.low_s + window.high_s) / 2
    halves = Window(window.low_s, middle_s), Window(middle_s, window.high_s)
    begin, end = requests.begin_s, np.maximum(requests.end_s, requests.begin_s)
    first, second = (overlap(begin, end, half) / half.length_s for half in halves)

    def at(percentile: int) -> float | None:
        return float(late_s[nearest_rank(len(late_s), percentile) - 1]) if len(late_s) else None

    return OpenLoad(
        arrivals=arrivals.text,
        scheduled=manifest.load.arrivals_scheduled,
        due=int(due.sum()),
        started=len(late_s),
        completed=completed,
        offered_rps=float(due.sum()) / window.length_s,
        started_rps=len(late_s) / window.length_s,
        completed_rps=completed / window.length_s,
        late=int((late_s > LATE_S).sum()),
        late_p50_s=at(50),
        late_p99_s=at(99),
        late_max_s=float(late_s[-1]) if len(late_s) else None,
        in_flight_halves=(first, second),
    )
