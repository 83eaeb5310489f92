"""The requests that took longest, by the name under which a server's log has them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from harness.judgement import SlowRequest
from harness.metrics import Judged
from harness.records import request_id

SLOWEST = 10
COLUMNS = ("worker", "user", "sequence", "prompt_id", "outcome", "output_tokens")


def slowest(run: str, table: pa.Table, judged: Judged, most: int = SLOWEST) -> tuple[SlowRequest, ...]:
    """Judged requests by the seconds from issue to their end, or until they were last seen; the longest first.

    A failed one counts by how long it took to fail: in percentiles it is infinite, and would say nothing here.
    ``table`` has the judged samples' rows in the order of ``judged``, with :data:`COLUMNS`.
    """
    requests = judged.requests
    took_s = requests.end_s - requests.issued_s
    usable = np.flatnonzero(judged.rows & np.isfinite(took_s))
    # Equal times by user and moment: the order in which workers shipped their samples says nothing.
    order = np.lexsort((requests.issued_s[usable], requests.user[usable], -took_s[usable]))
    longest = usable[order[:most]]
    rows = table.select(COLUMNS).take(pa.array(longest)).to_pylist()
    ttft_s = np.where(requests.ok & requests.has_token & judged.streamed, requests.values["ttft"], np.nan)
    return tuple(
        SlowRequest(
            request_id=request_id(run, row["worker"], row["user"], row["sequence"]),
            prompt_id=row["prompt_id"],
            outcome=row["outcome"],
            issued_s=float(requests.issued_s[index]),
            took_s=float(took_s[index]),
            ttft_s=None if np.isnan(ttft_s[index]) else float(ttft_s[index]),
            output_tokens=row["output_tokens"] if row["output_tokens"] >= 0 else None,
        )
        for index, row in zip(longest.tolist(), rows, strict=True)
    )
