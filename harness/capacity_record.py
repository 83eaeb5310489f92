"""``capacity.json``: the levels that were tried, the interval they leave, and what that costs."""

from __future__ import annotations

from typing import Literal

from harness.judgement import Mark, Verdict
from harness.records import Record

CAPACITY_FORMAT = 1
"""Version of ``capacity.json``; a reader refuses a larger one."""

LoadKind = Literal["users", "rate"]
Shape = Literal["cliff", "slope", "unknown"]


class SearchSettings(Record):
    """How the levels are chosen. Loads are users of a closed loop, or requests/s of an open one."""

    kind: LoadKind = "users"
    start: float
    most: float
    """No level is above it."""
    levels_max: int
    """The most levels, over which the chance of a wrong verdict is divided."""
    factor: float = 2.0
    """Of a geometric step."""
    precision: float = 0.05
    """The search ends when infeasible over feasible is at most 1 plus this (or the two are neighbouring users)."""


class LevelQuality(Record):
    """What the answers of a level are worth, of those that were scored. Shares and scores are 0 to 1."""

    judged: int
    good_share: float | None = None
    """On time and acceptable."""
    good_low: float | None = None
    good_high: float | None = None
    acceptable_on_time: float | None = None
    """Acceptable, of the answers on time: what load takes from it is no lateness."""
    means: dict[str, float] = {}
    """Of each score; ``complete`` falls where answers are cut off."""


class LevelResult(Record):
    """One level: a run directory, its verdict, and the figures that the curves show. Seconds and requests/s."""

    load: float
    verdict: Verdict
    sentence: str
    run_dir: str
    """Relative to the directory of ``capacity.json``."""
    judged: int = 0
    run_time_s: float = 0.0
    """Of load, warm-up included."""
    p50_s: float | None = None
    """Of ``metric``, as the other two."""
    p95_s: float | None = None
    p99_s: float | None = None
    throughput_rps: float | None = None
    goodput_rps: float | None = None
    attained: float | None = None
    """Share of the judged requests that kept every limit."""
    response_s: float | None = None
    """Mean, with failures as long as they took."""
    think_s: float | None = None
    usd_per_query: float | None = None
    usd_per_1000_good: float | None = None
    prompt_tokens: float | None = None
    """Mean a request, as the next."""
    output_tokens: float | None = None
    quality: LevelQuality | None = None
    """None: answers were not scored, as on an emulator."""
    check: str = ""
    """The check with the least room; empty when something else than a check decided."""
    violating: float | None = None
    """Share of requests that violate it."""
    allowed: float | None = None
    """Share that may."""
    requests_per_min_allowed: int | None = None
    """An API's rate limit, by its own headers; None: not said."""
    tokens_per_min_allowed: int | None = None


class Interval(Record):
    """What the levels say together. The truth lies in [feasible, infeasible) unless one of the verdicts is wrong."""

    feasible: float | None = None
    """The largest level that passed and below which every tested level passed: the capacity."""
    infeasible: float | None = None
    """The smallest level that failed."""
    undecided: tuple[float, ...] = ()
    """Levels between the two that were not decided, or whose PASS does not count because one below them lacks it."""
    invalid: float | None = None
    """The smallest level at which the load generator was at its end; nothing above it was tried."""


class PriceTag(Record):
    """What a stack costs, with where that was read, and whether it is too old to be believed."""

    stack: str
    text: str
    """Empty: it has no price."""
    source: str
    read: str = ""
    """ISO date; empty: none is stated."""
    flag: str = ""
    """Why the price should be looked up again; empty: it need not."""


class Arithmetic(Record):
    """A figure with the calculation that made it."""

    label: str
    value: float
    arithmetic: str


class ReplicaPlan(Record):
    """Replicas for the scenario's load, from the lower end of the interval."""

    load: float
    """Users, or requests/s, to be served at the peak."""
    per_replica: float
    """What one replica carries: the lower end over the replicas of the tested stack."""
    utilisation: float
    needed: int
    spare: int
    gpus_per_replica: int
    arithmetic: str

    @property
    def total(self) -> int:
        return self.needed + self.spare


class Crossing(Record):
    """A monthly volume at which the cheaper of two changes."""

    requests: float
    """A month."""
    replicas: int
    """Own replicas just beyond it, the spare ones included."""
    usd: float
    """A month, of the cheaper just beyond it."""
    cheaper: Literal["own", "api"]
    """Beyond it."""


class BreakEven(Record):
    """Own GPUs against an API: whole replicas are a step function of the volume, so there may be many crossings."""

    api: str
    api_usd_per_query: float
    arithmetic: str
    usd_per_replica_month: float
    requests_per_replica_month: float
    """What one replica answers in a month at the daily profile, its peak at the utilisation target."""
    crossings: tuple[Crossing, ...] = ()
    sentence: str


class Bar(Record):
    """One bar of the tornado chart: what becomes of the cost when one assumption moves."""

    label: str
    low_text: str
    """The assumption at its left, such as ``-20%``."""
    high_text: str
    low_usd: float | None
    """$ per 1,000 good requests; None: none is possible there."""
    high_usd: float | None
    note: str = ""


class Sizing(Record):
    """What the scenario's load takes and costs at the SLA. None where there is no price or no capacity."""

    profile: str
    """Name of the daily profile."""
    profile_reason: str
    weights: tuple[float, ...] = ()
    """Of 24 hours, relative to the peak hour."""
    replicas: ReplicaPlan | None = None
    figures: tuple[Arithmetic, ...] = ()
    """Cost a query, per 1,000 good requests, per million tokens, per month, in this order, as far as they exist."""
    usd_per_1000_good: float | None = None
    usd_per_month: float | None = None
    requests_per_month: float | None = None
    break_even: BreakEven | None = None
    bars: tuple[Bar, ...] = ()
    notes: tuple[str, ...] = ()


class Confirmation(Record):
    """One run of the sized replicas, without the spare ones, at the scenario's load."""

    replicas: int
    load: float
    verdict: Verdict | None = None
    """None: it could not be run."""
    sentence: str
    run_dir: str = ""


class CapacityRecord(Record):
    format: int = CAPACITY_FORMAT
    scenario: str
    scenario_title: str
    stack: str
    stack_title: str
    profile: str
    settings: SearchSettings
    options: dict[str, str] = {}
    """What else makes a level what it is; a search is resumed only with the same."""
    confidence: float
    """Of the whole search."""
    level_confidence: float
    metric: str = "e2e"
    """Whose percentiles the levels carry."""
    limit_s: float | None = None
    """Of the first check on ``metric``."""
    marks: tuple[Mark, ...] = ()
    levels: tuple[LevelResult, ...] = ()
    """In the order tried."""
    interval: Interval = Interval()
    shape: Shape = "unknown"
    shape_text: str = ""
    binding: str = ""
    """The check that ends the capacity, with its figures; empty: none did."""
    verdict: Verdict = Verdict.INCONCLUSIVE
    """PASS: an interval was found with at least one level that passes; FAIL: even the least level fails."""
    sentence: str = ""
    ended: str = ""
    """Why no further level was tried."""
    spent_usd: float | None = None
    """On tokens, by every run of the search; None where nothing is paid by the token."""
    cap_usd: float | None = None
    prices: tuple[PriceTag, ...] = ()
    sizing: Sizing | None = None
    confirmation: Confirmation | None = None
    notes: tuple[str, ...] = ()
    harness_version: str = ""
    git: str = ""
    host: str = ""
    started: str = ""
    """ISO 8601, UTC."""
    command: str = ""

    @property
    def by_load(self) -> tuple[LevelResult, ...]:
        """The levels from the lightest on."""
        return tuple(sorted(self.levels, key=lambda level: level.load))
