"""The servers behind a load balancer: what it counted of each, and what became of them."""

from __future__ import annotations

from harness.judgement import Judgement
from harness.lifecycle import describe_exit
from harness.records import BalancerCounters, ReplicaFacts
from reports import figures
from reports.parts import Column, Item, Table

CAPTION = (
    "What the load balancer counted of each replica. Given to another: requests that it refused. Failed: requests that"
    " it took and did not answer to the end, of which some were broken off in the middle of the answer"
)
_COUNTED = (
    ("Requests", "sessions"),
    ("Most at once", "most_at_once"),
    ("Tried again", "retries"),
    ("Given to another", "redispatches"),
    ("Taken by none", "connection_errors"),
    ("Failed", "response_errors"),
    ("Broken off", "cut_off"),
    ("Failed checks", "failed_checks"),
)
"""Column and field of :class:`~harness.records.BalancerCounters`."""


def table(judgement: Judgement) -> Table | None:
    if not judgement.replicas:
        return None
    columns = (
        Column("Replica"),
        *(Column(title, number=True) for title, _ in _COUNTED),
        Column("Down", number=True),
        Column("At the end", wide=True),
    )
    return Table(CAPTION, columns, tuple(_row(each) for each in judgement.replicas))


def _row(replica: ReplicaFacts) -> tuple[Item, ...]:
    counted = replica.counters
    gpus = f"GPU {', '.join(map(str, replica.gpus))}" if replica.gpus else ""
    return (
        Item(replica.name, lines=(gpus,) if gpus else ()),
        *(Item(figures.count(getattr(counted, field, None)), number=True) for _, field in _COUNTED),
        _down(counted),
        Item(_state(replica), lines=_last_line(replica)),
    )


def _down(counted: BalancerCounters | None) -> Item:
    if counted is None:
        return Item(figures.MISSING, number=True)
    times = (f"{figures.count(counted.times_down)} times",) if counted.times_down > 1 else ()
    return Item(figures.seconds(counted.down_s), lines=times, number=True)


def _state(replica: ReplicaFacts) -> str:
    words = ["ran out of memory"] if replica.out_of_memory else []
    if replica.died:
        words.append("nothing listens" if replica.exit_code is None else describe_exit(replica.exit_code))
    if replica.restarted:
        words.append("was started again")
    if not words:
        return "runs" if replica.counters is None else f"runs, {figures.clean(replica.counters.status, 40)}"
    return ", ".join(words)


def _last_line(replica: ReplicaFacts) -> tuple[str, ...]:
    if replica.out_of_memory:
        return (figures.clean(replica.out_of_memory, 300),)
    return (figures.clean(replica.log_tail[-1], 300),) if replica.died and replica.log_tail else ()
