"""The live page: a run while it lasts, and what became of it, as text that a template prints."""

from __future__ import annotations

from dataclasses import dataclass

from harness.judgement import CheckResult, Judgement, Verdict
from harness.phases import PHASES, passed_s
from harness.snapshot import EVERY_S, Snapshot
from reports import checks, figures, percentiles
from reports.parts import Chip, Fact, Table, badges

STALE_S = 5 * EVERY_S
"""A snapshot this old is said to be."""
NO_RUN = Chip("–", "NO RUN", "invalid")
NOT_YET = Chip("–", "NOT YET", "inconclusive")
MEASURED = frozenset({"warm-up", "load", "tail", "drain", "seal", "judge"})
"""Phases in which there is something to see."""


@dataclass(frozen=True, slots=True)
class LiveState:
    """What is known of the newest run of a process that makes load."""

    scenario: str
    stack: str
    run: str
    phase: str
    """Of :data:`harness.phases.PHASES`, ``done``, or empty before the first run."""
    now_s: float
    """Wall clock."""
    tail_s: float = 0.0
    snapshot: Snapshot | None = None
    judgement: Judgement | None = None
    """Once the run is over."""
    report: str = ""
    """Address of the sealed report; empty while there is none."""
    failure: str = ""
    """Why there is no verdict; empty: there is one, or will be."""


@dataclass(frozen=True, slots=True)
class Step:
    title: str
    symbol: str
    state: str
    """``done``, ``now`` or ``next``."""


@dataclass(frozen=True, slots=True)
class LivePage:
    title: str
    over: str
    heading: str
    chip: Chip
    badges: tuple[str, ...]
    status: str
    """Said aloud by a screen reader, so it changes only with the phase and the verdict."""
    sentence: str
    steps: tuple[Step, ...]
    clock: str
    share: str
    """Per cent of the phase that is over, as a number; empty where nobody knows."""
    stale: str
    facts: tuple[Fact, ...]
    checks: Table | None
    percentiles: Table | None
    client: tuple[Fact, ...]
    warnings: tuple[str, ...]
    nothing_yet: str
    report: str
    run: str


def build(state: LiveState) -> LivePage:
    if state.judgement is not None:
        return _judged(state, state.judgement)
    return _running(state, state.snapshot)


def so_far(snapshot: Snapshot | None) -> str:
    """The verdict of the requests judged until now, which is none yet."""
    if snapshot is None or not snapshot.judged:
        return "Nothing is judged yet"
    match snapshot.verdict:
        case Verdict.PASS | Verdict.FAIL | Verdict.INVALID:
            return f"{snapshot.verdict.value} so far; it may turn until the run ends"
        case _:
            return "Not decided yet"


def leading(found: tuple[CheckResult, ...]) -> CheckResult | None:
    """The check that decides soonest against a cell: what fails, then what is open, then the least room left."""
    order = {Verdict.FAIL: 0, Verdict.INVALID: 0, Verdict.INCONCLUSIVE: 1, Verdict.PASS: 2, Verdict.NOT_MEASURED: 3}
    return min(
        found,
        key=lambda check: (order[check.verdict], check.margin if check.margin is not None else float("inf")),
        default=None,
    )


def stale(snapshot: Snapshot | None, phase: str, now_s: float) -> str:
    """A word of warning when nobody has replaced the snapshot for long, in phases in which somebody should."""
    if snapshot is None or phase not in ("warm-up", "load", "tail"):
        return ""
    age_s = now_s - snapshot.written_at_s
    return f"These figures are {figures.clock(round(age_s))} old." if age_s > STALE_S else ""


def facts(snapshot: Snapshot) -> tuple[Fact, ...]:
    asked = figures.count(snapshot.users_asked)
    return (
        Fact("Within the SLA", figures.share(snapshot.slo_attainment), "of the judged requests"),
        Fact("Judged", figures.count(snapshot.judged), "requests after warm-up"),
        Fact("Ended", figures.count(snapshot.completed), "requests of the whole run"),
        Fact("Failed", figures.count(snapshot.failed)),
        Fact("Users", f"{figures.count(snapshot.users)} of {asked}" if snapshot.users_asked else figures.MISSING),
        Fact("In flight", figures.count(snapshot.in_flight)),
        Fact("Throughput", figures.rate(snapshot.throughput_rps)),
        Fact("Output tokens", figures.rate(snapshot.output_tokens_per_s, "tokens/s")),
    )


def _running(state: LiveState, snapshot: Snapshot | None) -> LivePage:
    if snapshot is not None and state.phase not in MEASURED:
        snapshot = None  # of a run before this one
    none = NOT_YET if state.phase and not state.failure else NO_RUN
    chip = Chip.of(snapshot.verdict) if snapshot is not None and snapshot.judged else none
    words = state.failure or (so_far(snapshot) if state.phase else "Ready: start a run on Locust's page")
    phase = PHASES.get(state.phase, "")
    ends = snapshot is not None and snapshot.elapsed_s is not None
    passed = None
    if snapshot is not None:
        passed = passed_s(
            state.phase,
            None if snapshot.elapsed_s is None else snapshot.elapsed_s + max(0.0, state.now_s - snapshot.written_at_s),
            warm_up_s=snapshot.warm_up_s,
            run_time_s=snapshot.run_time_s,
            tail_s=state.tail_s,
        )
    clock, share = "", ""
    if passed is not None and ends:
        clock = f"{figures.clock(round(passed[0]))} of {figures.clock(passed[1])}"
        share = f"{100 * passed[0] / passed[1]:.1f}" if passed[1] else "100"
    return LivePage(
        title=f"{chip.word} so far · {state.scenario}"
        if snapshot is not None and snapshot.judged
        else f"Verdict · {state.scenario}",
        over=f"{state.scenario} on {state.stack}",
        heading="Verdict so far" if state.phase else "Verdict",
        chip=chip,
        badges=(),
        status=f"{phase.capitalize()}. {words}." if phase else f"{words}.",
        sentence=snapshot.sentence if snapshot is not None else "",
        steps=_steps(state.phase),
        clock=clock,
        share=share,
        stale=stale(snapshot, state.phase, state.now_s),
        facts=facts(snapshot) if snapshot is not None else (),
        checks=checks.table_of(snapshot.checks, "Every check of the SLA, on the requests judged so far.")
        if snapshot is not None
        else None,
        percentiles=percentiles.table(
            snapshot.distributions, "Percentiles of the requests judged so far; a failed one counts as infinitely slow"
        )
        if snapshot is not None
        else None,
        client=_client(snapshot.client.hub_lag_p99_s, snapshot.client.cpu_share_max) if snapshot is not None else (),
        warnings=snapshot.client.warnings if snapshot is not None else (),
        nothing_yet="" if snapshot is not None else _nothing_yet(state.phase),
        report="",
        run=state.run if state.phase else "",
    )


def _judged(state: LiveState, judgement: Judgement) -> LivePage:
    load = judgement.load
    return LivePage(
        title=f"{judgement.verdict.value} · {state.scenario}",
        over=f"{state.scenario} on {state.stack}",
        heading="Verdict",
        chip=Chip.of(judgement.verdict),
        badges=badges(judgement.marks),
        status=f"The run is over. {judgement.sentence}",
        sentence="",
        steps=_steps(state.phase),
        clock="",
        share="",
        stale="",
        facts=(
            Fact("Within the SLA", figures.share(judgement.slo_attainment), "of the judged requests"),
            Fact("Judged", figures.count(load.judged), "requests after warm-up"),
            Fact("Requests", figures.count(load.requests), "of the whole run"),
            Fact("Users", f"{figures.count(load.users_reached)} of {figures.count(load.users)}"),
            Fact("In flight, mean", figures.number(load.in_flight_mean)),
            Fact("Throughput", figures.rate(load.throughput_rps)),
            Fact("Output tokens", figures.rate(load.output_tokens_per_s, "tokens/s")),
        ),
        checks=checks.table(judgement),
        percentiles=percentiles.table(judgement.distributions),
        client=_client(judgement.client.hub_lag_p99_s, judgement.client.cpu_share_max),
        warnings=(),
        nothing_yet="",
        report=state.report,
        run=state.run,
    )


def _steps(phase: str) -> tuple[Step, ...]:
    names = [*PHASES, "done"]
    place = names.index(phase) if phase in names else -1
    return tuple(
        Step(title, *(("✓", "done") if number < place else ("▸", "now") if number == place else ("·", "next")))
        for number, title in enumerate(PHASES.values())
    )


def _client(hub_lag_p99_s: float | None, cpu_share: float | None) -> tuple[Fact, ...]:
    return (
        Fact("Event loop late", figures.seconds(hub_lag_p99_s), "at p99"),
        Fact("CPU of the busiest process", figures.share(cpu_share)),
    )


def _nothing_yet(phase: str) -> str:
    if not phase:
        return "No run has been started yet."
    if phase in MEASURED:
        return "The first figures come some seconds after the clock has started."
    return "Figures come once all users are up."
