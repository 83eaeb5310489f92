"""The checks of a cell as a table, and each value with its bounds as a bar against its limit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.judgement import CheckResult, Judgement, Verdict
from reports import figures
from reports.parts import Bar, Chip, Column, Item, Table

COLUMNS = (
    Column("Check", wide=True),
    Column("Verdict"),
    Column("Value", number=True),
    Column("Limit", number=True),
    Column("Against the limit"),
    Column("Violations", number=True),
    Column("Violation rate", number=True),
    Column("Needed to decide"),
)


def primary(judgement: Judgement) -> CheckResult | None:
    """The check that a matrix and a chart speak of: the first on a latency, else the first."""
    latencies = (check for check in judgement.checks if figures.dimension(check.metric) == "latency")
    return next(latencies, judgement.checks[0] if judgement.checks else None)


def value_against_limit(check: CheckResult) -> str:
    """``p95(e2e) 1.72 s, limit < 2 s``."""
    name = f"{check.aggregate}({check.metric})" if check.aggregate else check.metric
    value = figures.measured(check.value, check.metric, check.limit)
    return f"{name} {value}, limit {check.comparison}{figures.NBSP}{figures.limit(check.limit, check.metric)}"


def table(judgement: Judgement) -> Table | None:
    """Every check of a judged cell."""
    why = ""
    if judgement.verdict is Verdict.INVALID:
        why = "The run is invalid, so these checks decide nothing. "
    return table_of(judgement.checks, f"{why}Every check of the SLA.")


def table_of(checks: Sequence[CheckResult], caption: str) -> Table | None:
    """Checks with value, limit, interval and counts; ``caption`` says whose they are."""
    if not checks:
        return None
    known = [check for check in checks if check.verdict is not Verdict.NOT_MEASURED] or checks
    levels = " or ".join(sorted({figures.whole_share(check.confidence) for check in known}))
    under = f"Under a value and a rate: their lower and upper bound, each at {levels} confidence."
    return Table(f"{caption} {under}", COLUMNS, tuple(_row(check) for check in checks), "checks")


def _row(check: CheckResult) -> tuple[Item, ...]:
    metric = check.metric
    rate = check.violations / check.samples if check.violations is not None and check.samples else None
    rate_bounds = _range(figures.share(check.rate_low), figures.share(check.rate_high))
    known = check.samples > 0 or check.verdict is not Verdict.NOT_MEASURED
    of = (f"of {figures.count(check.samples)}", *_allowed(check), *_undefined(check)) if known else ()
    return (
        Item(check.text, lines=_some(check.reason)),
        Item(chip=Chip.of(check.verdict)),
        Item(figures.measured(check.value, metric, check.limit), lines=_some(value_bounds(check)), number=True),
        Item(
            f"{check.comparison}{figures.NBSP}{figures.limit(check.limit, metric)}",
            lines=_some(f"margin {figures.signed_share(check.margin)}" if check.margin is not None else ""),
            number=True,
        ),
        Item(bar=bar(check)),
        Item(figures.count(check.violations), lines=of, number=True),
        Item(figures.share(rate), lines=_some(rate_bounds), number=True),
        Item(needed(check)),
    )


def needed(check: CheckResult) -> str:
    """What would turn this check into a decision."""
    if check.verdict is Verdict.NOT_MEASURED:
        return "not part of the verdict"
    if check.at_limit:
        return "at the limit: no number of requests decides"
    if check.more_samples is not None:
        requests = "request" if check.more_samples == 1 else "requests"
        return f"about {figures.count(check.more_samples)} more {requests} at this rate of violations"
    return "nothing" if check.verdict in (Verdict.PASS, Verdict.FAIL) else figures.MISSING


def violations(check: CheckResult) -> str:
    """``12 of 812, 40 allowed``."""
    if check.violations is None:
        return figures.MISSING
    seen = f"{figures.count(check.violations)} of {figures.count(check.samples)}"
    most = most_violations(check)
    return seen if most is None else f"{seen}, {figures.count(most)} allowed"


def most_violations(check: CheckResult) -> int | None:
    """How many of the requests seen may violate; None where the check counts none."""
    return None if check.allowed_rate is None else math.floor(check.allowed_rate * check.samples + 1e-9)


def value_bounds(check: CheckResult) -> str:
    return _range(*(_value(check, bound).partition(" (")[0] for bound in (check.value_low, check.value_high)))


def bar(check: CheckResult) -> Bar | None:
    """Draw nothing where there is no value; an infinite one runs off the end."""
    if check.value is None or math.isnan(check.value) or not check.limit > 0 or not math.isfinite(check.limit):
        return None
    low = check.value if check.value_low is None else check.value_low
    high = check.value if check.value_high is None else check.value_high
    finite = [value for value in (low, check.value, high) if math.isfinite(value)]
    top = max([check.limit * 1.4, *(value * 1.08 for value in finite)])
    lower_is_better = check.comparison in ("<", "<=")
    limit = _position(check.limit, top)
    text = f"{value_against_limit(check)}, between {_value(check, low)} and {_value(check, high)}"
    return Bar(
        label=text,
        room_from="0%" if lower_is_better else limit,
        room_width=limit if lower_is_better else _position(top - check.limit, top),
        limit=limit,
        value=_position(check.value, top),
        low=_position(low, top),
        high=_position(high, top),
        beyond=not (math.isfinite(check.value) and math.isfinite(high)),
    )


def _position(value: float, top: float) -> str:
    return f"{100 * min(max(value / top, 0.0), 1.0):.1f}%"


def _value(check: CheckResult, value: float | None) -> str:
    return figures.measured(value, check.metric, check.limit)


def _range(low: str, high: str) -> str:
    if low == high == figures.MISSING:
        return ""
    if high == figures.MISSING:
        return f"at least {low}"
    return f"at most {high}" if low == figures.MISSING else f"{low} to {high}"


def _allowed(check: CheckResult) -> tuple[str, ...]:
    if check.allowed_rate is None:
        return ()
    return (f"allowed {figures.count(most_violations(check))} ({figures.whole_share(check.allowed_rate)})",)


def _undefined(check: CheckResult) -> tuple[str, ...]:
    return (f"{figures.count(check.undefined)} left out: not defined",) if check.undefined else ()


def _some(text: str) -> tuple[str, ...]:
    return (text,) if text else ()
