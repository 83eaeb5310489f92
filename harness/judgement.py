"""What judging says of one run: every check, the verdict, and the numbers a report shows.

A Judgement is complete: reports, JUnit and Markdown are rendered from it and compute nothing.
"""

from __future__ import annotations

from enum import StrEnum

from harness.certificate import Certificate
from harness.errors import ExitCode
from harness.records import Record, ReplicaFacts


class Verdict(StrEnum):
    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"
    NOT_MEASURED = "NOT MEASURED"
    """Of a check only: left out of the cell's verdict, and said so."""

    @property
    def exit_code(self) -> ExitCode:
        return _EXIT_CODES[self]


_EXIT_CODES = {
    Verdict.PASS: ExitCode.PASS,
    Verdict.FAIL: ExitCode.FAIL,
    Verdict.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
    Verdict.INVALID: ExitCode.INVALID,
    Verdict.NOT_MEASURED: ExitCode.INCONCLUSIVE,
}


class Mark(StrEnum):
    """What a reader must know of a cell before believing a number of it."""

    EMULATED = "EMULATED"
    OTHER_GPU = "OTHER GPU"
    """Measured for real, but not on the stack's hardware: neither its claims nor its price are of this GPU."""
    CLAIM_REPLAYED = "CLAIM REPLAYED"
    REDUCED = "REDUCED"
    CUT_OFF = "CUT OFF"
    EARLY_STOP = "STOPPED AT FAIL"
    DECIDED = "STOPPED WHEN DECIDED"
    ABORTED = "ABORTED"
    FORCED_LENGTH = "FORCED LENGTH"


class CheckResult(Record):
    """One SLA check. Values are in the check's base unit (seconds, share, per second).

    For a percentile check, ``violations`` of ``samples`` break the limit, ``rate_low`` and
    ``rate_high`` are one-sided bounds of the violation rate, each at ``confidence``: those of
    Clopper and Pearson at ``effective_samples`` in place of ``samples``; ``allowed_rate`` is what
    the percentile allows. ``value`` is the nearest-rank order statistic with failures as +infinity;
    ``value_low`` and ``value_high`` bound it the same way.
    """

    text: str
    metric: str
    aggregate: str
    comparison: str
    limit: float
    unit: str
    verdict: Verdict
    reason: str
    value: float | None = None
    value_low: float | None = None
    value_high: float | None = None
    margin: float | None = None
    """limit - value over limit for an upper limit (positive: room left), the reverse for a lower one."""
    samples: int = 0
    violations: int | None = None
    allowed_rate: float | None = None
    rate_low: float | None = None
    rate_high: float | None = None
    confidence: float = 0.95
    more_samples: int | None = None
    """Requests still needed to decide, at the violation rate seen; None when decided or at the limit."""
    at_limit: bool = False
    undefined: int = 0
    """Judged requests for which the metric is not defined (TPOT of a one-token answer), left out."""
    effective_samples: float | None = None
    """As many independent samples would say as much; :mod:`harness.effective` has the procedure."""
    design_effect: float | None = None
    """How many times the variance of independent samples theirs is, at least 1; estimated from the run."""
    correlation_time_s: float | None = None
    """For how long latencies stay alike; 0: no longer than from one request to the next."""
    blocks: int = 0
    """Equal pieces of the window that the design effect is estimated from; 0: independence was taken for granted."""
    needed_window_s: float | None = None
    """The shortest window that could PASS, where latencies stay alike for too long for this one."""


class Distribution(Record):
    """Percentiles of one metric over the judged requests, failures as +infinity; seconds."""

    metric: str
    samples: int
    failures: int
    mean_ok: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    p999: float | None = None
    max: float | None = None


class RegionResult(Record):
    """One region's requests, judged alone, with what they say of the scenario's first check."""

    region: str
    """Empty: of workers without a tag."""
    requests: int
    verdict: Verdict
    """By the latency and error checks alone, and on this region's requests alone."""
    check: str = ""
    value: float | None = None
    samples: int = 0
    violations: int | None = None
    p_value: float | None = None
    """Chance of so many violations if the region just kept the check; small: it breaks it."""


class OutcomeCount(Record):
    outcome: str
    count: int
    share: float
    examples: tuple[str, ...] = ()


class PromptViolations(Record):
    prompt_id: str
    requests: int
    violations: int


class SlowRequest(Record):
    """One of the judged requests that took longest; seconds."""

    request_id: str
    """As sent in ``X-Request-Id``."""
    prompt_id: str
    outcome: str
    issued_s: float
    """After the run clock's zero: sent in a closed loop, due in an open one."""
    took_s: float
    """From issue to its end; of a failed one until it failed, of an unfinished one until it was last seen."""
    ttft_s: float | None = None
    output_tokens: int | None = None


class OpenLoad(Record):
    """What an open loop offered in the judged window, and what came of it."""

    arrivals: str
    """The pattern, in words."""
    scheduled: int
    """Arrivals of the whole run, tail included."""
    due: int
    """Those of the judged window."""
    started: int
    """Of these, sent."""
    completed: int
    """Requests of any time that ended in the window, answered or failed."""
    offered_rps: float
    started_rps: float
    completed_rps: float
    late: int
    """Arrivals of the window sent more than 2 ms after their time."""
    late_p50_s: float | None = None
    late_p99_s: float | None = None
    late_max_s: float | None = None
    in_flight_halves: tuple[float, float]
    """Mean in flight in the window's halves: growth is the server's result, a queue that no user leaves."""


class LoadSummary(Record):
    """The load in one line. A closed loop: N = X (R + Z) must hold within 2%; an open one: ``open_loop``."""

    users: int
    """0 in an open loop."""
    users_reached: int
    open_loop: OpenLoad | None = None
    think_s: float | None = None
    throughput_rps: float | None = None
    response_s: float | None = None
    in_flight_mean: float | None = None
    users_implied: float | None = None
    """Mean in flight plus mean thinking, both clipped to the judged window."""
    little_error: float | None = None
    little_holds: bool | None = None
    requests: int = 0
    judged: int = 0
    output_tokens_per_s: float | None = None
    events_per_s: float | None = None
    window_s: float | None = None
    tokens_asked_mean: float | None = None
    tokens_got_mean: float | None = None
    prompt_tokens_mean: float | None = None
    cached_tokens_mean: float | None = None
    """Of the prompt's, where the server says how many it had in its cache."""
    token_source: str = ""


class ClientHealth(Record):
    workers: int
    hub_lag_p99_s: float | None = None
    hub_lag_max_s: float | None = None
    send_lag_p99_s: float | None = None
    """sent - scheduled at p99: what the client added before sending."""
    cpu_share_max: float | None = None
    samples_sent: int | None = None
    samples_written: int = 0
    certificate: Certificate | None = None
    """What the client was shown to add before the run (or after it, where the run was faster)."""


class TimelinePoint(Record):
    """One bin of the run; ``t_s`` is the bin's start after the run clock's zero (negative: spawning)."""

    t_s: float
    users: int
    in_flight: float
    sent: int
    completed: int
    failed: int
    ttft_p50_s: float | None = None
    e2e_p50_s: float | None = None
    e2e_p95_s: float | None = None


class Curve(Record):
    """Points of an ECDF: share of judged requests at or below ``x_s``; failures never get there."""

    metric: str
    x_s: tuple[float, ...]
    share: tuple[float, ...]


class ClaimAudit(Record):
    """Claim, floor and measurement beside each other; seconds, bytes and dollars."""

    scenario: str
    stack: str
    claim_latency_s: float | None = None
    claim_tokens: int | None = None
    floor_s: float | None = None
    floor_arithmetic: str = ""
    feasible: bool | None = None
    """False: the claim is under its physical floor. None: no floor (an API) or no claim."""
    factor: float | None = None
    """floor over claim: above 1, the claim is impossible by that factor."""
    measured_p50_s: float | None = None
    measured_tokens: float | None = None
    note: str = ""


class CostSummary(Record):
    usd_per_hour: float | None = None
    usd_per_query: float | None = None
    usd_per_1000_good: float | None = None
    claim_usd_per_query: float | None = None
    spent_usd: float | None = None
    """What the run itself paid for tokens, at most; None where nothing is paid by the token."""
    cap_usd: float | None = None
    arithmetic: str = ""
    source: str = ""


class SeriesSummary(Record):
    """One series of telemetry over the judged window; a counter is its growth per second."""

    name: str
    """Of :data:`harness.series.SERIES`, which has its label and unit."""
    device: int | None = None
    """A GPU's index; None for what belongs to no GPU, and for all of the server's GPUs together."""
    readings: int
    min: float
    mean: float
    p95: float
    max: float


class TelemetryLine(Record):
    """One series over the whole run, thinned; a reading that is missing is None. GPUs are joined."""

    name: str
    t_s: tuple[float, ...]
    """After the run clock's zero."""
    values: tuple[float | None, ...]


class EnergySummary(Record):
    """What the server's GPUs consumed in the judged window, and what was answered for it."""

    joules: float
    gpus: tuple[int, ...]
    source: str
    """``energy counter``, ``integral of power``, or both where GPUs differ."""
    requests: int
    """Answered ``ok`` in the window."""
    output_tokens: int
    per_request_j: float | None = None
    per_1000_tokens_j: float | None = None


class TelemetrySummary(Record):
    """The server's own account, and that of the machine; what was not there to be read is absent."""

    server_kind: str = ""
    """Whose metric names were read; empty: none."""
    gpus: dict[int, str] = {}
    """Index to name, of those that the server uses."""
    series: tuple[SeriesSummary, ...] = ()
    lines: tuple[TelemetryLine, ...] = ()
    energy: EnergySummary | None = None
    throttle_reasons: tuple[str, ...] | None = None
    """Seen in the window on the server's GPUs; None where no GPU tells."""
    preemptions: int | None = None
    """In the window; None where the server does not count them."""
    scrapes: int = 0
    """Of the whole run."""
    scrape_failures: int = 0
    scrape_error: str = ""
    in_flight_server: float | None = None
    """Running and waiting, by the server's own count: mean over the scrapes of the window."""
    in_flight_client: float | None = None
    """Requests sent and not over, at the same moments."""
    incomplete: str = ""
    """Why parts of the judged window have no telemetry; empty: they all have."""


class LlmJudgeSummary(Record):
    """What a judge model said of a seeded part of the answers, each beside a second text or by its brief's rubric."""

    model: str
    prompt_digest: str
    """Of the pinned prompt, ``sha256:...``; two where both kinds of answers were graded."""
    asked: int
    """Answers shown to it; each takes two calls."""
    judged: int
    """Of these, with two readable verdicts."""
    mean: float | None = None
    """0 to 1, over both orders (of the two texts, or of the rubric's points)."""
    low: float | None = None
    high: float | None = None
    wins: float | None = None
    """Share of answers at least as good as the second text, in both orders; None where there was none."""
    agreement: float | None = None
    """Share of answers of which both orders say the same."""
    spent_usd: float | None = None
    cap_usd: float | None = None
    stopped: str = ""
    """Why not all were judged; empty: they were."""


class ScoreSummary(Record):
    """One score over the judged answers; a request that failed has 0. Bounds are one-sided."""

    scorer: str
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    samples: int = 0
    """Judged requests whose prompt lets it be made."""
    limit: float | None = None
    """Least that is acceptable of one answer; None: it decides nothing."""
    below: int | None = None
    """Answers under it."""
    corpus: float | None = None
    """The published figure over all scored answers, where it is not the mean."""
    signature: str = ""


class QualitySummary(Record):
    """Answers that were kept and scored; shares are of the judged ones among them."""

    kept: int
    scored: int
    judged: int
    scored_share: float
    """Of all judged requests; fixed before any was sent."""
    prompts: int
    good: int
    """On time and acceptable."""
    late: int
    """Late or failed."""
    not_acceptable: int
    """On time, or not known to be late, and not acceptable."""
    good_share: float | None = None
    good_low: float | None = None
    good_high: float | None = None
    acceptable_on_time: float | None = None
    """Share of the answers on time that are acceptable."""
    confidence: float = 0.95
    scores: tuple[ScoreSummary, ...] = ()
    llm_judge: LlmJudgeSummary | None = None


class Provenance(Record):
    harness_version: str
    git: str
    python: str
    host: str
    cores: int
    gpus: tuple[str, ...] = ()
    locust: str = ""
    started: str = ""
    """ISO 8601, UTC."""
    seeds: dict[str, int] = {}
    command: str = ""
    repeat: str = ""
    """A command line that repeats the run."""
    digests: dict[str, str] = {}


class Judgement(Record):
    """One cell, judged. ``floor_failed`` cells (memory cannot admit one request) have no load."""

    format: int = 1
    run: str
    scenario: str
    scenario_title: str
    stack: str
    stack_title: str
    profile: str = ""
    verdict: Verdict
    sentence: str
    reasons: tuple[str, ...] = ()
    marks: tuple[Mark, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    outcomes: tuple[OutcomeCount, ...] = ()
    slo_attainment: float | None = None
    goodput_rps: float | None = None
    """Good requests: on time and, where quality was measured, acceptable, as estimated on the scored share."""
    load: LoadSummary
    client: ClientHealth
    window: tuple[float, float] | None = None
    """Judged window in seconds after the run clock's zero."""
    warm_up_s: float = 0.0
    warm_up_note: str = ""
    """How the warm-up was chosen: the profile's, or longer because the run was not steady by then."""
    ended_by: str = ""
    timeline: tuple[TimelinePoint, ...] = ()
    curves: tuple[Curve, ...] = ()
    worst_prompts: tuple[PromptViolations, ...] = ()
    slowest: tuple[SlowRequest, ...] = ()
    regions: tuple[RegionResult, ...] = ()
    """Empty unless the workers carry more than one region's tag."""
    claim: ClaimAudit | None = None
    cost: CostSummary | None = None
    quality_word: str = ""
    quality_note: str = ""
    quality: QualitySummary | None = None
    """None: not measured, and ``quality_note`` says why."""
    server: dict[str, str] = {}
    server_log_tail: tuple[str, ...] = ()
    replicas: tuple[ReplicaFacts, ...] = ()
    """The servers behind the load balancer, with what it counted of each; empty without one."""
    telemetry: TelemetrySummary | None = None
    """None: none was recorded."""
    notes: tuple[str, ...] = ()
    """Statements a reader needs: what the counts are worth, quality not measured, lengths forced."""
    provenance: Provenance | None = None
