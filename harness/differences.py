"""The difference of one metric between two groups of launches, with its interval and what may be said of it.

The launch is the unit, for a launch has luck of its own; how an interval is made is told in :mod:`harness.compare`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.comparison import Difference, Finding, Launch
from harness.statistics import alpha_of, t_cdf, t_quantile

FEWEST_LAUNCHES = 3
"""Of each arm; two have a variance of one degree of freedom, whose 95% interval is 13 standard errors wide."""
MIN_EFFECT = 0.05
MIN_POINTS = 0.005
"""Of a share, such as the error rate: half a percentage point."""
PERCENTILES = ("p50", "p95", "p99")
FEWEST_REQUESTS = {"p50": 10, "p95": 20, "p99": 100}
"""Below 1 / (1 - q) requests a percentile is the slowest one, whatever the stack."""
_LATENCIES = {
    "e2e": "E2E",
    "response_time": "response time",
    "ttft": "TTFT",
    "tpot": "TPOT",
    "itl": "ITL",
    "perceived": "perceived latency",
}


@dataclass(frozen=True, slots=True)
class Metric:
    label: str
    unit: Literal["s", "share", "req/s", "USD", "J"]
    better: Literal["lower", "higher"] = "lower"
    kind: Literal["ratio", "share"] = "ratio"
    aggregate: str = ""


METRICS: dict[str, Metric] = {
    **{
        f"{name}_{aggregate}": Metric(f"{aggregate}({label})", "s", aggregate=aggregate)
        for name, label in _LATENCIES.items()
        for aggregate in PERCENTILES
    },
    "error_rate": Metric("error rate", "share", kind="share"),
    "slo_attainment": Metric("SLO attainment", "share", "higher", "share"),
    "throughput_rps": Metric("throughput", "req/s", "higher"),
    "goodput_rps": Metric("goodput", "req/s", "higher"),
    "usd_per_1000_good": Metric("cost per 1,000 good", "USD"),
    "request_j": Metric("energy per request", "J"),
}
"""Name to meaning, in the order in which a reader sees them. ``perceived`` is the wait until something is to be seen:
TTFT of a streamed answer, E2E of a whole one."""


@dataclass(frozen=True, slots=True)
class Rules:
    min_effect: float = MIN_EFFECT
    min_points: float = MIN_POINTS
    confidence: float = 0.95
    headline: tuple[str, ...] = ()
    """Metrics of the headline; empty: those of the scenario's SLA."""
    expected: frozenset[str] = frozenset()
    """Conditions in which the arms are meant to differ."""


def effect_text(each: Difference, value: float) -> str:
    """``+12.3%`` of a ratio, ``+0.4 points`` of a share."""
    digits = value * 100
    text = f"{digits:+.1f}" if abs(digits) < 1000 else f"{digits:+,.0f}"
    text = text.replace("-", "−")
    return f"{text} points" if each.kind == "share" else f"{text}%"


def launches_text(count: int) -> str:
    return f"{count} launch" if count == 1 else f"{count} launches"


@dataclass(frozen=True, slots=True)
class _Estimate:
    """B - A on the scale of the test; a standard error of None says that there is none."""

    difference: float
    error: float | None
    degrees: float


def difference(
    name: str, metric: Metric, a: Sequence[Launch], b: Sequence[Launch], rules: Rules, *, paired: bool
) -> Difference | None:
    """None where neither arm has the metric."""
    known_a, known_b = ([x for x in arm if name in x.values] for arm in (a, b))
    if not known_a and not known_b:
        return None
    frame = Difference(
        metric=name,
        label=metric.label,
        unit=metric.unit,
        kind=metric.kind,
        better=metric.better,
        finding=Finding.NOT_MEASURED,
        reason="",
    )
    if not known_a or not known_b:
        return frame.model_copy(update={"reason": f"only one arm has a {metric.label}"})
    few = [x for x in (*known_a, *known_b) if x.requests < FEWEST_REQUESTS.get(metric.aggregate, 1)]
    if paired:
        both = {x.round for x in known_a} & {x.round for x in known_b}
        known_a, known_b = ([x for x in arm if x.round in both] for arm in (known_a, known_b))
        if not both:
            return frame.model_copy(update={"reason": f"no round has a {metric.label} of both arms"})
    values_a, values_b = ([x.values[name] for x in arm] for arm in (known_a, known_b))
    if not all(map(math.isfinite, (*values_a, *values_b))):
        why = "so many requests failed or were unfinished that it is no number: see the SLO attainment"
        return frame.model_copy(update={"a": _mean(values_a, metric), "b": _mean(values_b, metric), "reason": why})
    scale = _scale(metric, values_a, values_b)
    if scale is None:
        why = "it is 0 in one arm, so that there is no ratio"
        return frame.model_copy(update={"a": 0.0, "b": _mean(values_b, metric), "reason": why})
    single = len(values_a) == len(values_b) == 1
    if single:
        estimate = _of_blocks(name, known_a[0], known_b[0], scale)
        basis = "ten blocks of one launch each: holds for these two launches only" if estimate.error else ""
    elif paired:
        estimate, basis = _paired(scale.of(values_a), scale.of(values_b)), "launches, paired by round"
    else:
        estimate, basis = _welch(scale.of(values_a), scale.of(values_b)), "launches"
    if estimate.error is not None and metric.kind == "share":
        floor = _share_error(name, known_a, known_b)
        estimate = _Estimate(estimate.difference, max(estimate.error, floor), estimate.degrees)
    low = high = None
    if estimate.error is not None:
        half = t_quantile(1 - alpha_of(rules.confidence) / 2, estimate.degrees) * estimate.error
        low, high = (scale.effect(estimate.difference + side * half) for side in (-1, 1))
    frame = frame.model_copy(
        update={
            "a": _mean(values_a, metric),
            "b": _mean(values_b, metric),
            "effect": scale.effect(estimate.difference),
            "low": low,
            "high": high,
            "basis": basis,
        }
    )
    if min(len(values_a), len(values_b)) < FEWEST_LAUNCHES:
        why = f"{launches_text(len(values_a))} against {len(values_b)}: a launch's luck cannot be told from the stack"
        return frame.model_copy(update={"finding": Finding.TOO_FEW, "reason": why})
    if few:
        least = min(x.requests for x in few)
        why = f"a launch has {least} requests, and {metric.aggregate} needs {FEWEST_REQUESTS[metric.aggregate]}"
        return frame.model_copy(update={"finding": Finding.TOO_FEW, "reason": why})
    assert estimate.error is not None
    p_value = _two_sided(estimate)
    finding, reason = _decide(frame, estimate, p_value, scale, rules)
    return frame.model_copy(update={"p_value": p_value, "finding": finding, "reason": reason})


def _decide(frame: Difference, estimate: _Estimate, p_value: float, scale: _Scale, rules: Rules) -> tuple[Finding, str]:
    least = rules.min_points if frame.kind == "share" else rules.min_effect
    asked = f"{least * 100:g}{' points' if frame.kind == 'share' else '%'}"
    matters = abs(estimate.difference) >= scale.least(least)
    certain = p_value < alpha_of(rules.confidence)
    if frame.kind == "ratio" and frame.a == frame.b == 0:
        return Finding.NO_DIFFERENCE, "it is 0 in every launch of both arms"
    if certain and matters:
        lower = estimate.difference < 0
        finding = Finding.BETTER if lower == (frame.better == "lower") else Finding.WORSE
        return finding, f"the interval excludes no difference, and {asked} or more matters"
    if certain:
        return Finding.NO_DIFFERENCE, f"there is a difference, but under the {asked} that matters"
    assert frame.low is not None
    assert frame.high is not None
    if max(abs(scale.back(frame.low)), abs(scale.back(frame.high))) < scale.least(least):
        return Finding.NO_DIFFERENCE, f"any difference is under the {asked} that matters"
    widest = max(frame.low, frame.high, key=abs)
    return (
        Finding.NO_DIFFERENCE,
        f"a difference of up to {effect_text(frame, widest)} is not excluded: more launches would tell",
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where differences are taken: logarithms, shares, or plain values over A's mean where a value is 0."""

    kind: Literal["log", "share", "relative"]
    unit: float = 1.0

    def of(self, values: Sequence[float]) -> list[float]:
        return [math.log(value) if self.kind == "log" else value / self.unit for value in values]

    def effect(self, difference: float) -> float:
        return math.expm1(min(difference, 700.0)) if self.kind == "log" else difference

    def back(self, effect: float) -> float:
        return math.log1p(max(effect, -1 + 1e-12)) if self.kind == "log" else effect

    def least(self, effect: float) -> float:
        """The smallest difference that matters: the same for A against B as for B against A."""
        return math.log1p(effect) if self.kind == "log" else effect


def _scale(metric: Metric, a: Sequence[float], b: Sequence[float]) -> _Scale | None:
    if metric.kind == "share":
        return _Scale("share")
    if min(*a, *b) > 0:
        return _Scale("log")
    mean = sum(a) / len(a)
    if mean > 0:
        return _Scale("relative", mean)
    return _Scale("relative") if not any(b) else None


def _mean(values: Sequence[float], metric: Metric) -> float:
    if metric.kind == "ratio" and min(values) > 0:
        return math.exp(sum(map(math.log, values)) / len(values))
    return sum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _paired(a: Sequence[float], b: Sequence[float]) -> _Estimate:
    differences = [y - x for x, y in zip(a, b, strict=True)]
    error = math.sqrt(_variance(differences) / len(differences))
    return _Estimate(sum(differences) / len(differences), error, len(differences) - 1)


def _welch(a: Sequence[float], b: Sequence[float]) -> _Estimate:
    difference = sum(b) / len(b) - sum(a) / len(a)
    if min(len(a), len(b)) < 2:
        return _Estimate(difference, None, 0)
    parts = [(_variance(values) / len(values), len(values) - 1) for values in (a, b)]
    return _combined(difference, parts)


def _combined(difference: float, parts: Sequence[tuple[float, int]]) -> _Estimate:
    """Welch and Satterthwaite: squared errors of independent parts, each with its degrees of freedom."""
    total = sum(square for square, _ in parts)
    if total == 0:
        return _Estimate(difference, 0.0, sum(degrees for _, degrees in parts))
    degrees = total**2 / sum(square**2 / free for square, free in parts)
    return _Estimate(difference, math.sqrt(total), degrees)


def _of_blocks(name: str, a: Launch, b: Launch, scale: _Scale) -> _Estimate:
    """Sectioning: blocks vary about their whole launch's value, so that a percentile's bias widens the interval."""
    difference = scale.of([b.values[name]])[0] - scale.of([a.values[name]])[0]
    parts = []
    for launch in (a, b):
        blocks = launch.blocks.get(name, ())
        usable = len(blocks) > 1 and all(
            math.isfinite(value) and (value > 0 or scale.kind != "log") for value in blocks
        )
        if not usable:
            return _Estimate(difference, None, 0)
        centre, count = scale.of([launch.values[name]])[0], len(blocks)
        square = sum((value - centre) ** 2 for value in scale.of(blocks)) / (count * (count - 1))
        parts.append((square, count - 1))
    return _combined(difference, parts)


def _share_error(name: str, a: Sequence[Launch], b: Sequence[Launch]) -> float:
    """The least standard error of a difference of shares: that of independent requests, half a failure added.

    Three launches without one failure have no variance, and yet do not show that there are none.
    """
    sizes = [max(1, sum(x.requests for x in arm)) for arm in (a, b)]
    met = sum(x.values[name] * x.requests for x in (*a, *b))
    share = (met + 0.5) / (sum(sizes) + 1)
    return math.sqrt(share * (1 - share) * sum(1 / size for size in sizes))


def _two_sided(estimate: _Estimate) -> float:
    if not estimate.error:
        return 1.0 if estimate.difference == 0 else 0.0
    return min(1.0, 2 * t_cdf(-abs(estimate.difference) / estimate.error, estimate.degrees))
