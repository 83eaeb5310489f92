"""What a comparison says: launches of arms, the difference of each metric with its interval, a verdict for each pair.

A Comparison is complete, as a Judgement is: page, terminal and JSON are rendered from it and compute nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from harness.judgement import Mark, Verdict
from harness.records import Record

COMPARISON_FORMAT = 1


class Finding(StrEnum):
    """What is said of B against A, in one metric or as a whole."""

    BETTER = "better"
    WORSE = "worse"
    MIXED = "better and worse"
    """As a whole only: some headline metrics are better, others worse."""
    NO_DIFFERENCE = "no difference shown"
    TOO_FEW = "too few samples"
    NOT_MEASURED = "not measured"


class Part(Record):
    """Some of a launch's answered requests, shown apart; seconds."""

    name: str
    requests: int
    ttft_p50_s: float | None = None
    e2e_p50_s: float | None = None
    e2e_p95_s: float | None = None


class Launch(Record):
    """One launch of a stack under load, judged: the unit of a comparison."""

    run: str
    directory: str = ""
    scenario: str
    scenario_title: str = ""
    stack: str
    stack_title: str = ""
    verdict: Verdict
    marks: tuple[Mark, ...] = ()
    started: str = ""
    """ISO 8601, UTC."""
    round: int | None = None
    """Launches of one round, one of each arm, were made one after another."""
    emulated: bool = False
    streamed: bool = True
    requests: int = 0
    """Judged."""
    window_s: float | None = None
    left_out: str = ""
    """Why it is not compared; empty: it is."""
    conditions: dict[str, str] = {}
    """What should be the same in both arms, in words: users, think time, lengths, prompts, seeds."""
    headline: tuple[str, ...] = ()
    """Names of the metrics that its scenario's SLA is about."""
    values: dict[str, float] = {}
    """Of :data:`harness.compare.METRICS`; infinite where failures reach a percentile."""
    blocks: dict[str, tuple[float, ...]] = {}
    """The same metrics over equal parts of the judged window."""
    parts: tuple[Part, ...] = ()
    """Cache hits and misses, prompts seen before and for the first time; empty where nothing repeats."""


class ArmResult(Record):
    """One side of a comparison."""

    label: str
    changes: dict[str, str] = {}
    """What the arm changes of its stack and scenario, as given."""
    launches: tuple[Launch, ...]


class Difference(Record):
    """One metric, B against A.

    ``effect`` is B / A - 1 for a metric compared by ratio, B - A for a share; ``low`` and ``high`` bound it at
    ``confidence``, for this metric alone. ``a`` and ``b`` are the arms' means over launches, geometric for ratios.
    """

    metric: str
    label: str
    unit: Literal["s", "share", "req/s", "USD", "J"]
    kind: Literal["ratio", "share"]
    better: Literal["lower", "higher"]
    a: float | None = None
    b: float | None = None
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    """Two-sided; None where no claim about the stack is possible."""
    basis: str = ""
    """What the interval was made of."""
    finding: Finding
    reason: str
    headline: bool = False
    headline_finding: Finding | None = None
    """After Holm's correction over all headline metrics; None outside the headline."""


class Pair(Record):
    """B against A."""

    a: str
    b: str
    finding: Finding
    sentence: str
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()


class Comparison(Record):
    format: int = COMPARISON_FORMAT
    title: str
    question: str = ""
    """Of an experiment."""
    experiment: str = ""
    scenario: str
    scenario_title: str = ""
    min_effect: float
    min_points: float
    confidence: float
    interleaved: bool = False
    arms: tuple[ArmResult, ...]
    """The first is the one that the others are compared with."""
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()
    command: str = ""

    @property
    def worse(self) -> bool:
        return any(pair.finding in (Finding.WORSE, Finding.MIXED) for pair in self.pairs)
