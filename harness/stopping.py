"""When a run may end before its time: when it is decided, or when it is hopeless."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import field_validator

from harness.errors import UsageError
from harness.objective import Objective
from harness.records import Record

ZONE = 0.2
"""A violation rate that is known to lie within this share of the allowed one, on either side, is at the limit."""


class Stopping(Record):
    """What was asked for; nothing of it: the run goes on to its end, or to a certain FAIL."""

    until_decided: bool = False
    min_time_s: float | None = None
    """The first look of ``until_decided``, seconds after the run clock's zero; None: as early as may be."""
    abort_on: tuple[str, ...] = ()
    """Such as ``error_rate > 20%``."""

    @field_validator("abort_on")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            spared_by(text)
        return value

    def words(self) -> list[str]:
        """As ``harness run`` takes them."""
        words = ["--until-decided"] if self.until_decided else []
        words += ["--min-time", f"{self.min_time_s:g}"] if self.min_time_s is not None else []
        for text in self.abort_on:
            words += ["--abort-on", text]
        return words


def stopping_from(*, until_decided: bool, min_time_s: float | None, abort_on: Sequence[str]) -> Stopping:
    """From the command line.

    Raises
    ------
    UsageError
        For a condition that cannot be one.
    """
    for text in abort_on:
        try:
            spared_by(text)
        except ValueError as error:
            raise UsageError(f"--abort-on: {error}") from None
    return Stopping(until_decided=until_decided, min_time_s=min_time_s, abort_on=tuple(abort_on))


def spared_by(condition: str) -> Objective:
    """The objective that a run must break to be aborted: ``error_rate <= 20%`` of ``error_rate > 20%``.

    Raises
    ------
    ValueError
        In one sentence, where it is no condition that a few seconds of load can show.
    """
    example = "write for example 'error_rate > 20%' or 'p95(e2e) > 30 s'"
    if ">" not in condition or "<" in condition:
        raise ValueError(f"'{condition}' is no condition to abort on; {example}")
    kept = condition.replace(">=", "<", 1) if ">=" in condition else condition.replace(">", "<=", 1)
    try:
        objective = Objective.parse(kept)
    except ValueError as error:
        raise ValueError(f"'{condition}' is no condition to abort on ({error}); {example}") from None
    if objective.metric == "itl" or (objective.metric != "error_rate" and objective.allowed_rate is None):
        raise ValueError(
            f"'{condition}': a run is aborted on error_rate or on a percentile of e2e, ttft, tpot or response_time;"
            f" {example}"
        )
    return objective
