"""One cell's section: everything a Judgement says of one stack in one scenario."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from harness.certificate import Certificate, Spread
from harness.judgement import CostSummary, Judgement, LoadSummary, OpenLoad, OutcomeCount, SlowRequest
from reports import (
    cell_figures,
    checks,
    claim_chart,
    claims,
    downloads,
    figures,
    percentiles,
    quality,
    regions,
    replicas,
    telemetry,
)
from reports.parts import Chip, Column, Download, Fact, Figure, Fold, Item, Table, badges


@dataclass(frozen=True, slots=True)
class Group:
    """A few facts under one heading, with a sentence and what may be unfolded."""

    title: str
    facts: tuple[Fact, ...] = ()
    note: str = ""
    details_title: str = ""
    details: str = ""
    chart: Markup | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    anchor: str
    scenario: str
    stack: str
    names: str
    chip: Chip
    badges: tuple[str, ...]
    sentence: str
    reasons: tuple[str, ...]
    checks: Table | None
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    folds: tuple[Fold, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...]
    log_title: str
    log: str
    download: Download
    capacity: str


def build(judgement: Judgement, anchor: str, capacity: str = "") -> Cell:
    """``capacity`` is the section of the stack's capacity search, where there is one."""
    tables = (
        regions.table(judgement),
        percentiles.table(judgement.distributions),
        _outcomes(judgement),
        replicas.table(judgement),
        quality.table(judgement),
    )
    folds = (
        ("Slowest requests", _slowest(judgement)),
        ("Prompts with the most violations", _prompts(judgement)),
        ("Server and host in the judged window", telemetry.table(judgement.telemetry)),
    )
    groups = (
        _load(judgement),
        _tokens(judgement),
        _client(judgement),
        _claim(judgement, anchor),
        _cost(judgement),
        _quality(judgement),
        _server(judgement),
        _server_and_host(judgement),
    )
    reasons = tuple(reason for reason in judgement.reasons if reason not in judgement.sentence)
    return Cell(
        anchor=anchor,
        scenario=judgement.scenario_title,
        stack=judgement.stack_title,
        names=f"{judgement.scenario} / {judgement.stack}",
        chip=Chip.of(judgement.verdict),
        badges=badges(judgement.marks),
        sentence=judgement.sentence,
        reasons=reasons,
        checks=checks.table(judgement),
        figures=cell_figures.build(judgement, anchor),
        tables=tuple(table for table in tables if table is not None),
        folds=tuple(Fold(title, table) for title, table in folds if table is not None),
        groups=tuple(group for group in groups if group is not None),
        notes=judgement.notes,
        log_title="Last lines of the server's log" if judgement.server_log_tail else "",
        log="\n".join(figures.clean(line, 400) for line in judgement.server_log_tail),
        download=downloads.judgement(judgement),
        capacity=capacity,
    )


def _outcomes(judgement: Judgement) -> Table | None:
    if not judgement.outcomes:
        return None
    columns = (
        Column("Outcome"),
        Column("Requests", number=True),
        Column("Share", number=True),
        Column("Examples", wide=True),
    )
    return Table("How requests ended", columns, tuple(_outcome(each) for each in judgement.outcomes))


def _outcome(each: OutcomeCount) -> tuple[Item, ...]:
    examples = tuple(figures.clean(example, 300) for example in each.examples)
    return (
        Item(_words(each.outcome)),
        Item(figures.count(each.count), number=True),
        Item(figures.share(each.share), number=True),
        Item("" if examples else figures.MISSING, lines=examples),
    )


def _prompts(judgement: Judgement) -> Table | None:
    if not judgement.worst_prompts:
        return None
    columns = (
        Column("Prompt"),
        Column("Requests", number=True),
        Column("Violations", number=True),
        Column("Share", number=True),
    )
    rows = tuple(
        (
            Item(each.prompt_id),
            Item(figures.count(each.requests), number=True),
            Item(figures.count(each.violations), number=True),
            Item(figures.share(each.violations / each.requests if each.requests else None), number=True),
        )
        for each in judgement.worst_prompts
    )
    return Table("Prompts with the most violations", columns, rows)


def _slowest(judgement: Judgement) -> Table | None:
    if not judgement.slowest:
        return None
    columns = (
        Column("Request", wide=True),
        Column("Prompt"),
        Column("Issued at", number=True),
        Column("Took", number=True),
        Column("TTFT", number=True),
        Column("Output tokens", number=True),
        Column("Outcome"),
    )
    caption = (
        "Slowest requests, until their end or until they were last seen. "
        "The server got the name as X-Request-Id; times count from when all users were up"
    )
    return Table(caption, columns, tuple(_slow(each) for each in judgement.slowest))


def _slow(each: SlowRequest) -> tuple[Item, ...]:
    return (
        Item(each.request_id),
        Item(each.prompt_id),
        Item(figures.clock(each.issued_s), number=True),
        Item(figures.seconds(each.took_s), number=True),
        Item(figures.seconds(each.ttft_s), number=True),
        Item(figures.count(each.output_tokens), number=True),
        Item(_words(each.outcome)),
    )


def _words(outcome: str) -> str:
    return outcome.replace("_", " ")


def _load(judgement: Judgement) -> Group:
    load = judgement.load
    users = figures.count(load.users)
    if load.users_reached != load.users:
        users += f" asked, {figures.count(load.users_reached)} reached"
    if not load.requests:
        return Group("Load", (Fact("Users N", users),), "No load was sent.")
    if load.open_loop is not None:
        return Group("Load", _open_load(load, load.open_loop) + _outcome_facts(judgement))
    held = {True: "holds within 2 %", False: "does not hold within 2 %", None: ""}[load.little_holds]
    off = "" if load.little_error is None else f", off by {figures.share(load.little_error)}"
    facts = (
        Fact("Users N", users),
        Fact("Think time Z", figures.seconds(load.think_s)),
        Fact("Throughput X", figures.rate(load.throughput_rps)),
        Fact("Response time R", figures.seconds(load.response_s)),
        Fact("In flight, mean", figures.number(load.in_flight_mean)),
        Fact(
            f"X{figures.NBSP}(R{figures.NBSP}+{figures.NBSP}Z)",
            figures.number(load.users_implied),
            f"N = X (R + Z) {held}{off}" if held else "",
        ),
    )
    return Group("Load", facts + _outcome_facts(judgement))


def _outcome_facts(judgement: Judgement) -> tuple[Fact, ...]:
    load, ended = judgement.load, judgement.ended_by
    return (
        Fact("Requests", f"{figures.count(load.requests)}, {figures.count(load.judged)} judged"),
        Fact("Within the SLA", figures.share(judgement.slo_attainment)),
        Fact("Goodput", figures.rate(judgement.goodput_rps)),
        Fact("Judged for", figures.clock(load.window_s), f"ended by: {ended}" if ended else ""),
    )


def _open_load(load: LoadSummary, found: OpenLoad) -> tuple[Fact, ...]:
    first, second = (figures.number(mean) for mean in found.in_flight_halves)
    return (
        Fact("Arrivals", found.arrivals, "open loop: sent at their time, whatever the answers take"),
        Fact("Offered", figures.rate(found.offered_rps), f"{figures.count(found.due)} in the judged window"),
        Fact("Started", figures.rate(found.started_rps), f"{figures.count(found.late)} later than 2 ms"),
        Fact("Late, p99", figures.seconds(found.late_p99_s)),
        Fact("Ended", figures.rate(found.completed_rps), "answered or failed"),
        Fact("Response time R", figures.seconds(load.response_s)),
        Fact("In flight, mean", figures.number(load.in_flight_mean), f"{first}, then {second} in the second half"),
    )


def _tokens(judgement: Judgement) -> Group | None:
    load = judgement.load
    if load.tokens_asked_mean is None and load.tokens_got_mean is None:
        return None
    facts = (
        Fact("Asked, mean", figures.number(load.tokens_asked_mean)),
        Fact("Achieved, mean", figures.number(load.tokens_got_mean)),
        Fact("Prompt, mean", figures.number(load.prompt_tokens_mean)),
        Fact("Output", figures.rate(load.output_tokens_per_s, "tokens/s")),
        Fact("Chunks", figures.rate(load.events_per_s, "events/s")),
        Fact("Counted from", load.token_source or figures.MISSING),
    )
    return Group("Tokens", facts)


def _client(judgement: Judgement) -> Group | None:
    client = judgement.client
    if not client.workers:
        return None
    sent = figures.count(client.samples_sent)
    facts = (
        Fact("Workers", figures.count(client.workers)),
        Fact("Event loop lag, p99", figures.seconds(client.hub_lag_p99_s)),
        Fact("Event loop lag, max", figures.seconds(client.hub_lag_max_s)),
        Fact("Sent late, p99", figures.seconds(client.send_lag_p99_s)),
        Fact("CPU of the busiest worker", figures.share(client.cpu_share_max)),
        *_certificate(client.certificate),
        Fact("Samples", f"{figures.count(client.samples_written)} written of {sent} sent"),
    )
    return Group("Client health", facts)


def _certificate(made: Certificate | None) -> tuple[Fact, ...]:
    """What the client itself adds to a time, as measured against a server of known timing."""
    if made is None or made.ttft is None or made.e2e is None:
        return ()
    certified = f"{figures.count(round(made.events_per_s))} events/s, {made.when}"
    cpu = figures.MISSING if made.cpu_per_event_s is None else figures.seconds(made.cpu_per_event_s)
    room = figures.MISSING if made.headroom is None else f"{made.headroom:.3g} times the rate needed"
    return (
        Fact("Certified", f"{certified} (made for {made.reused_from})" if made.reused_from else certified),
        Fact("Own error of TTFT, p50 / p99", _pair(made.ttft)),
        Fact("Own error of E2E, p50 / p99", _pair(made.e2e)),
        Fact("CPU per event", cpu),
        Fact("Headroom", room),
    )


def _pair(errors: Spread) -> str:
    return f"{figures.seconds(errors.p50_s)} / {figures.seconds(errors.p99_s)}"


def _claim(judgement: Judgement, anchor: str) -> Group | None:
    audit = judgement.claim
    if audit is None:
        return None
    facts = (
        Fact("Claimed", claims.claimed(audit.claim_latency_s, audit.claim_tokens)),
        Fact("Physical floor", figures.seconds(audit.floor_s)),
        Fact("Measured, median", figures.seconds(audit.measured_p50_s), claims.mean_tokens(audit.measured_tokens)),
        Fact("Claim against floor", claims.feasibility(audit.feasible, audit.factor)),
    )
    note, arithmetic = claims.why(audit)
    chart = claim_chart.draw_claim(judgement, f"{anchor}--claim")
    said = " ".join(text for text in (claim_chart.words(audit, judgement.marks), note[:1].upper() + note[1:]) if text)
    return Group("Claim, floor and measurement", facts, said, "Arithmetic of the floor", arithmetic, chart)


def _spent(cost: CostSummary) -> Iterator[Fact]:
    """What the run itself paid; of a stack that is not paid by the token, nothing is said."""
    if cost.spent_usd is not None:
        yield Fact("Spent by this run", figures.usd(cost.spent_usd))
        yield Fact("Spend cap", figures.usd(cost.cap_usd))


def _cost(judgement: Judgement) -> Group | None:
    cost = judgement.cost
    if cost is None:
        return None
    facts = (
        Fact("Per hour", figures.usd(cost.usd_per_hour)),
        Fact("Per query", figures.usd(cost.usd_per_query)),
        Fact("Per 1,000 within the SLA", figures.usd(cost.usd_per_1000_good)),
        Fact("Claimed per query", figures.usd(cost.claim_usd_per_query)),
        *_spent(cost),
    )
    note = f"Price: {cost.source}" if cost.source else ""
    return Group("Cost", facts, note, "Arithmetic of the cost", cost.arithmetic)


def _quality(judgement: Judgement) -> Group | None:
    if not judgement.quality_word and not judgement.quality_note:
        return None
    return Group("Quality", quality.facts(judgement), judgement.quality_note)


def _server(judgement: Judgement) -> Group | None:
    if not judgement.server:
        return None
    return Group("Server", tuple(Fact(name.replace("_", " "), value) for name, value in judgement.server.items()))


def _server_and_host(judgement: Judgement) -> Group | None:
    found = judgement.telemetry
    return None if found is None else Group("Server and host", telemetry.facts(found), telemetry.note(found))
