"""Claims held against physics, against themselves and against what was measured: one line a claim.

A floor here is the bare data sheet (all memory, all bandwidth, no overhead, the shortest prompt there is), so that
IMPOSSIBLE holds whatever engine serves. PLAUSIBLE asks for the stated efficiencies of a good engine. Only a run on the
claim's own hardware under a whole load confirms or contradicts; emulated figures are shown and decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date

from harness.audit import hardware, money
from harness.audit.lines import AuditLine, ClaimCell, Standing
from harness.audit.lines import Subject as Subject
from harness.catalog import Catalog
from harness.judgement import Judgement
from harness.price_age import stale_prices
from harness.records import Record
from harness.spec import Stack

SUBJECTS: dict[Subject, Callable[[ClaimCell], AuditLine | None]] = {
    "latency": hardware.latency,
    "memory": hardware.memory,
    "users": hardware.users,
    "cost": money.cost,
}


class Audit(Record):
    lines: tuple[AuditLine, ...]
    notes: tuple[str, ...] = ()
    """Prices that are out of date, stacks without a claim."""

    @property
    def impossible(self) -> tuple[AuditLine, ...]:
        return tuple(line for line in self.lines if line.standing is Standing.IMPOSSIBLE)

    @property
    def summary(self) -> str:
        """``22 claims: 8 impossible, 9 inconsistent, ...``."""
        counts = {standing: sum(line.standing is standing for line in self.lines) for standing in Standing}
        told = ", ".join(f"{count} {standing.value.lower()}" for standing, count in counts.items() if count)
        return f"{len(self.lines)} claim{'' if len(self.lines) == 1 else 's'}" + (f": {told}" if told else "")


NO_CLAIMS = Audit(lines=())


def audit(
    catalog: Catalog,
    today: date,
    scenarios: Iterable[str] | None = None,
    stacks: Sequence[str] | None = None,
    judgements: Sequence[Judgement] = (),
) -> Audit:
    """Audit the claims of ``scenarios`` (all) by ``stacks`` (each scenario's own) beside ``judgements`` of theirs.

    Raises
    ------
    UsageError
        For a name that is not in the catalog.
    """
    lines: list[AuditLine] = []
    notes: list[str] = []
    priced: dict[str, Stack] = {}
    unasked = [scenario.name for scenario in catalog.unasked_scenarios]
    for name in unasked if scenarios is None else scenarios:
        scenario = catalog.scenario(name)
        for stack in map(catalog.stack, scenario.stacks if stacks is None else stacks):
            claim = stack.claims.get(name)
            if claim is None:
                notes.append(f"{name}: nobody claims anything of {stack.title}.")
                continue
            mine = [each for each in judgements if (each.scenario, each.stack) == (name, stack.name)]
            cell = ClaimCell.of(catalog, scenario, stack, claim, mine)
            lines.extend(line for of in SUBJECTS.values() if (line := of(cell)) is not None)
            priced[stack.name] = stack
    return Audit(lines=tuple(lines), notes=(*notes, *stale_prices(priced.values(), today)))
