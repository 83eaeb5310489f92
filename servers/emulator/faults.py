"""Seeded faults: what a server does to its clients on bad days.

A specification is ``NAME:HOW_OFTEN[:key=value]...``, separated by commas. ``HOW_OFTEN`` with a decimal point is a
probability per request (``500:0.1``), a whole number a count: the first that many requests (``reset:3``). At most one
fault meets a request, the first listed that strikes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from harness.errors import UsageError

FAULTS: dict[str, tuple[str, dict[str, float]]] = {
    "429": ("refuse with 429 and Retry-After", {"retry_after": 1.0}),
    "500": ("refuse with 500", {}),
    "503": ("refuse with 503", {}),
    "stall": ("stop sending after that many tokens, keep the connection", {"after": 1.0}),
    "reset": ("reset the connection (RST) after that many tokens", {"after": 1.0}),
    "truncate": ("close the connection after that many tokens, without the end of the body", {"after": 1.0}),
    "malformed": ("send broken JSON in place of the token at that index", {"after": 1.0}),
    "slow_start": ("answer 503 for HOW_OFTEN seconds before being ready", {}),
    "exit_after": ("die, exit code 70, when request number HOW_OFTEN + 1 arrives", {}),
}
"""Name to what it does and its keys with their defaults; ``after`` counts tokens, ``retry_after`` seconds."""
WHOLE_SERVER = frozenset({"slow_start", "exit_after"})


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    probability: float | None
    count: int
    keys: dict[str, float]

    @property
    def after(self) -> int:
        return int(self.keys["after"])


class FaultPlan:
    """Decides which request meets which fault, from the seed and the request's number alone."""

    def __init__(self, faults: tuple[Fault, ...], seed: int) -> None:
        self._faults = faults
        self._seed = seed

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> FaultPlan:
        """Read a specification.

        Raises
        ------
        UsageError
            In one sentence that names what is allowed.
        """
        return cls(tuple(_parse_one(part.strip()) for part in text.split(",") if part.strip()), seed)

    def strike(self, number: int) -> Fault | None:
        """Return the fault of request ``number`` (from 0)."""
        for fault in self._faults:
            if fault.name in WHOLE_SERVER:
                continue
            if fault.probability is None:
                struck = number < fault.count
            else:
                struck = random.Random(f"{self._seed}/{fault.name}/{number}").random() < fault.probability
            if struck:
                return fault
        return None

    @property
    def start_delay_s(self) -> float:
        return next((fault.keys["amount"] for fault in self._faults if fault.name == "slow_start"), 0.0)

    @property
    def exit_after(self) -> int | None:
        return next((int(fault.keys["amount"]) for fault in self._faults if fault.name == "exit_after"), None)


def _parse_one(text: str) -> Fault:
    name, _, rest = text.partition(":")
    if name not in FAULTS:
        raise UsageError(f"--faults: unknown fault '{name}'; known: {', '.join(FAULTS)}")
    how_often, *settings = rest.split(":")
    try:
        amount = float(how_often)
    except ValueError:
        raise UsageError(
            f"--faults: fault '{text}': how often is a probability (0.1) or a count (3), not '{how_often}'"
        ) from None
    keys = dict(FAULTS[name][1])
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in keys:
            raise UsageError(f"--faults: fault '{name}' has no key '{key}'; known: {', '.join(keys) or 'none'}")
        keys[key] = _number(text, value)
    if name in WHOLE_SERVER:
        return Fault(name, None, 0, keys | {"amount": amount})
    if "." not in how_often:
        return Fault(name, None, int(amount), keys)
    if not 0 <= amount <= 1:
        raise UsageError(f"--faults: fault '{text}': a probability lies between 0.0 and 1.0")
    return Fault(name, amount, 0, keys)


def _number(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise UsageError(f"--faults: fault '{text}': '{value}' is no number") from None
    if number < 0:
        raise UsageError(f"--faults: fault '{text}': {value} is below 0")
    return number
