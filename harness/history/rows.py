"""A judgement as the history keeps it: one cell, one moment, a figure a metric, and what it ran on."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from harness.errors import HistoryError
from harness.judgement import Judgement, Mark
from harness.objective import LATENCY_METRICS

PERCENTILES = ("p50", "p90", "p95", "p99")
MARKS = (Mark.EMULATED, Mark.OTHER_GPU, Mark.CLAIM_REPLAYED, Mark.REDUCED, Mark.FORCED_LENGTH)
"""Those that make it another measurement; the rest say how a run ended."""

UNSTEADY_FLAGS = frozenset({"--port", "--host", "--bind", "--pid", "--log-file"})
"""Of a server's command line: they differ from launch to launch and change nothing."""

SECRET_FLAG = re.compile(r"(key|token|secret|password|passwd|auth|credential)$", re.IGNORECASE)
"""Secrets come from the environment; one that was put on a command line all the same is not kept."""


@dataclass(frozen=True, slots=True)
class Metric:
    """How a figure is named, shown and weighed."""

    title: str
    unit: Literal["s", "share", "req/s", "tokens/s", "USD", "J"]
    worse: Literal["up", "down"]
    gated: bool = False
    """Weighed by ``harness regress`` unless metrics are named."""


_TITLES = {
    "e2e": "End-to-end latency",
    "ttft": "Time to first token",
    "tpot": "Time per output token",
    "itl": "Inter-token latency",
    "response_time": "Response time",
}

METRICS: dict[str, Metric] = {
    **{
        f"{metric}_{percentile}_s": Metric(
            f"{_TITLES[metric]}, {percentile}", "s", "up", gated=percentile in ("p50", "p95") and metric != "itl"
        )
        for metric in LATENCY_METRICS
        for percentile in PERCENTILES
    },
    "error_share": Metric("Failed requests", "share", "up", gated=True),
    "slo_attainment": Metric("SLO attainment", "share", "down", gated=True),
    "goodput_rps": Metric("Goodput", "req/s", "down", gated=True),
    "throughput_rps": Metric("Throughput", "req/s", "down"),
    "output_tokens_per_s": Metric("Output tokens", "tokens/s", "down"),
    "usd_per_query": Metric("Cost per query", "USD", "up"),
    "usd_per_1000_good": Metric("Cost per 1,000 good requests", "USD", "up"),
    "energy_per_request_j": Metric("Energy per request", "J", "up"),
    "energy_per_1000_tokens_j": Metric("Energy per 1,000 output tokens", "J", "up"),
}
"""Name, with its unit, to what it is; a new figure is one line here and one in :func:`values_of`."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """What is compared with itself only."""

    scenario: str
    stack: str
    load: str
    """``100 users``, or the arrival pattern in words."""
    profile: str
    marks: str = ""
    """``EMULATED`` and the like, joined; empty: the stack as it is sold."""

    @property
    def label(self) -> str:
        return " / ".join(part for part in (self.scenario, self.stack, self.load, self.profile, self.marks) if part)


@dataclass(frozen=True, slots=True)
class Row:
    """One launch. ``values`` has no entry for what was not measured; a latency beyond the failures is +infinity."""

    run: str
    host: str
    cell: Cell
    started_s: float
    """Seconds since 1970, UTC."""
    verdict: str
    values: dict[str, float]
    annotations: dict[str, str]

    @property
    def key(self) -> str:
        """The run's identity: a name is unique on its host only."""
        return f"{self.run}@{self.host}"

    @property
    def night(self) -> int:
        """Days since 1970 of the noon before, UTC: what starts before midnight and after it is one night."""
        return int((datetime.fromtimestamp(self.started_s, UTC) - timedelta(hours=12)).timestamp() // 86400)


def row_of(judgement: Judgement) -> Row:
    """Take from a judgement what the history keeps.

    Raises
    ------
    HistoryError
        When it does not say when the run started.
    """
    about = judgement.provenance
    try:
        started = datetime.fromisoformat(about.started if about else "")
    except ValueError as error:
        raise HistoryError(
            f"{judgement.run} does not say when it started, so it has no place in a history; judge the run again"
        ) from error
    load = judgement.load
    return Row(
        run=judgement.run,
        host=about.host if about else "",
        cell=Cell(
            scenario=judgement.scenario,
            stack=judgement.stack,
            load=load.open_loop.arrivals if load.open_loop else f"{load.users} users",
            profile=judgement.profile,
            marks=", ".join(mark for mark in MARKS if mark in judgement.marks),
        ),
        started_s=(started if started.tzinfo else started.replace(tzinfo=UTC)).timestamp(),
        verdict=judgement.verdict.value,
        values=values_of(judgement),
        annotations=dict(_annotations(judgement)),
    )


def values_of(judgement: Judgement) -> dict[str, float]:
    """Every figure of :data:`METRICS` that the judgement has; never a NaN."""
    found: dict[str, float | None] = {}
    for spread in judgement.distributions:
        for percentile in PERCENTILES:
            found[f"{spread.metric}_{percentile}_s"] = getattr(spread, percentile)
        if spread.metric == "e2e" and spread.samples:
            found["error_share"] = spread.failures / spread.samples
    load, cost = judgement.load, judgement.cost
    found |= {
        "slo_attainment": judgement.slo_attainment,
        "goodput_rps": judgement.goodput_rps,
        "throughput_rps": load.throughput_rps,
        "output_tokens_per_s": load.output_tokens_per_s,
    }
    if cost:
        found |= {"usd_per_query": cost.usd_per_query, "usd_per_1000_good": cost.usd_per_1000_good}
    energy = judgement.telemetry.energy if judgement.telemetry else None
    if energy:
        found |= {"energy_per_request_j": energy.per_request_j, "energy_per_1000_tokens_j": energy.per_1000_tokens_j}
    return {name: value for name in METRICS if (value := found.get(name)) is not None and not math.isnan(value)}


def _annotations(judgement: Judgement) -> Iterator[tuple[str, str]]:
    """What a jump may come from: versions, machines, flags. Nothing that differs from launch to launch by itself."""
    about = judgement.provenance
    if about:
        facts = {"harness": about.harness_version, "git": about.git, "python": about.python, "Locust": about.locust}
        facts |= {"host": about.host, "cores": str(about.cores), "client's GPUs": ", ".join(about.gpus)}
        yield from ((name, text) for name, text in facts.items() if text)
    for name in ("launcher", "version", "model", "image", "GPUs", "calibration"):
        if text := judgement.server.get(name):
            yield f"server {name}", text
    for name, text in flags_of(judgement.server.get("command", "")).items():
        yield f"flag {name}", text


def flags_of(command: str) -> dict[str, str]:
    """Read ``--name value``, ``--name=value`` and ``--name`` from a command line, without :data:`UNSTEADY_FLAGS`."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    flags: dict[str, str] = {}
    for place, word in enumerate(words):
        if not word.startswith("--") or len(word) == 2:
            continue
        name, given, value = word.partition("=")
        following = words[place + 1] if place + 1 < len(words) else ""
        flags[name] = value if given else following if following and not following.startswith("-") else "set"
    return {
        name: "hidden" if SECRET_FLAG.search(name) else value
        for name, value in flags.items()
        if name not in UNSTEADY_FLAGS
    }
