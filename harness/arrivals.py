"""Open-loop arrivals: the patterns there are, and how an option names them.

A pattern states a rate over the run; ``cv`` is the coefficient of variation of the gaps between arrivals at a
steady rate: 0 spaces them evenly, 1 is a Poisson process (independent users), more comes in bursts.
When each request arrives follows from a pattern and a seed in :mod:`harness.schedule`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from harness.errors import UsageError, unknown_name
from harness.fields import NonNegative, Positive, Spec

Variation = Annotated[float, Field(ge=0, le=10)]


class ConstantArrivals(Spec):
    kind: Literal["constant"]
    rate_rps: Positive

    @property
    def text(self) -> str:
        return f"constant {self.rate_rps:g}/s"

    @property
    def peak_rps(self) -> float:
        return self.rate_rps


class PoissonArrivals(Spec):
    kind: Literal["poisson"]
    rate_rps: Positive

    @property
    def text(self) -> str:
        return f"Poisson {self.rate_rps:g}/s"

    @property
    def peak_rps(self) -> float:
        return self.rate_rps


class GammaArrivals(Spec):
    kind: Literal["gamma"]
    rate_rps: Positive
    cv: Annotated[float, Field(gt=0, le=10)]

    @property
    def text(self) -> str:
        return f"gamma {self.rate_rps:g}/s, CV {self.cv:g}"

    @property
    def peak_rps(self) -> float:
        return self.rate_rps


class RampArrivals(Spec):
    """A straight line from one rate at the end of the warm-up, which holds the first, to another at T."""

    kind: Literal["ramp"]
    from_rps: NonNegative
    to_rps: NonNegative
    cv: Variation = 1.0

    @model_validator(mode="after")
    def _some_load(self) -> Self:
        if self.peak_rps == 0:
            raise ValueError("one end of a ramp must be above 0")
        return self

    @property
    def text(self) -> str:
        return f"ramp from {self.from_rps:g} to {self.to_rps:g}/s"

    @property
    def peak_rps(self) -> float:
        return max(self.from_rps, self.to_rps)


class StepArrivals(Spec):
    """Rates one after the other, each for an equal share of the time from the end of the warm-up to T."""

    kind: Literal["step"]
    rates_rps: Annotated[tuple[NonNegative, ...], Field(min_length=1)]
    cv: Variation = 1.0

    @model_validator(mode="after")
    def _some_load(self) -> Self:
        if self.peak_rps == 0:
            raise ValueError("one step must be above 0")
        return self

    @property
    def text(self) -> str:
        return f"steps of {', '.join(f'{rate:g}' for rate in self.rates_rps)}/s"

    @property
    def peak_rps(self) -> float:
        return max(self.rates_rps)


class SpikeArrivals(Spec):
    """A steady rate but for ``for_s`` seconds of another, from ``at_s`` after the run clock's zero."""

    kind: Literal["spike"]
    rate_rps: NonNegative
    spike_rps: Positive
    at_s: NonNegative
    for_s: Positive
    cv: Variation = 1.0

    @property
    def text(self) -> str:
        return f"{self.rate_rps:g}/s with a spike of {self.spike_rps:g}/s at {self.at_s:g} s for {self.for_s:g} s"

    @property
    def peak_rps(self) -> float:
        return max(self.rate_rps, self.spike_rps)


class TraceArrivals(Spec):
    """Recorded arrivals: a CSV file with a column of seconds after the run clock's zero."""

    kind: Literal["trace"]
    file: str
    """Beside the catalog's workloads, or an absolute path; every host with workers needs it."""

    @property
    def text(self) -> str:
        return f"trace {self.file}"

    @property
    def peak_rps(self) -> float | None:
        return None


Arrivals = Annotated[
    ConstantArrivals | PoissonArrivals | GammaArrivals | RampArrivals | StepArrivals | SpikeArrivals | TraceArrivals,
    Field(discriminator="kind"),
]

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"


def _ramp(values: str) -> dict[str, Any] | None:
    found = re.fullmatch(f"{_NUMBER}-{_NUMBER}", values)
    return {"from_rps": float(found[1]), "to_rps": float(found[2])} if found else None


def _step(values: str) -> dict[str, Any] | None:
    if not re.fullmatch(f"{_NUMBER}(?:,{_NUMBER})*", values):
        return None
    return {"rates_rps": tuple(float(rate) for rate in values.split(","))}


def _spike(values: str) -> dict[str, Any] | None:
    found = re.fullmatch(f"{_NUMBER}-{_NUMBER}@{_NUMBER}\\+{_NUMBER}", values)
    names = ("rate_rps", "spike_rps", "at_s", "for_s")
    return {name: float(number) for name, number in zip(names, found.groups(), strict=True)} if found else None


def _nothing(values: str) -> dict[str, Any] | None:
    return None if values else {}


def _file(values: str) -> dict[str, Any] | None:
    return {"file": values} if values else None


_Read = Callable[[str], dict[str, Any] | None]
PATTERNS: dict[str, tuple[type[Spec], str, _Read]] = {
    "constant": (ConstantArrivals, "constant", _nothing),
    "poisson": (PoissonArrivals, "poisson", _nothing),
    "gamma": (GammaArrivals, "gamma:cv=2", _nothing),
    "ramp": (RampArrivals, "ramp:10-100", _ramp),
    "step": (StepArrivals, "step:10,20,40", _step),
    "spike": (SpikeArrivals, "spike:10-100@30+5", _spike),
    "trace": (TraceArrivals, "trace:FILE.csv", _file),
}
"""Name of a pattern, as an option says it, to its model, an example, and what reads the part after the colon."""

STEADY = ("constant", "poisson", "gamma")
"""Patterns of one rate, which ``--rate`` gives."""
PATTERNS_HELP = ", ".join(example for _, example, _ in PATTERNS.values())


def arrivals_from(own: Spec | None, rate_rps: float | None, text: str | None) -> Any:
    """Build the arrivals that ``--rate`` and ``--arrivals`` ask for; without either, the scenario's ``own``.

    Raises
    ------
    UsageError
        For what is no pattern, or no rate for one.
    """
    if rate_rps is not None and not 0 < rate_rps < math.inf:
        raise UsageError(f"--rate must be above 0 requests/s, not {rate_rps:g}")
    if text is None:
        if rate_rps is None:
            return own
        keeps = own is not None and getattr(own, "kind", "") in STEADY
        return own.model_copy(update={"rate_rps": rate_rps}) if own and keeps else _poisson(rate_rps)
    kind, _, values = text.partition(":")
    if kind not in PATTERNS:
        raise unknown_name("arrivals", kind, PATTERNS)
    model, example, read = PATTERNS[kind]
    fields: dict[str, Any] = {"kind": kind}
    if kind != "trace":  # a path may hold anything
        values, fields = _split_variation(values, fields)
    own_fields = read(values)
    if own_fields is None:
        raise UsageError(f"--arrivals '{text}' cannot be read: write it like {example}")
    fields |= own_fields
    if kind in STEADY:
        if rate_rps is None:
            raise UsageError(f"--arrivals {kind} needs --rate, in requests/s")
        fields["rate_rps"] = rate_rps
    elif rate_rps is not None:
        raise UsageError(f"--arrivals {kind} says its own rates, so --rate must be left out")
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise UsageError(f"--arrivals '{text}': {_sentence(error.errors())}; write it like {example}") from error


def _poisson(rate_rps: float) -> PoissonArrivals:
    return PoissonArrivals(kind="poisson", rate_rps=rate_rps)


def _split_variation(values: str, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Take ``cv=X`` off the end."""
    found = re.fullmatch(rf"(?:(.*):)?cv={_NUMBER}", values)
    return (found[1] or "", fields | {"cv": float(found[2])}) if found else (values, fields)


def _sentence(problems: Iterable[Any]) -> str:
    first = next(iter(problems))
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{where} is missing"
    if first["type"] == "extra_forbidden":
        return f"it has no {where}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else str(message)
