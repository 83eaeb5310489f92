"""What an API says of its rate limits, in the headers of any answer, and what a run will ask of it.

Names and forms are those of OpenAI's documentation: ``x-ratelimit-limit-requests``, ``-remaining-``, ``-reset-``, the
same for ``-tokens``, ``retry-after`` in seconds and ``retry-after-ms``. Many providers copied them. Both limits are
meant a minute.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness.spend import Demand

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class RateLimits:
    """None: not said. ``reset_*`` are seconds until the whole limit is there again."""

    requests_per_min: int | None = None
    tokens_per_min: int | None = None
    requests_left: int | None = None
    tokens_left: int | None = None
    requests_reset_s: float | None = None
    tokens_reset_s: float | None = None
    retry_after_s: float | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> RateLimits:
        """Read them from headers of any case; what cannot be read counts as not said."""
        said = {name.lower(): value.strip() for name, value in headers.items()}
        after_ms = _number(said.get("retry-after-ms", ""))
        return cls(
            requests_per_min=_count(said.get("x-ratelimit-limit-requests", "")),
            tokens_per_min=_count(said.get("x-ratelimit-limit-tokens", "")),
            requests_left=_count(said.get("x-ratelimit-remaining-requests", "")),
            tokens_left=_count(said.get("x-ratelimit-remaining-tokens", "")),
            requests_reset_s=duration_s(said.get("x-ratelimit-reset-requests", "")),
            tokens_reset_s=duration_s(said.get("x-ratelimit-reset-tokens", "")),
            retry_after_s=after_ms / 1000 if after_ms is not None else _number(said.get("retry-after", "")),
        )

    def details(self) -> dict[str, str | int | float | bool]:
        """What of them a server's facts keep."""
        found = {
            "requests/min allowed": self.requests_per_min,
            "tokens/min allowed": self.tokens_per_min,
            "requests left before load": self.requests_left,
            "tokens left before load": self.tokens_left,
            "seconds until the request limit resets": self.requests_reset_s,
            "seconds until the token limit resets": self.tokens_reset_s,
        }
        return {name: value for name, value in found.items() if value is not None}

    def shortfall(self, demand: Demand) -> str:
        """Say which limit lies below what a run will ask for; empty: none."""
        pairs = (
            ("requests", self.requests_per_min, demand.requests_per_min),
            ("tokens", self.tokens_per_min, demand.tokens_per_min),
        )
        below = [
            f"{allowed:,} {what} a minute, and this load asks for about {asked:,.0f}"
            for what, allowed, asked in pairs
            if allowed is not None and allowed < asked
        ]
        if not below:
            return ""
        return f"the API allows {'; it allows '.join(below)}: this run will measure the limit, not the model"


def duration_s(text: str) -> float | None:
    """Seconds of a duration such as ``6m0s``, ``20ms``, ``1h2m3.5s`` or plain seconds; None when it is none."""
    text = text.strip().lower()
    parts = _PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    return _number(text)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
