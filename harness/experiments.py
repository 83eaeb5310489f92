"""What an experiment is: arms that differ in one thing, under one scenario, and what is expected to differ.

Also the two kinds of circumstances that experiments brought: prompts that come again, and users who are far away.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from harness.errors import UsageError
from harness.fields import Count, Name, NonNegative, Positive, Spec

NETWORK = re.compile(r"(?P<name>[a-z0-9\-]+):(?P<delay>\d+(?:\.\d+)?)ms(?::(?P<weight>\d+))?")


class Zipf(Spec):
    """Prompts that come again: the k-th of the data's prompts is drawn with a weight of 1 / k^exponent.

    All users share the ranking, which is the data's own order. A conversation is then its first question alone.
    """

    exponent: NonNegative = 1.0
    """0: all alike; 1.0 and a little more is what logs of search and support questions show."""
    fresh: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of requests that nobody sent before: the same texts with a reference number of their own in front."""


class Distance(Spec):
    """Some users, and how long each of their bytes takes to the server, and back again."""

    name: Name
    delay_s: NonNegative
    """One way."""
    weight: Count = 1
    """Share of the users, over the sum of all weights."""


def parse_network(text: str) -> tuple[Distance, ...]:
    """Read ``eu:10ms+us:45ms+asia:110ms:2``: regions with their delay one way, and a weight where it is not 1.

    Raises
    ------
    ValueError
        When it does not look like that.
    """
    found = []
    for part in text.split("+") if text else ():
        match = NETWORK.fullmatch(part.strip())
        if match is None or int(match["weight"] or 1) < 1:
            raise ValueError(f"'{part}' is no region: write NAME:DELAYms or NAME:DELAYms:WEIGHT, joined by +")
        delay_s = float(match["delay"]) / 1000
        found.append(Distance(name=match["name"], delay_s=delay_s, weight=int(match["weight"] or 1)))
    return tuple(found)


class Arm(Spec):
    """A stack, and what is changed of it or of the scenario; None leaves it as it is."""

    label: str = ""
    """Empty: the stack with its changes."""
    stack: Name
    users: Count | None = None
    think_time_s: NonNegative | None = None
    rate_rps: Positive | None = None
    output_tokens: Count | None = None
    input_tokens: Count | None = None
    run_time_s: Positive | None = None
    calibration: Literal["roofline", "claims"] | None = None
    stream: bool = True
    templates: str | None = None
    """A stem of ``workloads/templates``; ``none``: prompts without any template."""
    replicas: Count | None = None
    prefix_cache: bool | None = None
    """Whether the engine keeps what it computed of a prompt. llama.cpp and the emulator can be told; see docs."""
    network: str = ""
    """Regions of the users, as :func:`parse_network` reads them."""

    @model_validator(mode="after")
    def _network_is_one(self) -> Self:
        parse_network(self.network)
        return self

    @property
    def changes(self) -> dict[str, str]:
        """As they stand after ``@``."""
        told = self.model_dump(exclude={"label", "stack"}, exclude_defaults=True)
        return {name: _word(value) for name, value in told.items()}

    @property
    def title(self) -> str:
        changes = ",".join(f"{name}={value}" for name, value in self.changes.items())
        return self.label or (f"{self.stack}@{changes}" if changes else self.stack)

    @classmethod
    def parse(cls, text: str) -> Arm:
        """Read ``stack`` or ``stack@users=10,stream=off``.

        Raises
        ------
        UsageError
            For an unknown key or an impossible value.
        """
        stack, _, rest = text.partition("@")
        known = [name for name in cls.model_fields if name not in ("label", "stack")]
        values: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in rest.split(","))):
            name, sign, value = part.partition("=")
            if name not in known or not sign:
                raise UsageError(f"'{part}' changes nothing of {stack}; write one of {', '.join(known)} and its value")
            values[name] = _SWITCH.get(value, value)
        try:
            return cls.model_validate({"stack": stack, **values})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise UsageError(f"{text}: {where}: {first['msg'].removeprefix('Value error, ')}") from error


_SWITCH: dict[str, Any] = {"on": True, "off": False}


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


class Expectation(Spec):
    """What should come of an experiment, and why; effects are B / A - 1 of the first pair, or B - A of shares."""

    metric: str
    """Of :data:`harness.differences.METRICS`."""
    between: tuple[float, float]
    why: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.between[0] >= self.between[1]:
            raise ValueError(f"between must rise: {self.between[0]:g} is not below {self.between[1]:g}")
        return self


class Experiment(Spec):
    """One question, as arms to be launched in turn. The first arm is what the others are compared with."""

    kind: Literal["experiment"]
    name: Name
    title: str
    question: str
    scenario: Name
    arms: Annotated[tuple[Arm, ...], Field(min_length=2)]
    real: tuple[Arm, ...] = ()
    """The same on an engine that any machine can run; empty: none of them can show it."""
    real_reason: str = ""
    """Why there are none, or what they cannot show."""
    headline: tuple[str, ...] = ()
    """Metrics of the headline; empty: those of the scenario's SLA."""
    repeat: Zipf | None = None
    expects: tuple[Expectation, ...] = ()
    """Of the emulated arms at their own load."""
    launches: Annotated[int, Field(ge=3)] = 5
    note: str = ""
    """What the experiment cannot show."""

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        for arms in (self.arms, self.real):
            titles = [arm.title for arm in arms]
            if len(set(titles)) < len(titles):
                raise ValueError(f"two arms are called alike: {', '.join(titles)}")
        if len(self.real) == 1:
            raise ValueError("real needs two arms or none")
        if not self.real and not self.real_reason:
            raise ValueError("real_reason must say why no engine here can show it")
        return self
