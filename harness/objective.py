"""The SLA syntax: ``p95(e2e) < 2 s``, ``error_rate < 1 %``, ``goodput >= 10 req/s``, ``quality(chrf) > 0.45``.

Parsed and type-checked when the specification is read, before any server starts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

LATENCY_METRICS = ("e2e", "ttft", "tpot", "itl", "response_time")
RATE_METRICS = ("error_rate", "goodput", "throughput")
SCORES = (
    "chrf",
    "bleu",
    "language",
    "length_ratio",
    "translated",
    "facts",
    "no_forbidden",
    "no_refusal",
    "on_topic",
    "polite",
    "length",
    "structure",
    "mentions",
    "distinct",
    "complete",
    "clean",
    "script",
)
"""Of ``quality(...)``: the names in :data:`harness.quality.SCORERS`."""
PLAIN_METRICS = (*RATE_METRICS, "good_share")
METRICS = (*LATENCY_METRICS, *PLAIN_METRICS)
AGGREGATES = ("p50 .. p99.9", "mean", "max")

_LOWER_IS_BETTER = frozenset((*LATENCY_METRICS, "error_rate"))
_UNITS: dict[str, dict[str, Decimal]] = {
    "latency": {"s": Decimal(1), "ms": Decimal("0.001"), "us": Decimal("0.000001"), "min": Decimal(60)},
    "share": {"%": Decimal("0.01"), "": Decimal(1)},
    "score": {"": Decimal(1)},
    "rate": {"req/s": Decimal(1), "/s": Decimal(1), "req/min": Decimal(1) / Decimal(60)},
}
_DIMENSION = dict.fromkeys(LATENCY_METRICS, "latency") | {
    "error_rate": "share",
    "goodput": "rate",
    "throughput": "rate",
    "good_share": "share",
    **dict.fromkeys(SCORES, "score"),
}
_PATTERN = re.compile(
    r"""\s*(?:(?P<aggregate>[a-z][a-z0-9.]*)\s*\(\s*(?P<inner>\w+)\s*\)|(?P<plain>\w+))
        \s*(?P<op><=|>=|<|>|=+)\s*(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(?P<unit>[a-zA-Z/%]*)\s*""",
    re.VERBOSE,
)

Comparison = Literal["<", "<=", ">", ">="]


@dataclass(frozen=True, slots=True)
class Objective:
    """One check of an SLA.

    ``limit`` is in base units: seconds for latencies, a share for ``error_rate`` and ``good_share``, requests per
    second for rates, 0 to 1 for scores. ``quality(chrf)`` has the metric ``chrf`` and the aggregate ``quality``.
    ``allowed_rate`` is the share of requests that may violate a percentile
    objective (exactly 1 - percentile/100, computed in decimal), ``None`` for the rest.
    """

    text: str
    metric: str
    aggregate: str
    comparison: Comparison
    limit: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Parse the SLA syntax.

        Raises
        ------
        ValueError
            In one sentence that names what is allowed.
        """
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ValueError(f"'{text}' is not an SLA check; write for example 'p95(e2e) < 2 s' or 'error_rate < 1 %'")
        metric = match["inner"] or match["plain"]
        aggregate = match["aggregate"] or ""
        if aggregate == "quality":
            if metric not in SCORES:
                raise ValueError(f"'{text}': unknown score '{metric}'; allowed: {', '.join(SCORES)}")
        elif metric in SCORES:
            raise ValueError(f"'{text}': {metric} is a score; write 'quality({metric}) > ...'")
        elif metric not in METRICS:
            raise ValueError(f"'{text}': unknown metric '{metric}'; allowed: {', '.join(METRICS)}, quality(...)")
        _check_aggregate(text, metric, aggregate)
        comparison = _comparison(text, metric, match["op"])
        limit, unit = _limit(text, metric, match["number"], match["unit"])
        return cls(" ".join(text.split()), metric, aggregate, comparison, limit, unit)

    @property
    def percentile(self) -> Decimal | None:
        """Percent, exact: ``Decimal('99.9')`` for ``p99.9``."""
        return Decimal(self.aggregate[1:]) if self.aggregate.startswith("p") else None

    @property
    def allowed_rate(self) -> float | None:
        percentile = self.percentile
        return None if percentile is None else float((100 - percentile) / 100)

    @property
    def is_latency(self) -> bool:
        return self.metric in LATENCY_METRICS

    @property
    def is_quality(self) -> bool:
        """Whether it speaks of answers' texts: a score, or the share of requests on time and acceptable."""
        return self.aggregate == "quality" or self.metric == "good_share"

    @property
    def lower_is_better(self) -> bool:
        return self.metric in _LOWER_IS_BETTER

    def holds(self, value: float) -> bool:
        """Whether one value (base units) keeps the limit; strict comparisons stay strict."""
        match self.comparison:
            case "<":
                return value < self.limit
            case "<=":
                return value <= self.limit
            case ">":
                return value > self.limit
            case ">=":
                return value >= self.limit

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        from_text = core_schema.no_info_after_validator_function(cls.parse, core_schema.str_schema())
        return core_schema.json_or_python_schema(
            json_schema=from_text,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), from_text]),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda objective: objective.text),
        )


def _check_aggregate(text: str, metric: str, aggregate: str) -> None:
    if aggregate == "quality":
        return
    if metric in PLAIN_METRICS:
        if aggregate:
            raise ValueError(f"'{text}': {metric} takes no aggregate; write '{metric} ...'")
        return
    if not aggregate:
        raise ValueError(f"'{text}': {metric} needs an aggregate; allowed: {', '.join(AGGREGATES)}")
    if aggregate in ("mean", "max"):
        return
    if not re.fullmatch(r"p[0-9]{2}(\.[0-9]+)?", aggregate) or not Decimal(50) <= Decimal(aggregate[1:]) <= Decimal(
        "99.9"
    ):
        raise ValueError(f"'{text}': unknown aggregate '{aggregate}'; allowed: {', '.join(AGGREGATES)}")


def _comparison(text: str, metric: str, op: str) -> Comparison:
    allowed: tuple[Comparison, ...] = ("<", "<=") if metric in _LOWER_IS_BETTER else (">", ">=")
    for comparison in allowed:
        if op == comparison:
            return comparison
    raise ValueError(f"'{text}': {metric} is checked with {' or '.join(allowed)}, not '{op}'")


def _limit(text: str, metric: str, number: str, unit: str) -> tuple[float, str]:
    dimension = _DIMENSION[metric]
    factors = _UNITS[dimension]
    if unit not in factors:
        allowed = ", ".join(repr(name) for name in factors if name)
        given = f"given in {allowed}" if allowed else "a number from 0 to 1 without a unit"
        raise ValueError(f"'{text}': {metric} is {given}, not '{unit or 'no unit'}'")
    limit = Decimal(number) * factors[unit]
    if dimension == "latency" and limit <= 0:
        raise ValueError(f"'{text}': impossible, no request ends in {number} {unit}")
    if dimension == "share" and not 0 < limit <= 1:
        what = "an error rate" if metric == "error_rate" else "a share's"
        raise ValueError(f"'{text}': impossible or meaningless, {what} limit lies above 0 % and up to 100 %")
    if dimension == "score" and not 0 < limit < 1:
        raise ValueError(f"'{text}': impossible or meaningless, a score lies between 0 and 1")
    if dimension == "rate" and limit <= 0:
        raise ValueError(f"'{text}': meaningless, a rate limit is above 0")
    return float(limit), unit
