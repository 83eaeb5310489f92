"""Studies: what was looked at over many runs of one scenario, beside its single cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.candidates import StackFacts
from harness.capacity_record import CapacityRecord
from harness.comparison import Comparison
from harness.judgement import Judgement, Mark

OTHER_QUESTIONS = ("think time", "output tokens", "input tokens", "dataset", "arrivals", "faults")
"""Options of a search that make it answer something else than how many of the scenario's own users are served."""
DIFFERENT_LOAD = frozenset({Mark.OTHER_GPU, Mark.REDUCED})
ORIGINS = frozenset({Mark.EMULATED, Mark.CLAIM_REPLAYED})


@dataclass(frozen=True, slots=True)
class Studies:
    capacities: tuple[CapacityRecord, ...] = ()
    comparisons: tuple[Comparison, ...] = ()


NO_STUDIES = Studies()


def stack_facts(
    capacities: Sequence[CapacityRecord], judgements: Sequence[Judgement]
) -> Mapping[tuple[str, str], StackFacts]:
    """What capacity searches tell a recommendation, by scenario and stack.

    Only a search for the scenario's own users counts, and only beside a cell of the same origin: an emulated capacity
    says nothing of a stack that was measured. Of several searches the last started counts. Costs are passed on where
    all searches of a scenario were sized alike, for unlike figures must not decide.
    """
    origins = _origins(judgements)
    counted: dict[tuple[str, str], CapacityRecord] = {}
    for record in sorted(capacities, key=lambda each: each.started):
        cell = (record.scenario, record.stack)
        if answers_the_scenario(record) and origins.get(cell) == {ORIGINS.intersection(record.marks)}:
            counted[cell] = record
    assumed: dict[str, set[tuple[object, ...]]] = {}
    for (scenario, _), record in counted.items():
        assumed.setdefault(scenario, set()).add(_assumptions(record))
    return {cell: _facts(record, alike=len(assumed[cell[0]]) == 1) for cell, record in counted.items()}


def answers_the_scenario(record: CapacityRecord) -> bool:
    """Whether the search found how many of the scenario's own users the stack itself serves."""
    own = record.settings.kind == "users" and not any(record.options.get(name) for name in OTHER_QUESTIONS)
    return own and record.interval.feasible is not None and not DIFFERENT_LOAD.intersection(record.marks)


def _origins(judgements: Sequence[Judgement]) -> dict[tuple[str, str], set[frozenset[Mark]]]:
    found: dict[tuple[str, str], set[frozenset[Mark]]] = {}
    for each in judgements:
        found.setdefault((each.scenario, each.stack), set()).add(ORIGINS.intersection(each.marks))
    return found


def _assumptions(record: CapacityRecord) -> tuple[object, ...]:
    sizing = record.sizing
    if sizing is None:
        return ()
    if sizing.replicas is None:  # an API: its tokens cost the same at any utilisation
        return (sizing.profile,)
    return (sizing.profile, sizing.replicas.utilisation, sizing.replicas.spare)


def _facts(record: CapacityRecord, *, alike: bool) -> StackFacts:
    feasible, sizing = record.interval.feasible, record.sizing
    assert feasible is not None
    users = int(feasible)
    if sizing is None or not alike:
        return StackFacts(capacity_users_low=users)
    return StackFacts(
        capacity_users_low=users, usd_per_1000_good=sizing.usd_per_1000_good, usd_per_month=sizing.usd_per_month
    )
