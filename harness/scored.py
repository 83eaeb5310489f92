"""The scored share of a run's requests, beside its samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

EVERY_ANSWER = {"complete": 1.0, "clean": 1.0}
"""What makes an answer acceptable where a scenario says nothing: it is there, whole, and text."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One entry for each scored request. ``rows`` are places in the samples' table.

    Which requests are scored was fixed by their names, before they were sent.
    """

    rows: IntArray
    scores: Mapping[str, FloatArray]
    """0 to 1; NaN where the prompt says nothing to check by."""
    prompts: IntArray
    """A number for each prompt, to tell answers to the same one."""
    limits: Mapping[str, float]
    """Score to the least that is acceptable."""

    @property
    def acceptable(self) -> BoolArray:
        """Answers that reach every limit; a score that does not apply breaks none."""
        kept = np.ones(len(self.rows), dtype=bool)
        for name in self.limits:
            kept &= ~self.breaks(name)
        return kept

    def breaks(self, name: str) -> BoolArray:
        with np.errstate(invalid="ignore"):
            # Stored in single precision: 0.3 read back is a little more than 0.3.
            return np.asarray(self.scores[name] < self.limits[name] - 1e-6)

    @property
    def known(self) -> tuple[str, ...]:
        """Scores that some prompt of the run allows to be made; which, does not depend on any answer's outcome."""
        return tuple(name for name, values in self.scores.items() if not np.isnan(values).all())


@dataclass(frozen=True, slots=True)
class NotScored:
    """Why nothing is known of the answers."""

    why: str


NOT_SCORED = NotScored("because answers were not scored")


def place(table: pa.Table, scores: pa.Table, limits: Mapping[str, float]) -> Scored:
    """Find each score's sample by the request's name; ``table`` has worker, user and sequence."""
    mine, theirs = _names(scores), _names(table)
    order = np.argsort(theirs, kind="stable")
    found = np.searchsorted(theirs[order], mine)
    inside = found < len(theirs)
    rows = order[np.where(inside, found, 0)] if len(theirs) else np.zeros(len(mine), dtype=np.int64)
    matched = inside & (theirs[rows] == mine) if len(theirs) else np.zeros(len(mine), dtype=bool)
    prompts = np.unique(scores.column("prompt_id").to_numpy(zero_copy_only=False), return_inverse=True)[1]
    first = scores.column_names.index("says_something") + 1
    values = {
        name: np.asarray(scores.column(name).to_numpy(zero_copy_only=False), dtype=np.float64)[matched]
        for name in scores.column_names[first:]
    }
    return Scored(rows[matched], values, prompts[matched], dict(limits))


def _names(table: pa.Table) -> IntArray:
    """One number for worker, user and sequence: 11, 26 and 26 bits."""
    worker, user, sequence = (
        np.asarray(table.column(name).to_numpy(), dtype=np.int64) for name in ("worker", "user", "sequence")
    )
    return np.asarray((worker << 52) + (user << 26) + sequence, dtype=np.int64)
