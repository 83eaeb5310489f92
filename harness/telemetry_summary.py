"""What telemetry says of a run's judged window: statistics, energy, throttling, and the server's count beside ours.

Readings carry the host's CLOCK_MONOTONIC, as samples do, so that both are placed by the same arithmetic and nothing
depends on a wall clock that was set meanwhile. Only where no load worker ran on the recorder's host does the
recorder's own pair of clock readings place them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from harness.energy import LARGEST_GAP_S, counted_j, integrated_j
from harness.judgement import EnergySummary, LoadSummary, SeriesSummary, TelemetryLine, TelemetrySummary
from harness.manifest import Manifest
from harness.metrics import FloatArray, Judged, Requests, Window
from harness.records import TelemetryFacts
from harness.series import SERIES, throttle_reasons
from harness.statistics import nearest_rank

LINE_POINTS = 120
"""Of one line in a report: about three pixels a point."""
DRAWN = (
    *("running", "waiting", "kv_use", "server_cpu_s", "load_cpu_s"),
    *("gpu_utilization", "gpu_memory_bytes", "gpu_power_w"),
)
"""Series whose course over the run is kept for the report."""
LATE_PERIODS = 3.0
"""Readings further apart than this many periods leave a gap."""
DISAGREEMENT = 0.1
"""Share by which the server's count may differ from ours before the judgement says so."""


@dataclass(frozen=True, slots=True)
class Readings:
    """One series of one device in order of time, seconds after the run clock's zero; NaN-free."""

    t_s: FloatArray
    values: FloatArray

    def within(self, window: Window | None) -> Readings:
        if window is None:
            return Readings(np.zeros(0), np.zeros(0))
        inside = (self.t_s >= window.low_s) & (self.t_s <= window.high_s)
        return Readings(self.t_s[inside], self.values[inside])


Recorded = dict[tuple[str, int | None], Readings]


def telemetry_summary(
    facts: TelemetryFacts, table: pa.Table, manifest: Manifest, judged: Judged, load: LoadSummary
) -> TelemetrySummary:
    """Summarise a run's telemetry; ``table`` has the columns of :data:`harness.telemetry_log.SCHEMA`."""
    window = judged.window
    recorded = _recorded(table, _zero_s(facts, manifest))
    used = _gpus_of_server(facts, recorded)
    recorded = {key: readings for key, readings in recorded.items() if key[1] is None or key[1] in used}
    shown = {key: _shown(key[0], readings) for key, readings in recorded.items() if SERIES[key[0]].kind != "mark"}
    joined = {name: _joined(name, shown) for name in SERIES if any(key[0] == name for key in shown)}
    scrapes = recorded.get(("scrape_failed", None))
    by_server, by_us = _in_flight(recorded, judged.requests, window)
    return TelemetrySummary(
        server_kind=facts.server_kind,
        gpus={index: facts.gpus[index] for index in used},
        series=tuple(_statistics(shown, joined, window)),
        lines=tuple(_line(name, joined[name], facts.period_s) for name in DRAWN if name in joined),
        energy=_energy(recorded, used, window, load),
        throttle_reasons=_throttled(recorded, window),
        preemptions=_growth(recorded.get(("preemptions_total", None)), window),
        scrapes=0 if scrapes is None else len(scrapes.values),
        scrape_failures=0 if scrapes is None else int(scrapes.values.sum()),
        scrape_error=facts.scrape_error,
        in_flight_server=by_server,
        in_flight_client=by_us,
        incomplete=_incomplete(recorded, facts, window),
    )


def telemetry_notes(found: TelemetrySummary | None, *, loaded: bool) -> tuple[str, ...]:
    """Sentences of a judgement: what is missing, and what the server's own count says."""
    if found is None:
        return ("no telemetry was recorded: nothing is known of the server's and the machine's own account",) * loaded
    notes = [f"telemetry is incomplete: {found.incomplete}"] if found.incomplete else []
    if found.scrape_failures:
        notes.append(
            f"{found.scrape_failures:,} of {found.scrapes:,} scrapes of the server's metrics failed, the last one with:"
            f" {found.scrape_error}"
        )
    server, client = found.in_flight_server, found.in_flight_client
    if server is not None and client is not None:
        apart = abs(server - client) > max(1.0, DISAGREEMENT * client)
        notes.append(
            f"the server says {server:.3g} requests in flight (running and waiting, mean over the judged window), we"
            f" had {client:.3g} at the same moments"
            + ("; they differ: somebody else uses the server, or it counts otherwise" if apart else "")
        )
    return tuple(notes)


def _zero_s(facts: TelemetryFacts, manifest: Manifest) -> float:
    """The run clock's zero on the recorder's monotonic clock."""
    started = manifest.load.started_s
    if started is None:
        return facts.anchor_monotonic_s
    beside = next((worker for worker in manifest.workers if worker.host == facts.host), None)
    return facts.monotonic_s(started) if beside is None else beside.monotonic_s(started)


def _recorded(table: pa.Table, zero_s: float) -> Recorded:
    """Readings by series and device, in the vocabulary's order; names of a newer harness are left out."""
    series = table.column("series").combine_chunks().dictionary_encode()
    codes = {name: code for code, name in enumerate(series.dictionary.to_pylist())}
    code, devices = series.indices.to_numpy(), table.column("device").fill_null(-1).to_numpy()
    t_s, values = table.column("monotonic_s").to_numpy() - zero_s, table.column("value").to_numpy()
    found: Recorded = {}
    for name in SERIES:
        of_name = code == codes.get(name, -1)
        for device in np.unique(devices[of_name]).tolist():
            rows = np.flatnonzero(of_name & (devices == device) & np.isfinite(values))
            rows = rows[np.argsort(t_s[rows], kind="stable")]
            if len(rows):
                found[name, None if device < 0 else int(device)] = Readings(t_s[rows], values[rows])
    return found


def _gpus_of_server(facts: TelemetryFacts, recorded: Recorded) -> tuple[int, ...]:
    """GPUs on which a process of the server was seen; all, where none can be told (a container, another's server)."""
    seen = [
        device
        for (name, device), readings in recorded.items()
        if name == "gpu_server_processes" and device is not None and readings.values.max() > 0
    ]
    return tuple(index for index in sorted(facts.gpus) if index in seen or not seen)


def _shown(name: str, readings: Readings) -> Readings:
    """A gauge as it is; a counter as its growth per second, at the later of two readings. Restarts are left out."""
    if SERIES[name].kind == "gauge":
        return readings
    spans, growth = np.diff(readings.t_s), np.diff(readings.values)
    sound = (spans > 0) & (growth >= 0)
    return Readings(readings.t_s[1:][sound], growth[sound] / spans[sound])


def _joined(name: str, shown: Recorded) -> Readings:
    """One series over all its devices, at the moments when all of them were read."""
    mine = [readings for (series, _), readings in shown.items() if series == name]
    if len(mine) == 1:
        return mine[0]
    t_s, first, counts = np.unique(np.concatenate([each.t_s for each in mine]), return_inverse=True, return_counts=True)
    values = np.concatenate([each.values for each in mine])
    total = np.bincount(first, weights=values, minlength=len(t_s)).astype(np.float64)
    if SERIES[name].combined == "mean":
        total = total / counts
    elif SERIES[name].combined == "max":
        total = np.full(len(t_s), -np.inf)
        np.maximum.at(total, first, values)
    whole = counts == len(mine)
    return Readings(t_s[whole], total[whole])


def _statistics(shown: Recorded, joined: dict[str, Readings], window: Window | None) -> Iterable[SeriesSummary]:
    for name, together in joined.items():
        devices = [device for series, device in shown if series == name]
        rows: list[tuple[int | None, Readings]] = [(device, shown[name, device]) for device in devices]
        if len(devices) > 1:
            rows.insert(0, (None, together))
        for device, readings in rows:
            values = np.sort(readings.within(window).values)
            if len(values):
                yield SeriesSummary(
                    name=name,
                    device=device,
                    readings=len(values),
                    min=float(values[0]),
                    mean=float(values.mean()),
                    p95=float(values[nearest_rank(len(values), 95) - 1]),
                    max=float(values[-1]),
                )


def _line(name: str, readings: Readings, period_s: float) -> TelemetryLine:
    """Means of neighbouring readings, so that none is lost; None between two that are far apart."""
    size = max(1, -(-len(readings.values) // LINE_POINTS))
    t_s: list[float] = []
    values: list[float | None] = []
    for start in range(0, len(readings.values), size):
        moments = readings.t_s[start : start + size]
        before = float(readings.t_s[start - 1]) if start else float(moments[0])
        if moments[0] - before > LATE_PERIODS * period_s:
            t_s.append(round((before + float(moments[0])) / 2, 2))
            values.append(None)
        t_s.append(round(float(moments.mean()), 2))
        values.append(float(f"{readings.values[start : start + size].mean():.4g}"))
    return TelemetryLine(name=name, t_s=tuple(t_s), values=tuple(values))


def _energy(recorded: Recorded, gpus: Sequence[int], window: Window | None, load: LoadSummary) -> EnergySummary | None:
    """Of all of the server's GPUs; None unless every one of them tells."""
    if window is None or not gpus:
        return None
    joules = 0.0
    sources: set[str] = set()
    for gpu in gpus:
        found = _one_gpu(recorded, gpu, window)
        if found is None:
            return None
        joules, sources = joules + found[0], sources | {found[1]}
    requests = round((load.throughput_rps or 0.0) * window.length_s)
    tokens = round((load.output_tokens_per_s or 0.0) * window.length_s)
    return EnergySummary(
        joules=joules,
        gpus=tuple(gpus),
        source=" and ".join(sorted(sources)),
        requests=requests,
        output_tokens=tokens,
        per_request_j=joules / requests if requests else None,
        per_1000_tokens_j=1000 * joules / tokens if tokens else None,
    )


def _one_gpu(recorded: Recorded, gpu: int, window: Window) -> tuple[float, str] | None:
    ways: tuple[tuple[str, str, Callable[..., float | None]], ...] = (
        ("gpu_energy_j", "energy counter", counted_j),
        ("gpu_power_w", "integral of power", integrated_j),
    )
    for name, source, over in ways:
        readings = recorded.get((name, gpu))
        joules = None if readings is None else over(readings.t_s, readings.values, window.low_s, window.high_s)
        if joules is not None:
            return joules, source
    return None


def _throttled(recorded: Recorded, window: Window | None) -> tuple[str, ...] | None:
    masks = [readings.within(window).values for (name, _), readings in recorded.items() if name == "gpu_throttle"]
    if not masks:
        return None
    return throttle_reasons(int(np.bitwise_or.reduce(np.concatenate(masks).astype(np.int64), initial=0)))


def _growth(readings: Readings | None, window: Window | None) -> int | None:
    """What a counter grew by in the window; a restart's fall counts as nothing."""
    if readings is None or window is None:
        return None
    inside = (readings.t_s[1:] > window.low_s) & (readings.t_s[1:] <= window.high_s)
    return round(float(np.maximum(np.diff(readings.values), 0.0)[inside].sum()))


def _in_flight(
    recorded: Recorded, requests: Requests, window: Window | None
) -> tuple[float, float] | tuple[None, None]:
    """Mean of running plus waiting, and of requests sent and not over at the same moments."""
    running, waiting = (recorded.get((name, None)) for name in ("running", "waiting"))
    if running is None or waiting is None or window is None:
        return None, None
    moments, at_running, at_waiting = np.intersect1d(running.t_s, waiting.t_s, return_indices=True)
    inside = (moments >= window.low_s) & (moments <= window.high_s)
    if not inside.any():
        return None, None
    theirs = running.values[at_running] + waiting.values[at_waiting]
    sent = ~np.isnan(requests.begin_s) & ~np.isnan(requests.end_s)
    begun = np.searchsorted(np.sort(requests.begin_s[sent]), moments, side="right")
    over = np.searchsorted(np.sort(requests.end_s[sent]), moments, side="right")
    return float(theirs[inside].mean()), float((begun - over)[inside].mean())


def _incomplete(recorded: Recorded, facts: TelemetryFacts, window: Window | None) -> str:
    """Judged by the readings of this host, which come whether the server answers or not."""
    if window is None:
        return ""
    heard = recorded.get(("host_cpu_share", None))
    if heard is None:
        return "there are no readings of this host"
    allowed_s = LATE_PERIODS * facts.period_s
    last_s = float(heard.t_s[-1])
    if last_s < window.high_s - allowed_s:
        how = "was told to end" if facts.ended else "was killed or died"
        return f"the recorder {how} {max(0.0, last_s):.0f} s after the run clock's zero"
    if heard.t_s[0] > window.low_s + allowed_s:
        return f"the first reading came {float(heard.t_s[0]):.0f} s after the run clock's zero"
    widest_s = float(np.diff(heard.within(window).t_s).max(initial=0.0))
    return f"no reading for {widest_s:.0f} s" if widest_s > max(allowed_s, LARGEST_GAP_S) else ""
