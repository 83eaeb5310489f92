"""The part "Server and host" of a cell: what telemetry saw, drawn under the time axis of the cell's timeline."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.judgement import EnergySummary, Judgement, SeriesSummary, TelemetryLine, TelemetrySummary
from harness.series import SERIES
from reports import charts, figures
from reports.parts import Column, Fact, Item, Table
from reports.svg import Panel

SHOWN = (
    *("running", "waiting", "kv_use", "prompt_tokens_total", "output_tokens_total"),
    *("server_cpu_s", "server_rss_bytes", "server_threads", "load_cpu_s", "host_cpu_share", "host_memory_bytes"),
    *("gpu_utilization", "gpu_memory_bytes", "gpu_power_w", "gpu_temperature_c", "gpu_sm_mhz", "gpu_memory_mhz"),
)
"""Rows of the table; the judgement holds the others, and each GPU by itself."""
_PLAIN = "format(datum.value, ',~r')"
_SHARE = "format(datum.value, '.0%')"
_GIB = 2.0**30


@dataclass(frozen=True, slots=True)
class Row:
    """One panel of the chart: at most two series on one axis."""

    title: str
    first: str
    second: str = ""
    label: str = _PLAIN
    scale: float = 1.0


ROWS = (
    Row("At the server: running; waiting dashed", "running", "waiting"),
    Row("KV cache in use", "kv_use", label=_SHARE),
    Row("CPU, cores: server; load generator dashed", "server_cpu_s", "load_cpu_s"),
    Row("GPU utilisation", "gpu_utilization", label=_SHARE),
    Row("GPU memory, GiB", "gpu_memory_bytes", scale=1 / _GIB),
    Row("GPU power, W", "gpu_power_w"),
)


def table(found: TelemetrySummary | None) -> Table | None:
    if found is None:
        return None
    rows = {each.name: each for each in found.series if each.device is None or len(found.gpus) == 1}
    shown = [_row(rows[name]) for name in SHOWN if name in rows]
    if not shown:
        return None
    columns = (Column("Series"), *(Column(name, number=True) for name in ("Min", "Mean", "p95", "Max")))
    return Table("Server and host in the judged window", columns, tuple(shown))


def facts(found: TelemetrySummary) -> tuple[Fact, ...]:
    return (*_account(found), *_gpu_facts(found), *_own_cost(found))


def note(found: TelemetrySummary) -> str:
    return f"Incomplete: {found.incomplete}." if found.incomplete else ""


def _account(found: TelemetrySummary) -> list[Fact]:
    shown = []
    if found.in_flight_server is not None:
        ours = f"we had {figures.number(found.in_flight_client)} at the same moments"
        shown.append(Fact("In flight, by the server", figures.number(found.in_flight_server), ours))
    if found.preemptions is not None:
        shown.append(Fact("Preemptions", figures.count(found.preemptions)))
    if found.scrapes:
        failed = f"{figures.count(found.scrape_failures)} failed"
        reason = figures.clean(found.scrape_error, 200)
        shown.append(Fact("Scrapes of its metrics", f"{figures.count(found.scrapes)}, {failed}", reason))
    return shown


def _gpu_facts(found: TelemetrySummary) -> list[Fact]:
    shown = []
    if found.gpus:
        shown.append(Fact("GPUs", ", ".join(f"{index}: {name}" for index, name in found.gpus.items())))
    if found.throttle_reasons is not None:
        shown.append(Fact("Clocks lowered by", ", ".join(found.throttle_reasons) or "nothing"))
    return shown + (_energy(found.energy) if found.energy is not None else [])


def _energy(energy: EnergySummary) -> list[Fact]:
    return [
        Fact("Energy in the window", _joules(energy.joules), energy.source),
        Fact("Energy per request", _joules(energy.per_request_j), f"{figures.count(energy.requests)} answered"),
        Fact("Energy per 1,000 output tokens", _joules(energy.per_1000_tokens_j)),
    ]


def _own_cost(found: TelemetrySummary) -> list[Fact]:
    spent = next((each.mean for each in found.series if each.name == "telemetry_cpu_s"), None)
    return [] if spent is None else [Fact("CPU of this telemetry", f"{figures.share(spent)} of a core")]


def _joules(value: float | None) -> str:
    return figures.MISSING if value is None else f"{figures.number(value)}{figures.NBSP}J"


def _row(each: SeriesSummary) -> tuple[Item, ...]:
    values = (each.min, each.mean, each.p95, each.max)
    return (Item(SERIES[each.name].label), *(Item(_value(value, each.name), number=True) for value in values))


def _value(value: float, name: str) -> str:
    unit = SERIES[name].shown_unit
    match unit:
        case "share":
            return figures.share(value)
        case "bytes":
            size, word = (value / _GIB, "GiB") if value >= _GIB else (value / 2**20, "MiB")
            return f"{figures.number(size)}{figures.NBSP}{word}"
        case "requests" | "threads" | "processes":
            return figures.number(value)
        case _:
            return figures.rate(value, unit)


def _lines(found: TelemetrySummary) -> dict[str, TelemetryLine]:
    return {line.name: line for line in found.lines if any(value is not None for value in line.values)}


def rows(judgement: Judgement) -> tuple[Row, ...]:
    """The panels for which there are readings."""
    if judgement.telemetry is None or not judgement.timeline:
        return ()
    lines = _lines(judgement.telemetry)
    return tuple(row for row in ROWS if row.first in lines or row.second in lines)


def panels(judgement: Judgement) -> list[Panel]:
    """One panel a row, on the axis of the cell's timeline; the lowest has the axis's labels."""
    found, drawn = judgement.telemetry, rows(judgement)
    if found is None:
        return []
    span, lines, made = charts.run_span(charts.merged(judgement.timeline)) if drawn else (0.0, 0.0), _lines(found), []
    for row in drawn:
        last = row is drawn[-1]
        x = charts.run_axis(span, bare=not last)
        first, second = (_points(lines.get(name), row.scale, span) for name in (row.first, row.second))
        top = max((point["y"] for point in (*first, *second) if "y" in point), default=0.0) or 1.0
        y = charts.value_axis(top * 1.08, row.label, most=2)
        layers = [
            *charts.backdrop(span, judgement.window, judgement.warm_up_s, x),
            charts.heading(_heading(row, found)),
            *([charts.line(second, x, y, other=True)] if second else []),
            *([charts.line(first, x, y)] if first else []),
        ]
        made.append(charts.draw(layers, 38, top=22, bottom=44 if last else 8))
    return made


def _heading(row: Row, found: TelemetrySummary) -> str:
    if not row.first.startswith("gpu") or len(found.gpus) < 2:
        return row.title
    return f"{row.title}, {SERIES[row.first].combined} of {len(found.gpus)} GPUs"


def _points(line: TelemetryLine | None, scale: float, span: tuple[float, float]) -> list[charts.Row]:
    """Within the timeline's span: what was read before the first user or after the last answer is left out."""
    if line is None:
        return []
    points: list[charts.Row] = []
    for t_s, value in zip(line.t_s, line.values, strict=True):
        if span[0] <= t_s <= span[1]:
            known = value is not None and math.isfinite(value)
            points.append({"x": t_s, "y": value * scale} if known and value is not None else {"x": t_s})
    return points
