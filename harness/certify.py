"""The arithmetic of certificates: what a rehearsal replays, the client's errors, and whether they are too large."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from harness.cell import Cell
from harness.certificate import Certificate, Shape, Spread
from harness.objective import Objective
from harness.schedule import SPAWN_STEP_S
from harness.statistics import nearest_rank

CLIENT_SHARE = 0.05
"""The client may add at most this share of a latency limit."""
REMEDY = "use more processes (--processes), more hosts (--worker), or fewer users per process"
FEWEST_USERS = 5
"""Below, nothing in the client can queue behind anything: the lag of its event loop in the run says enough."""
LIGHT_EVENTS_PER_S = 3000.0
"""Below, a shorter rehearsal does, and cells of one shape that run side by side may share one."""
RATE_MARGIN = 1.15
"""A rehearsal aims that much above the rate needed: think times are random, and so is what a run makes of them."""
LEAST_EVENTS_PER_S = 1000.0
"""Replayed even where less is needed: a slower rehearsal would hold too few requests to say anything."""
SPAWN_S = 0.3
"""In which a rehearsal starts its users; each then waits as :func:`~harness.schedule.first_delay_s` says."""
RATE_SLACK = 1.1
"""A run may exceed its certified rate by that much."""
REUSE_WITHIN_S = 600.0

_TOKEN_S = 0.02
_CYCLE_S = 1.2
_FEWEST_TOKENS = 8
_ENOUGH_REQUESTS = 200
_LEAST_GAP_S = 0.002
_MEASURE_S, _LIGHT_MEASURE_S = 2.5, 1.5
_PERCENTILES = {name: Decimal(text) for name, text in {"p50_s": "50", "p90_s": "90", "p95_s": "95", "p99_s": "99",
                                                       "p999_s": "99.9"}.items()}  # fmt: skip

Times = NDArray[np.float64]


# What to replay -----------------------------------------------------------------------------------


def needed_events_per_s(cell: Cell) -> float:
    """Streamed tokens a second that a run is expected to make, where every answer takes what :func:`_response_s` says.

    Closed loop: users x tokens / (think + response). Open loop: the peak rate x tokens; a trace, whose peak is not
    known here, counts as one request a second and user, and is certified again at what it made. An answer that comes
    whole is one event.
    """
    scenario = cell.scenario
    tokens, arrivals = _events(cell), scenario.arrivals
    if arrivals is not None:
        return (arrivals.peak_rps or scenario.users) * tokens
    return scenario.users * tokens / (scenario.think_time.mean_s + _response_s(cell))


def _events(cell: Cell) -> int:
    """Of one answer."""
    return cell.scenario.workload.output_tokens if cell.connection.stream else 1


def _response_s(cell: Cell) -> float:
    """At 20 ms a token, but within half and the whole of the longest limit."""
    limit_s = cell.scenario.longest_limit_s or 1.0
    return min(limit_s, max(limit_s / 2, _TOKEN_S * cell.scenario.workload.output_tokens))


def why_skipped(cell: Cell) -> str:
    """Why a cell needs no rehearsal; empty when it does."""
    if cell.in_flight_expected < FEWEST_USERS:
        return f"fewer than {FEWEST_USERS} users: the lag of the event loop during the run says enough"
    return ""


def shape_of(cell: Cell, workers: int, seen_events_per_s: float | None = None) -> Shape:
    """Plan a rehearsal: the run's users and event rate, with answers so short that it holds some 200 requests and more.

    A user's cycle of c seconds has an answer of m tokens, E = N m / c; the answer takes the share of it that it takes
    in the run. ``seen_events_per_s`` replaces the expected rate after a run that was faster.
    """
    open_loop = cell.scenario.arrivals is not None
    users = max(cell.in_flight_expected if open_loop else cell.scenario.users, 1)
    needed = seen_events_per_s or needed_events_per_s(cell)
    aim = RATE_MARGIN * needed if seen_events_per_s is None else needed  # what was seen is no guess
    per_user = max(aim, LEAST_EVENTS_PER_S) / users
    wanted = _events(cell)
    measure_s = _MEASURE_S if needed > LIGHT_EVENTS_PER_S else _LIGHT_MEASURE_S
    wanted_cycle_s = min(_CYCLE_S, users * measure_s / _ENOUGH_REQUESTS)
    tokens = min(wanted, max(_FEWEST_TOKENS, int(wanted_cycle_s * per_user)))
    cycle_s = tokens / per_user
    think_s = 0.0 if open_loop else cell.scenario.think_time.mean_s
    answering = _response_s(cell) / (think_s + _response_s(cell))
    gap_s = max(_LEAST_GAP_S, answering * cycle_s / (tokens + 1))
    think_s = max(0.0, cycle_s - gap_s * (tokens + 1))
    return Shape(
        protocol=cell.connection.protocol,
        users=users,
        workers=workers,
        tokens=tokens,
        ttft_s=round(2 * gap_s, 6),
        gap_s=round(gap_s, 6),
        think_s=round(think_s, 6),
        warm_s=round(SPAWN_S + max(SPAWN_STEP_S, min(think_s, 2.0)), 3),
        measure_s=measure_s,
        needed_events_per_s=round(needed, 3),
        tls=cell.connection.url.lower().startswith("https:"),
        stream=cell.connection.stream,
    )


def rehearsal_cell(cell: Cell, shape: Shape, url: str, ca_file: str | None = None) -> Cell:
    """The cell as one process rehearses it: prompts, recording and protocol as in the run, no secret in it."""
    think = cell.scenario.think_time.model_copy(update={"mean_s": shape.think_s})
    workload = cell.scenario.workload.model_copy(update={"output_tokens": shape.tokens, "output_length": "natural"})
    changes = {"users": shape.users, "think_time": think, "workload": workload, "arrivals": None}
    connection = cell.connection.model_copy(
        update={
            "url": url,
            "model": "null",
            "headers": {},
            "api_key_env": "",
            "extra_body": {},
            "ca_file": ca_file,
            "max_retries": 0,
        }
    )
    return cell.model_copy(
        update={
            "run": f"{cell.run}/certificate",
            "scenario": cell.scenario.model_copy(update=changes),
            "connection": connection,
            "looks": (),
        }
    )


# What came of it ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """The client's side of a rehearsal's requests, in columns; ``tokens`` is how many each answer had."""

    ids: Sequence[str]
    ok: NDArray[np.bool_]
    sent_s: Times
    first_s: Times
    last_s: Times
    end_s: Times
    tokens: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Errors:
    """Measured minus true, seconds, one row a request that both sides know."""

    ttft_s: Times
    e2e_s: Times
    tpot_s: Times
    unmatched: int


def join(seen: Seen, ids: Sequence[str], received_s: Times, first_s: Times, last_s: Times) -> Errors:
    """Join request by request with the null server's log: when it received, and sent the first and the last token.

    An answer ends with its last token there, so E2E's truth is ``last - received``. TPOT is defined for
    two tokens and more, and NaN for one.
    """
    places = {name: place for place, name in enumerate(ids)}
    found = np.array([places.get(name, -1) for name in seen.ids], dtype=np.int64)
    known = (found >= 0) & seen.ok
    rows, truth = np.flatnonzero(known), found[known]
    whole = ~np.isnan(last_s[truth])
    rows, truth = rows[whole], truth[whole]
    true_first, true_last = first_s[truth] - received_s[truth], last_s[truth] - received_s[truth]
    ttft = (seen.first_s[rows] - seen.sent_s[rows]) - true_first
    e2e = (seen.end_s[rows] - seen.sent_s[rows]) - true_last
    gaps = (seen.tokens[rows] - 1).astype(np.float64)
    gaps[gaps < 1] = np.nan
    tpot = ((seen.last_s[rows] - seen.first_s[rows]) - (true_last - true_first)) / gaps
    return Errors(ttft, e2e, tpot, unmatched=len(seen.ids) - len(rows))


def spread(errors_s: Times) -> Spread | None:
    """Nearest-rank percentiles of the errors' sizes; None where there are none."""
    sizes = np.sort(np.abs(errors_s[~np.isnan(errors_s)]))
    if len(sizes) == 0:
        return None
    ranks = {name: float(sizes[nearest_rank(len(sizes), percent) - 1]) for name, percent in _PERCENTILES.items()}
    return Spread(mean_s=float(sizes.mean()), max_s=float(sizes[-1]), **ranks)


def merge(parts: Sequence[Certificate]) -> Certificate:
    """One certificate of several processes: the worst of each figure, rates and counts summed."""
    if len(parts) == 1:
        return parts[0]
    cpu_s = sum((part.cpu_per_event_s or 0.0) * part.events_per_s for part in parts)
    events = sum(part.events_per_s for part in parts)
    rooms = [part.headroom for part in parts]
    return parts[0].model_copy(
        update={
            "made_s": max(part.made_s for part in parts),
            "requests": sum(part.requests for part in parts),
            "unmatched": sum(part.unmatched for part in parts),
            "events_per_s": events,
            "requests_per_s": sum(part.requests_per_s for part in parts),
            "ttft": _worst([part.ttft for part in parts]),
            "e2e": _worst([part.e2e for part in parts]),
            "tpot": _worst([part.tpot for part in parts]),
            "hub_lag_p50_s": _largest(part.hub_lag_p50_s for part in parts),
            "hub_lag_p99_s": _largest(part.hub_lag_p99_s for part in parts),
            "hub_lag_max_s": _largest(part.hub_lag_max_s for part in parts),
            "cpu_share": _largest(part.cpu_share for part in parts),
            "cpu_per_event_s": cpu_s / events if events else None,
            "headroom": None if None in rooms else min(room for room in rooms if room is not None),
            "problem": next((part.problem for part in parts if part.problem), ""),
        }
    )


def _worst(spreads: Sequence[Spread | None]) -> Spread | None:
    known = [each for each in spreads if each is not None]
    if not known:
        return None
    return Spread(**{name: max(getattr(each, name) for each in known) for name in Spread.model_fields})


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


# What it means ------------------------------------------------------------------------------------


def milliseconds(seconds: float) -> str:
    """Three digits, and never an exponent."""
    value = 1e3 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def error_at(certificate: Certificate, check: Objective) -> float | None:
    """The client's error where a latency check is judged; a percentile between two kept ones takes the upper.

    None for ITL, of which the truth keeps no record: the event loop's lag during the run bounds it.
    """
    spreads: Mapping[str, Spread | None] = {
        "ttft": certificate.ttft,
        "e2e": certificate.e2e,
        "response_time": certificate.e2e,
        "tpot": certificate.tpot,
    }
    found = spreads.get(check.metric)
    if found is None:
        return None
    if check.percentile is None:
        return found.mean_s if check.aggregate == "mean" else found.max_s
    name = next((name for name, percent in _PERCENTILES.items() if check.percentile <= percent), "max_s")
    return float(getattr(found, name))


def excesses(certificate: Certificate, checks: Sequence[Objective]) -> list[str]:
    """What makes a run with this certificate INVALID, each with what to change."""
    if certificate.problem:
        return [f"the load generator could not be certified: {certificate.problem}"]
    found = []
    for check in checks:
        error_s = error_at(certificate, check) if check.is_latency else None
        if error_s is not None and error_s > CLIENT_SHARE * check.limit:
            found.append(
                f"the load generator's own error of {check.aggregate}({check.metric}) was {milliseconds(error_s)} ms"
                f" {certificate.when}, more than {100 * CLIENT_SHARE:g}% of the limit ({milliseconds(check.limit)} ms):"
                f" {REMEDY}"
            )
    return found


def too_fast(certificate: Certificate, seen_events_per_s: float | None) -> str:
    """Say that a run went beyond what its client was certified for; empty when it did not."""
    if certificate.skipped or certificate.problem or seen_events_per_s is None:
        return ""
    if seen_events_per_s <= RATE_SLACK * certificate.events_per_s:
        return ""
    return (
        f"the run streamed {seen_events_per_s:,.0f} events/s and the load generator was certified for"
        f" {certificate.events_per_s:,.0f}: {REMEDY}"
    )


def reusable(certificate: Certificate, shape: Shape, host: str, now_s: float, checks: Sequence[Objective]) -> bool:
    """Whether a certificate made for a run beside this one says the same of this one."""
    return (
        certificate.shape == shape
        and certificate.host == host
        and not certificate.reused_from
        and 0 <= now_s - certificate.made_s <= REUSE_WITHIN_S
        and not excesses(certificate, checks)
    )
