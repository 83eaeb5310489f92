"""One verdict per region, where the workers of a run carry more than one region's tag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.evidence import Terms
from harness.judgement import RegionResult, Verdict
from harness.metrics import Judged
from harness.objective import Objective
from harness.sla import cell_verdict, evaluate
from harness.statistics import p_value_fail


def region_results(
    objectives: Sequence[Objective], judged: Judged, regions: pa.ChunkedArray, terms: Terms
) -> tuple[RegionResult, ...]:
    """Judge each region's requests alone; empty when all carry one tag.

    Rates per second are left out: a region makes only a part of the load. ``regions`` has a row per request.
    """
    names = sorted(pc.unique(regions).to_pylist())
    if len(names) < 2:
        return ()
    mine = [o for o in objectives if o.is_latency or o.metric == "error_rate"]
    return tuple(_judge(name, mine, _within(judged, regions, name), terms) for name in names)


def _within(judged: Judged, regions: pa.ChunkedArray, name: str) -> Judged:
    rows = judged.rows & np.asarray(pc.equal(regions, name).to_numpy(), dtype=bool)
    return replace(judged, rows=rows, _observed={}, worth={})


def _judge(name: str, objectives: Sequence[Objective], judged: Judged, terms: Terms) -> RegionResult:
    checks = evaluate(objectives, judged, terms)
    found = RegionResult(region=name, requests=int(judged.rows.sum()), verdict=cell_verdict(checks))
    first = next((check for check in checks if check.verdict is not Verdict.NOT_MEASURED), None)
    if first is None:
        return found
    p_fail = None
    if first.violations is not None and first.allowed_rate is not None:
        share = first.effective_samples / first.samples if first.effective_samples and first.samples else 1.0
        p_fail = p_value_fail(share * first.violations, share * first.samples, first.allowed_rate)
    return found.model_copy(
        update={
            "check": first.text,
            "value": first.value,
            "samples": first.samples,
            "violations": first.violations,
            "p_value": p_fail,
        }
    )
