"""What each request took, and which requests are judged.

Definitions (``docs/metrics.md`` has the formulas):

- *TTFT*: first content chunk minus send. *E2E*: end minus send. *Response time*: end minus scheduled.
- *TPOT*: (last token - first token) / (output tokens - 1); undefined for one token, or one chunk.
- *ITL*: every gap between content chunks, pooled over requests.

A failed request is +infinity in each of them. For ITL it has, in place of its own gaps, one infinite gap for each that
the answer asked for would have had.
A request that was not over when it was last seen (``in_flight``, ``cancelled``) has the *least* each metric
can become: it violates a limit that this least already breaks, and is unknown otherwise.

Durations are differences on one worker's monotonic clock; where requests of several workers are compared,
their times are mapped to the master's wall clock and counted from the run clock's zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from harness.records import LoadFacts, Outcome, WorkerFacts
from harness.scored import NOT_SCORED, NotScored, Scored

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

STREAMED = ("ttft", "tpot", "itl")
"""What needs the times of single tokens."""

_MICROSECONDS = 1_000_000
_SLICE = 65_536
_UNFINISHED = (Outcome.IN_FLIGHT, Outcome.CANCELLED)


@dataclass(frozen=True, slots=True)
class Window:
    """The judged window, seconds after the run clock's zero."""

    low_s: float
    high_s: float

    @property
    def length_s(self) -> float:
        return max(0.0, self.high_s - self.low_s)


@dataclass(frozen=True, slots=True)
class Requests:
    """One row per sample, in the table's order. Times are seconds after the run clock's zero.

    Rows of ``unfinished`` requests hold, in the metrics, the least they can become; ``end_s`` is then when
    they were last seen. ``defects`` counts rows that contradict themselves: no time at all, a worker without
    a clock anchor, or an ``ok`` answer that does not end after it was sent.
    """

    user: IntArray
    scheduled_s: FloatArray
    begin_s: FloatArray
    """Sent, or scheduled where nothing was sent."""
    issued_s: FloatArray
    """Scheduled in an open loop, sent in a closed one: what places a request in the judged window."""
    end_s: FloatArray
    send_lag_s: FloatArray
    ok: BoolArray
    unfinished: BoolArray
    values: dict[str, FloatArray]
    """``e2e``, ``ttft``, ``tpot``, ``response_time``; +infinity failed, NaN undefined."""
    has_token: BoolArray
    gaps: pa.ChunkedArray
    open_gap_s: FloatArray
    """Of an unfinished request: how long its next chunk has been awaited."""
    output_tokens: IntArray
    expected_gaps: IntArray
    """Of an answer of as many tokens as were asked for, one a chunk; at least one."""
    chunks: IntArray
    defects: int

    def __len__(self) -> int:
        return len(self.user)

    @property
    def failed(self) -> BoolArray:
        return ~(self.ok | self.unfinished)


def read_requests(
    table: pa.Table, workers: Sequence[WorkerFacts], load: LoadFacts, as_of_s: float | None = None
) -> Requests:
    """Derive the metrics of a run's samples; ``table`` has the columns of :data:`harness.runlog.SCHEMA`.

    With ``as_of_s``, seconds after the run clock's zero, they stand as they stood then: what ended later is unfinished.
    """
    shift = _clock_shift(table, workers, load)
    raw = {name: _numbers(table, f"{name}_s") for name in ("scheduled", "sent", "first_token", "last_token", "end")}
    outcome = table.column("outcome")
    ok = np.asarray(pc.equal(outcome, Outcome.OK).to_numpy(), dtype=bool)
    unfinished = np.asarray(pc.is_in(outcome, pa.array([o.value for o in _UNFINISHED])).to_numpy(), dtype=bool)

    scheduled, sent = raw["scheduled"], raw["sent"]
    begin = _first_known(sent, scheduled, raw["end"])
    due = _first_known(scheduled, sent, raw["end"])
    end = _last_seen(raw["end"], begin, unfinished, shift, load)
    first, last = raw["first_token"], raw["last_token"]
    if as_of_s is not None:
        now = as_of_s - shift
        later = end > now
        ok, unfinished = ok & ~later, unfinished | later
        end, first, last = np.where(later, now, end), np.where(first > now, np.nan, first), np.minimum(last, now)
    issued = due if load.loop == "open" else begin

    tokens = _integers(table, "output_tokens")
    chunks = _integers(table, "chunks")
    asked = np.maximum(_integers(table, "requested_tokens") - 1, 1)
    has_token = ~np.isnan(first)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {
            "e2e": end - begin,
            "ttft": np.where(has_token, first - begin, np.where(unfinished, end - begin, np.inf)),
            "tpot": np.where((tokens > 1) & (chunks > 1) & has_token, (last - first) / (tokens - 1), np.nan),
            "response_time": end - due,
        }
        # An unfinished answer's TPOT is at least this: it may have all the tokens asked for, but no sooner than now.
        values["tpot"][unfinished] = np.where(has_token, (end - first) / asked, 0.0)[unfinished]
        contradictory = np.isnan(begin + shift) | (ok & ~(raw["end"] >= sent))
    failed = ~(ok | unfinished)
    for name, array in values.items():
        array[failed | (ok & contradictory)] = np.inf
        if name != "tpot":
            array[ok & np.isnan(array)] = np.inf
        array[unfinished & ~(array >= 0)] = 0.0
    return Requests(
        user=np.unique((_integers(table, "worker") << 32) + _integers(table, "user"), return_inverse=True)[1],
        scheduled_s=due + shift,
        begin_s=begin + shift,
        issued_s=issued + shift,
        end_s=end + shift,
        send_lag_s=sent - scheduled,
        ok=ok,
        unfinished=unfinished,
        values=values,
        has_token=has_token,
        gaps=table.column("gaps_us"),
        open_gap_s=np.where(has_token, end - last, 0.0),
        output_tokens=tokens,
        expected_gaps=asked,
        chunks=chunks,
        defects=int(np.count_nonzero(contradictory)),
    )


def judged_window(load: LoadFacts, requests: Requests) -> Window | None:
    """The judged window; None when the run clock never started or stopped before warm-up ended.

    A run that was killed has no recorded end: it is judged up to the last request that is known to have ended.
    """
    if load.started_s is None:
        return None
    high = load.run_time_s
    if load.judged_until_s is not None:
        high = min(high, load.judged_until_s - load.started_s)
    elif not load.complete:
        ended = requests.end_s[~requests.unfinished & ~np.isnan(requests.end_s)]
        high = min(high, float(ended.max())) if ended.size else 0.0
    return Window(load.warm_up_s, high) if high > load.warm_up_s else None


def judged_rows(requests: Requests, window: Window | None) -> BoolArray:
    """Requests issued in the window, and those in flight when it opened, with their age from issue."""
    if window is None:
        return np.zeros(len(requests), dtype=bool)
    with np.errstate(invalid="ignore"):
        in_window = (requests.issued_s >= window.low_s) & (requests.issued_s <= window.high_s)
        carried_over = (requests.issued_s < window.low_s) & (requests.end_s > window.low_s)
    return in_window | carried_over


@dataclass(frozen=True, slots=True)
class Observed:
    """All judged values of one metric: what is known, and what is not.

    ``values`` are sorted and finite; dividing by ``per_second`` gives seconds (gaps stay whole microseconds).
    Infinite ones are counted, and so are undefined ones. ``unfinished_s`` holds, sorted, the least that
    requests not over can become.
    """

    values: npt.NDArray[Any]
    per_second: int
    infinite: int
    undefined: int
    unfinished_s: FloatArray

    @property
    def known(self) -> int:
        return len(self.values) + self.infinite

    def count_within(self, limit_s: float, *, inclusive: bool) -> int:
        """How many known values are under the limit (or at it, when inclusive)."""
        if self.per_second == 1:
            return int(np.searchsorted(self.values, limit_s, side="right" if inclusive else "left"))
        return int(np.searchsorted(self.values, _whole_units(limit_s, self.per_second, inclusive=inclusive)))

    def count_unfinished_beyond(self, limit_s: float, *, inclusive: bool) -> int:
        """How many unfinished requests break the limit already."""
        kept = np.searchsorted(self.unfinished_s, limit_s, side="right" if inclusive else "left")
        return len(self.unfinished_s) - int(kept)

    def at_rank(self, rank: int) -> float:
        """The order statistic at a rank from 1; infinite ones come last."""
        return float(self.values[rank - 1]) / self.per_second if rank <= len(self.values) else math.inf

    def finite_s(self) -> FloatArray:
        return np.asarray(self.values, dtype=np.float64) / self.per_second


def observe(requests: Requests, rows: BoolArray, metric: str, settled_s: float = math.inf) -> Observed:
    """Collect one metric over the judged rows.

    ``settled_s`` is the SLA's longest limit. An unfinished request that was watched that long, and whose
    first token is there, has a known TTFT.
    """
    if metric == "itl":
        return _observe_gaps(requests, rows)
    values = requests.values[metric][rows]
    unfinished = requests.unfinished[rows]
    if metric == "ttft":
        unfinished &= ~(requests.has_token[rows] & (requests.values["e2e"][rows] >= settled_s))
    known = values[~unfinished]
    undefined = np.isnan(known)
    infinite = np.isposinf(known)
    return Observed(
        values=np.sort(known[~(undefined | infinite)]),
        per_second=1,
        infinite=int(np.count_nonzero(infinite)),
        undefined=int(np.count_nonzero(undefined)),
        unfinished_s=np.sort(values[unfinished]),
    )


def _observe_gaps(requests: Requests, rows: BoolArray) -> Observed:
    failed, unfinished = requests.failed & rows, requests.unfinished & rows
    gaps = pc.list_flatten(requests.gaps.filter(pa.array(rows & ~failed))).to_numpy()
    gaps = np.sort(gaps.astype(np.uint32, copy=False))
    without = requests.ok & rows & (requests.chunks < 2)
    return Observed(
        values=gaps,
        per_second=_MICROSECONDS,
        infinite=int(requests.expected_gaps[failed].sum()),
        undefined=int(np.count_nonzero(without)),
        unfinished_s=np.sort(np.maximum(requests.open_gap_s[unfinished], 0.0)),
    )


def gaps_beyond(requests: Requests, limit_s: float, *, inclusive: bool) -> tuple[IntArray, IntArray]:
    """Per request: how many gaps break the limit, and how many there are."""
    least = _whole_units(limit_s, _MICROSECONDS, inclusive=inclusive)
    return _by_request(requests, lambda gaps: gaps >= least), _by_request(requests, np.ones_like)


def mean_gap(requests: Requests) -> FloatArray:
    """Per request, seconds; NaN without a gap."""
    total, count = _by_request(requests, lambda gaps: gaps), _by_request(requests, np.ones_like)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / count / _MICROSECONDS, dtype=np.float64)


def _by_request(requests: Requests, weigh: Callable[[npt.NDArray[np.uint32]], npt.NDArray[Any]]) -> IntArray:
    """Sum weights of gaps per request, a slice at a time: all gaps of a long run at once would fill the memory."""
    sums = [np.zeros(0, dtype=np.int64)]
    for start in range(0, len(requests), _SLICE):
        gaps = requests.gaps.slice(start, _SLICE).combine_chunks()
        offsets = gaps.offsets.to_numpy()
        weights = weigh(gaps.values.to_numpy()[offsets[0] : offsets[-1]])
        total = np.concatenate(([0], np.cumsum(weights, dtype=np.int64)))[offsets - offsets[0]]
        sums.append(np.diff(total))
    return np.concatenate(sums)


def _whole_units(limit_s: float, per_second: int, *, inclusive: bool) -> np.uint32:
    """The smallest whole count that breaks a limit; limits are typed in decimal, hence the rounding."""
    limit = round(limit_s * per_second, 6)
    return np.uint32(min(math.floor(limit) + 1 if inclusive else math.ceil(limit), 2**32 - 1))


@dataclass(frozen=True, slots=True)
class Judged:
    """The judged rows of a run. ``window`` is None when nothing could be judged."""

    requests: Requests
    rows: BoolArray
    window: Window | None
    settled_s: float
    """The SLA's longest limit: how long each judged request was watched at least, in a complete run."""
    streamed: bool = True
    """False: answers came whole, and the metrics of :data:`STREAMED` do not exist."""
    quality: Scored | NotScored = NOT_SCORED
    _observed: dict[str, Observed] = field(default_factory=dict)
    worth: dict[tuple[object, ...], Any] = field(default_factory=dict)
    """What :mod:`harness.worth` found, which depends on no level of confidence."""

    def observe(self, metric: str) -> Observed:
        """Collect one metric, once."""
        if metric not in self._observed:
            self._observed[metric] = observe(self.requests, self.rows, metric, self.settled_s)
        return self._observed[metric]

    def ended_in_window(self, counted: BoolArray) -> BoolArray:
        if self.window is None:
            return np.zeros_like(counted)
        end_s = self.requests.end_s
        return counted & (end_s >= self.window.low_s) & (end_s <= self.window.high_s)


def judged_part(load: LoadFacts, requests: Requests, settled_s: float, *, streamed: bool = True) -> Judged:
    """Select what is judged of a run."""
    window = judged_window(load, requests)
    return Judged(requests, judged_rows(requests, window), window, settled_s, streamed)


def _clock_shift(table: pa.Table, workers: Sequence[WorkerFacts], load: LoadFacts) -> FloatArray:
    """Seconds to add to each row's monotonic times; NaN for a worker without an anchor."""
    ids = _integers(table, "worker")
    shift = np.full(len(ids), np.nan)
    zero = load.started_s if load.started_s is not None else min((w.wall_s(0.0) for w in workers), default=0.0)
    for facts in workers:
        shift[ids == facts.worker] = facts.wall_s(0.0) - zero
    return shift


def _last_seen(
    end: FloatArray, begin: FloatArray, unfinished: BoolArray, shift: FloatArray, load: LoadFacts
) -> FloatArray:
    """Fill in the ends that never came: unfinished requests were in flight until the load had drained."""
    missing = np.isnan(end)
    if not missing.any():
        return end
    started = load.started_s
    seen = [t - started for t in (load.drained_s, load.stopped_issuing_s) if t is not None and started is not None]
    if not seen:
        known = np.concatenate(((end + shift)[~missing], begin + shift))
        seen = [float(np.nanmax(known))] if np.any(~np.isnan(known)) else [0.0]
    filled = np.where(missing, np.where(unfinished, np.maximum(seen[0] - shift, begin), begin), end)
    return np.asarray(filled, dtype=np.float64)


def _first_known(*arrays: FloatArray) -> FloatArray:
    result = arrays[0]
    for other in arrays[1:]:
        result = np.where(np.isnan(result), other, result)
    return result


def _numbers(table: pa.Table, name: str) -> FloatArray:
    return np.asarray(table.column(name).to_numpy(), dtype=np.float64)


def _integers(table: pa.Table, name: str) -> IntArray:
    return np.asarray(table.column(name).to_numpy(), dtype=np.int64)
