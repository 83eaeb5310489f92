"""The moments, fixed before a run, at which it may end before its time."""

from __future__ import annotations

from dataclasses import dataclass

from harness.cell import Cell


@dataclass(frozen=True, slots=True)
class Moment:
    at_s: float
    """Seconds after the run clock's zero."""
    look: int | None
    """Its place among the cell's looks; None: only the conditions that abort a run are asked for."""

    def judged_until_s(self, longest_limit_s: float) -> float:
        """The end of its judged window.

        At a look it is the latest issue of a request that has ended or broken every limit by then, so that none is
        censored. A hopeless run is to end soon: what is in flight counts for the server.
        """
        return self.at_s if self.look is None else self.at_s - longest_limit_s


def moments(cell: Cell) -> list[Moment]:
    """In the order of time."""
    looks = [Moment(at_s, place) for place, at_s in enumerate(cell.looks)]
    aborts = [Moment(at_s, None) for at_s in cell.abort_times_s()]
    return sorted([*looks, *aborts], key=lambda moment: moment.at_s)
