"""Numbers and foreign text as a reader sees them: three significant digits, a unit, nothing that breaks a page.

Everything here returns ``str``. A missing value is an en dash, an infinite latency says what it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal

from harness.cost import format_usd
from harness.objective import SCORES

MISSING = "–"
INFINITE = "∞ (failed or unfinished)"
NBSP = "\u00a0"
LONGEST_TEXT = 2000
"""Characters kept of one foreign text, which may be a log line of megabytes."""

BEYOND_SENSE = 1e15
"""No figure of a report; written with an exponent, so that a broken run still has a page."""

_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def clean(text: str, longest: int = LONGEST_TEXT) -> str:
    """Make foreign text safe to look at: control and direction characters are spelled out, long text is cut.

    Escaping for HTML is the template engine's work and happens after this.
    """
    text = text.replace("\r\n", "\n")
    cut = len(text) - longest
    if cut > 0:
        text = text[:longest]
    text = _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return f"{text} … ({cut:,} more characters)" if cut > 0 else text


def significant(value: float, digits: int = 3) -> str:
    """Write a number with that many significant digits, without an exponent: ``0.000213``, ``12,300``."""
    if value == 0:
        return "0"
    if not abs(value) < BEYOND_SENSE:
        return f"{value:.{digits - 1}e}"
    decimals = digits - 1 - _exponent(value, digits)
    return f"{round(value, decimals):,.{max(decimals, 0)}f}"


def exact(value: float) -> str:
    """Write a limit, a setting or a count as it was given: ``2``, ``0.5``, ``1,000``."""
    return f"{Decimal(repr(float(value))).normalize():,f}"


def count(value: int | float | None) -> str:
    return MISSING if value is None or not math.isfinite(value) else f"{round(value):,}"


def number(value: float | None, digits: int = 3) -> str:
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return _minus(significant(value, digits))


def seconds(value: float | None, digits: int = 3) -> str:
    """``812 ms`` under a second, ``1.23 s`` above; ``12.3 µs`` under a millisecond."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return INFINITE
    if value == 0:
        return f"0{NBSP}s"
    size = float(f"{abs(value):.{digits - 1}e}")
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if size * factor >= 1:
            return f"{_minus(significant(value * factor, digits))}{NBSP}{unit}"
    return f"{_minus(significant(value * 1e6, digits))}{NBSP}µs"


def clock(value: float | None) -> str:
    """A moment or a length of a run, in whole tenths: ``30 s``, ``62.5 s``, ``1,800 s``."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{_minus(exact(round(value, 1)))}{NBSP}s"


def share(value: float | None, digits: int = 3) -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{_minus(significant(value * 100, digits))}{NBSP}%"


def whole_share(value: float) -> str:
    """A share that somebody chose, such as a confidence: ``95 %``."""
    return f"{exact(round(value * 100, 6))}{NBSP}%"


def rate(value: float | None, unit: str = "req/s", digits: int = 3) -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{_minus(significant(value, digits))}{NBSP}{unit}"


def usd(value: float | None) -> str:
    return MISSING if value is None or not math.isfinite(value) else format_usd(value)


def signed_share(value: float | None) -> str:
    """A margin: ``+14.2 %`` is room left, ``−3.10 %`` is missing."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "−∞" if value < 0 else "+∞"
    text = share(value)
    return text if value <= 0 else f"+{text}"


def measured(value: float | None, metric: str, limit: float | None = None) -> str:
    """Write a check's value in its metric's unit; beside a limit, with enough digits to stay on its own side of it."""
    write = unit_of(metric)
    if value is None or limit is None or not math.isfinite(value) or value == limit:
        return write(value, 3)
    for digits in range(3, 9):
        if float(f"{value:.{digits - 1}e}") != limit:
            return write(value, digits)
    return write(value, 9)


def limit(value: float, metric: str) -> str:
    """A limit as somebody wrote it: ``2 s``, ``500 ms``, ``1 %``."""
    match dimension(metric):
        case "share":
            return whole_share(value)
        case "rate":
            return f"{exact(value)}{NBSP}req/s"
        case "score":
            return exact(value)
        case _ if value < 1:
            return f"{exact(float(Decimal(repr(value)) * 1000))}{NBSP}ms"
        case _:
            return f"{exact(value)}{NBSP}s"


def dimension(metric: str) -> str:
    """``latency``, ``share``, ``rate`` or ``score``."""
    known = {"error_rate": "share", "good_share": "share", "goodput": "rate", "throughput": "rate"}
    return known.get(metric, "score" if metric in SCORES else "latency")


def unit_of(metric: str) -> Callable[[float | None, int], str]:
    match dimension(metric):
        case "share":
            return share
        case "rate":
            return lambda value, digits: rate(value, digits=digits)
        case "score":
            return number
        case _:
            return seconds


def percentile_name(aggregate: str) -> str:
    """Name a percentile column of a Distribution: ``p999`` is written ``p99.9``."""
    return "p99.9" if aggregate == "p999" else aggregate


METRIC_NAMES = {
    "e2e": "E2E",
    "ttft": "TTFT",
    "tpot": "TPOT",
    "itl": "ITL",
    "response_time": "Response time",
}
"""End to end, time to first token, time per output token, inter-token latency, from the time a request was due."""


def metric_name(metric: str) -> str:
    return METRIC_NAMES.get(metric, metric)


def _exponent(value: float, digits: int) -> int:
    """Decimal exponent after rounding, so that 0.9996 counts as 1.00."""
    return int(f"{abs(value):.{digits - 1}e}".partition("e")[2])


def _minus(text: str) -> str:
    return text.replace("-", "−", 1)
