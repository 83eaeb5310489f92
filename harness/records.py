"""Facts of a run: what was sent and what came back, without anything derived.

Times named ``*_s`` in :class:`Sample` are seconds on the *worker's* monotonic clock;
:class:`WorkerFacts` holds the anchor that maps them to wall-clock seconds. Times in
:class:`LoadFacts` are wall-clock seconds (Unix epoch).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

RUN_FORMAT = 1
"""Version of the run directory's layout; a reader refuses a larger one."""


class Outcome(StrEnum):
    """How a request ended. Everything but ``ok`` violates every latency check."""

    OK = "ok"
    HTTP_ERROR = "http_error"
    RATE_LIMITED = "rate_limited"
    TIMEOUT = "timeout"
    REFUSED = "refused"
    RESET = "reset"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    CANCELLED = "cancelled"
    IN_FLIGHT = "in_flight"


OUT_OF_RESOURCES = "the client is out of resources"
"""How the error of a request begins that this machine, not the server, kept from starting (open files, ports)."""
LATE_S = 0.002
"""An open-loop arrival that was sent later than this after its time counts as late."""


class TokenSource(StrEnum):
    """Where ``output_tokens`` comes from; a server's usage beats counting chunks."""

    USAGE = "usage"
    CHUNKS = "chunks"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request's input.

    ``output_tokens`` is the length asked for (``max_tokens``); with ``forced`` the server
    is told to ignore its end-of-sequence token and generate exactly that many.
    """

    prompt_id: str
    messages: tuple[Message, ...]
    output_tokens: int
    forced: bool = False
    difficulty: str = ""
    expected: dict[str, Any] = field(default_factory=dict)
    """What an acceptable answer has, as :mod:`harness.expected` writes it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request, as it happened; the row of ``samples.parquet``.

    In an open loop ``user`` is the arrival's place in the schedule, and ``sequence`` is 0.

    ``scheduled_s`` is when the request was due: the user's previous end plus think time in
    a closed loop, the arrival's time in an open one. ``sent_s`` is just before the first byte
    left. A time that never came is NaN. ``gaps_us`` holds every gap between content chunks
    in microseconds. ``requested_tokens`` is the length asked for, ``output_tokens`` the one achieved
    (-1: unknown). ``retry_s`` are the seconds that retries cost; they are inside end - sent.
    """

    run: str
    worker: int
    region: str
    user: int
    sequence: int
    scenario: str
    prompt_id: str
    scheduled_s: float
    sent_s: float
    first_byte_s: float
    first_token_s: float
    last_token_s: float
    end_s: float
    prompt_tokens: int
    output_tokens: int
    requested_tokens: int
    token_source: TokenSource
    chunks: int
    gaps_us: tuple[int, ...]
    outcome: Outcome
    http_status: int
    finish_reason: str
    retries: int
    retry_s: float
    bytes: int
    cached_tokens: int
    error: str

    @property
    def request_id(self) -> str:
        """The id sent as ``X-Request-Id``, by which a server's log joins."""
        return request_id(self.run, self.worker, self.user, self.sequence)


def request_id(run: str, worker: int, user: int, sequence: int) -> str:
    """Name one request of one run, for ``X-Request-Id`` and for joins."""
    return f"{run}/{worker}/{user}/{sequence}"


class Record(BaseModel):
    """Base of everything that is written as JSON: strict, immutable, infinities kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class WorkerFacts(Record):
    """One load-generating process: its clock anchor, and how healthy it was."""

    worker: int
    host: str
    pid: int
    region: str = ""
    anchor_wall_s: float
    anchor_monotonic_s: float
    clock_offset_s: float = 0.0
    """This worker's wall clock minus the master's, to be subtracted."""
    clock_round_trip_s: float | None = None
    """The shortest round trip that the offset was measured by: it is true within half of this. None: not measured."""
    samples_sent: int | None = None
    """None: the worker never reported its end (killed)."""
    hub_lag_p50_s: float | None = None
    hub_lag_p99_s: float | None = None
    hub_lag_max_s: float | None = None
    cpu_share: float | None = None
    """CPU seconds per second of load, of this process."""
    users_peak: int = 0
    arrivals_due: int = 0
    """Open loop: arrivals of this worker's share whose time had come when it stopped; each has a sample."""
    arrivals_late: int = 0
    """Of those, sent later than :data:`LATE_S` after their time."""
    arrivals_not_started: int = 0
    """Of those, never sent: this machine had no resources or no time for them."""

    def wall_s(self, monotonic_s: float) -> float:
        """Map this worker's monotonic seconds to the master's wall clock."""
        return self.anchor_wall_s - self.clock_offset_s + (monotonic_s - self.anchor_monotonic_s)

    def monotonic_s(self, wall_s: float) -> float:
        """Map the master's wall-clock seconds to this worker's monotonic ones."""
        return self.anchor_monotonic_s + (wall_s - (self.anchor_wall_s - self.clock_offset_s))


Decision = Literal["", "pass", "fail", "at limit"]
"""What a look found; empty: nothing is decided."""


class Look(Record):
    """One moment, fixed before the run, at which a verdict could end it."""

    at_s: float
    """Seconds after the run clock started."""
    taken: bool = False
    failed: bool = False
    passed: bool = False
    at_limit: bool = False
    """No verdict, but so narrow an interval around the limit that more requests would change nothing."""

    def with_answer(self, decided: Decision) -> Look:
        """The same look, taken."""
        found = {"failed": decided == "fail", "passed": decided == "pass", "at_limit": decided == "at limit"}
        return self.model_copy(update={"taken": True, **found})

    @property
    def ended(self) -> bool:
        return self.failed or self.passed or self.at_limit


class LoadFacts(Record):
    """What the coordinator did, in wall-clock seconds; None where it never happened."""

    users_asked: int
    """0 in an open loop, which has no users."""
    users_reached: int = 0
    loop: Literal["closed", "open"] = "closed"
    arrivals_scheduled: int = 0
    """Open loop: arrivals from the run clock's zero to the end of the tail."""
    arrivals_due: int = 0
    """Those whose time came before the load was stopped, summed over workers, as the next two."""
    arrivals_late: int = 0
    arrivals_not_started: int = 0
    started_s: float | None = None
    """The run clock's zero: all users are up, or the first arrival may come."""
    warm_up_s: float = 0.0
    run_time_s: float = 0.0
    """T: requests issued in [started + warm_up, started + T] are judged."""
    tail_s: float = 0.0
    """Load stays on this much longer than T (the largest limit), so that nothing judged is censored."""
    judged_until_s: float | None = None
    """Wall-clock end of the judged window; earlier than T when the run was ended at a look."""
    stopped_issuing_s: float | None = None
    drained_s: float | None = None
    ended_by: str = ""
    """``run time``, ``fail decided``, ``decided``, ``aborted``, ``stopped``, ``interrupted``, ``server died``, ..."""
    complete: bool = False
    """False for a cut-off run, which may FAIL but PASSes only if all unfinished requests could be violations."""
    looks: tuple[Look, ...] = ()
    until_decided: bool = False
    """PASS could end the run at a look as well, so that PASS too is asked for at each look's part of alpha."""
    abort_on: tuple[str, ...] = ()
    """Conditions that make a run hopeless; one that is shown ends it."""
    abort_looks: int = 0
    """Moments, fixed before the run, at which they were looked for."""
    aborted_on: str = ""
    """What was shown, in a sentence; empty: none of them."""
    samples_written: int = 0

    @property
    def ended_look(self) -> Look | None:
        """The look that ended the run; None: none did."""
        return next((look for look in self.looks if look.ended), None)


class GpuProcess(Record):
    """A process that computes on a GPU, as the driver sees it."""

    pid: int
    name: str = ""
    memory_gib: float | None = None
    """None: the driver does not say."""


class GpuFacts(Record):
    """One GPU as its driver describes it."""

    index: int
    """In the order of the PCI bus, as NVML and nvidia-smi count."""
    name: str
    memory_gib: float
    used_gib: float = 0.0
    driver: str = ""
    compute_capability: float | None = None
    mig: bool = False
    """Cut into instances, which have names and memory of their own."""
    uuid: str = ""
    processes: tuple[GpuProcess, ...] = ()

    @property
    def text(self) -> str:
        capability = "" if self.compute_capability is None else f", compute capability {self.compute_capability:.1f}"
        return f"{self.name}, {self.memory_gib:.1f} GiB{capability}, driver {self.driver}"


class BalancerCounters(Record):
    """What the load balancer counted of one replica, from the first request of the load to the last."""

    sessions: int = 0
    """Requests that were given to it, those that it refused and another took among them."""
    most_at_once: int = 0
    retries: int = 0
    """Connections tried again on this replica."""
    redispatches: int = 0
    """Requests that this replica did not take and that went to another."""
    connection_errors: int = 0
    """Requests that failed because no replica took them."""
    response_errors: int = 0
    """Requests that it had taken and did not answer to the end."""
    cut_off: int = 0
    """Of these, answers that had begun."""
    failed_checks: int = 0
    """Health checks that failed while it was up."""
    times_down: int = 0
    down_s: float = 0.0
    status: str = ""
    """As the balancer had it at the end: ``UP``, ``DOWN``, ..."""


class ReplicaFacts(Record):
    """One of several servers behind a load balancer."""

    name: str
    url: str = ""
    gpus: tuple[int, ...] = ()
    command: tuple[str, ...] = ()
    metrics_url: str = ""
    exit_code: int | None = None
    died: bool = False
    restarted: bool = False
    out_of_memory: str = ""
    log_tail: tuple[str, ...] = ()
    counters: BalancerCounters | None = None
    """None: the balancer was gone before it could be asked."""


class SpendFacts(Record):
    """What a run on an API paid for tokens, in dollars, and where it had to stop."""

    cap_usd: float
    spent_usd: float = 0.0
    """At most: the tokens of every request, and of the one before load that showed the server ready."""
    assumed_usd: float = 0.0
    """Of these, the worst case of requests whose tokens the server did not say."""
    reached_s: float | None = None
    """Wall-clock time of the first request that was not sent because of the cap; None: it was not reached."""


class ServerFacts(Record):
    """The server under load: how it was started and what became of it."""

    launcher: str = ""
    url: str = ""
    command: tuple[str, ...] = ()
    version: str = ""
    model: str = ""
    ready_s: float | None = None
    exit_code: int | None = None
    died: bool = False
    """It ended, or stopped listening, and nobody had asked it to."""
    restarted: bool = False
    """Another process than the one that became ready listened at the end: something had started it again."""
    out_of_memory: str = ""
    """The line of its log that says so, written after it was ready."""
    log_tail: tuple[str, ...] = ()
    image: str = ""
    """Of its container."""
    gpus: tuple[int, ...] = ()
    """Those it was pinned to; empty: it was not."""
    replicas: tuple[ReplicaFacts, ...] = ()
    """The servers behind the load balancer at ``url``; empty: there is one server, and no balancer."""
    emulated: bool = False
    calibration: Literal["", "roofline", "claims"] = ""
    metrics_url: str = ""
    """Where the server counts in Prometheus's format; empty: nowhere."""
    details: dict[str, str | int | float | bool] = {}


class TelemetryFacts(Record):
    """Who recorded, on which clock, and what was there to record."""

    format: int = 1
    anchor_wall_s: float
    anchor_monotonic_s: float
    """The same moment on both clocks; readings carry CLOCK_MONOTONIC, which every process of a host shares."""
    host: str = ""
    period_s: float = 1.0
    gpus: dict[int, str] = {}
    """Index to name, of the GPUs that are read."""
    server_kind: str = ""
    """Whose metric names were understood; empty: none came."""
    scrape_error: str = ""
    """The last reason for which a scrape failed."""
    ended: bool = False
    """The recorder was told to end and did; False: it died or was killed."""

    def monotonic_s(self, wall_s: float) -> float:
        return self.anchor_monotonic_s + (wall_s - self.anchor_wall_s)
