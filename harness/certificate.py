"""The client's certificate: what the load generator itself adds to the times it reports, measured before the run."""

from __future__ import annotations

from harness.records import Record

CERTIFICATE_FORMAT = 1


class Spread(Record):
    """The size of the client's own error, ``|measured - true|`` in seconds, over the requests of a rehearsal."""

    mean_s: float
    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float
    p999_s: float
    max_s: float


class Shape(Record):
    """A rehearsal: what is replayed against the null server. Two runs of one shape need one certificate."""

    protocol: str
    users: int
    workers: int
    """Load-generating processes, each with its share of the users and a null server of its own."""
    tokens: int
    """Of every answer: shorter than the run's, so that a few seconds hold many requests."""
    ttft_s: float
    gap_s: float
    think_s: float
    warm_s: float
    measure_s: float
    needed_events_per_s: float
    """Streamed events a second that the run is expected to make, over all processes; answers, where they come whole."""
    tls: bool = False
    stream: bool = True


class Certificate(Record):
    """``certificate.json``. All times are the client's; the truth is the null server's log on the same host's clock.

    Where several processes made the load, every error, lag and CPU figure is the worst one's, and rates
    are sums. Errors hold the loopback's and the null server's own delay in seeing a request, so they are upper bounds.
    """

    format: int = CERTIFICATE_FORMAT
    made_s: float = 0.0
    """Wall-clock seconds of its end."""
    host: str = ""
    when: str = "before the run"
    shape: Shape | None = None
    requests: int = 0
    """Joined with the truth, request by request."""
    unmatched: int = 0
    """Answered requests that the truth does not know, or that failed."""
    events_per_s: float = 0.0
    """Certified: what the client received while its errors were those below."""
    requests_per_s: float = 0.0
    ttft: Spread | None = None
    e2e: Spread | None = None
    tpot: Spread | None = None
    hub_lag_p50_s: float | None = None
    hub_lag_p99_s: float | None = None
    hub_lag_max_s: float | None = None
    cpu_share: float | None = None
    """CPU seconds per second of the busiest process, with Locust, recording and shipping."""
    cpu_per_event_s: float | None = None
    """All CPU of the load processes over the events, the cost of requests included."""
    headroom: float | None = None
    """Events a second that whole cores of these processes could receive, over those needed."""
    attempts: int = 1
    skipped: str = ""
    """Why there was no rehearsal, which leaves the verdict alone."""
    problem: str = ""
    """Why the rehearsal failed, which makes the run INVALID."""
    reused_from: str = ""
    """The run beside this one, of the same shape and host, that it was made for."""
    age_s: float = 0.0
    """Of a reused one, when this run took it."""
    first: Certificate | None = None
    """The one made before the run, where the run exceeded its rate and was certified again afterwards."""
