"""What the samples say of one check, before it is weighed against the others.

Each kind of check gives two p-values: how likely evidence this good were if the limit were just missed, and
evidence this bad if it were just kept. What an unfinished request will become is unknown: against the
objective it counts as keeping the limit, for it as breaking it, so either verdict stands whatever comes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.effective import BLOCKS, Effective, needed_s
from harness.metrics import BoolArray, Judged, Observed
from harness.objective import Objective
from harness.statistics import (
    REASONABLE_FACTOR,
    alpha_of,
    more_samples,
    nearest_rank,
    p_value_fail,
    p_value_pass,
    rank_bounds,
    rate_lower,
    rate_upper,
    t_cdf,
    t_quantile,
)
from harness.worth import error_worth, latency_worth, mean_worth, rate_worth, takes_limit

RATE_BLOCKS = 10
"""A rate per second is tested on the means of this many equal blocks of the window."""
FEWEST_FOR_A_MEAN = 30
"""Below, Student's t is no bound for skewed latencies."""

_UNIT_SCALE = {"s": 1, "ms": 1e3, "us": 1e6, "min": 1 / 60, "%": 100, "": 1, "req/s": 1, "/s": 1, "req/min": 60}


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a cell is decided.

    ``looks`` are the moments at which FAIL could be decided, the end included. ``no_pass`` says why this
    run cannot PASS, and is empty when it can. ``unseen`` requests were in flight and left no sample. A rate that is
    known to lie within ``zone`` of the allowed one (a share of it; 0: no such zone) is at the limit.
    """

    confidence: float = 0.95
    looks: int = 1
    no_pass: str = ""
    unseen: int = 0
    zone: float = 0.0

    @property
    def alpha(self) -> float:
        return alpha_of(self.confidence)

    def fail_alpha(self, checks: int) -> float:
        """The level at which the first of ``checks`` p-values makes a cell FAIL."""
        return self.alpha / self.looks / max(checks, 1)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one check.

    ``p_pass`` is small when they speak for the objective, ``p_fail`` when they speak against it.
    """

    objective: Objective
    p_pass: float
    p_fail: float
    text: str
    value: float | None = None
    value_low: float | None = None
    value_high: float | None = None
    samples: int = 0
    undefined: int = 0
    violations: int | None = None
    allowed: float | None = None
    rate_low: float | None = None
    rate_high: float | None = None
    more: int | None = None
    at_limit: bool = False
    worth: Effective | None = None
    hint: str = ""
    """Why no number of samples would help, or what is missing; instead of a count of samples."""


def percentile_evidence(objective: Objective, judged: Judged, terms: Terms, checks: int) -> Evidence:
    allowed, percentile = objective.allowed_rate, objective.percentile
    assert allowed is not None and percentile is not None
    observed = judged.observe(objective.metric)
    overdue = observed.count_unfinished_beyond(objective.limit, inclusive=takes_limit(objective))
    known = observed.known + overdue
    violations = known - observed.count_within(objective.limit, inclusive=takes_limit(objective))
    worth = latency_worth(objective, judged)
    evidence = _counted(
        objective, violations, known, len(observed.unfinished_s) - overdue, allowed, terms, checks, worth
    )
    if known == 0:
        return replace(evidence, undefined=observed.undefined)
    value = observed.at_rank(nearest_rank(known, percentile))
    low, high = rank_bounds(known, allowed, terms.confidence, worth.share)
    noun = "gaps" if objective.metric == "itl" else "requests"
    share = number(violations / known, allowed, 100)
    return replace(
        evidence,
        value=value,
        value_low=None if low is None else observed.at_rank(low),
        value_high=None if high is None or worth.needed_s else observed.at_rank(high),
        undefined=observed.undefined,
        text=f"{_is(objective, value)}; {share}% of {known:,} {noun} violate it and at most {percent(allowed)} may",
    )


def error_evidence(objective: Objective, objectives: Sequence[Objective], judged: Judged, terms: Terms) -> Evidence:
    """Every outcome but ``ok`` is an error. An unfinished request is unknown: slow is not yet wrong."""
    requests, rows = judged.requests, judged.rows
    errors = int(np.count_nonzero(requests.failed & rows))
    unknown = int(np.count_nonzero(requests.unfinished & rows))
    known = int(np.count_nonzero(rows)) - unknown
    worth = error_worth(judged)
    evidence = _counted(objective, errors, known, unknown, objective.limit, terms, len(objectives), worth)
    if known == 0:
        return evidence
    text = f"{_is(objective, errors / known)}; {errors:,} of {known:,} requests failed"
    return replace(
        evidence, value=errors / known, value_low=evidence.rate_low, value_high=evidence.rate_high, text=text
    )


def _counted(
    objective: Objective,
    violations: int,
    known: int,
    unknown: int,
    allowed: float,
    terms: Terms,
    checks: int,
    worth: Effective,
) -> Evidence:
    """Weigh a count of violations, with unknown requests always on the side that spares the other verdict."""
    share, short = worth.share, worth.needed_s > 0
    everything, unseen = share * (known + unknown), share * terms.unseen
    bad, worst = share * violations, share * (violations + unknown)
    p_pass = 1.0 if short else p_value_pass(worst, everything, allowed)
    more, at_limit = more_samples(
        violations, known, allowed, pass_alpha=terms.alpha, fail_alpha=terms.fail_alpha(checks), share=share
    )
    hint = ""
    if unknown and p_pass > terms.alpha:
        hint = f"{unknown:,} requests were not over, and could still break it"
    if short and violations <= allowed * known:
        hint = _too_short(worth)
    return Evidence(
        objective,
        p_pass,
        p_value_fail(bad, everything + unseen, allowed),
        text=f"no judged request has a known {objective.metric}",
        samples=known,
        violations=violations,
        allowed=allowed,
        rate_low=rate_lower(bad, everything + unseen, terms.confidence),
        rate_high=1.0 if short else rate_upper(worst + unseen, everything + unseen, terms.confidence),
        more=more,
        at_limit=at_limit,
        worth=worth if known else None,
        hint=hint,
    )


def _too_short(worth: Effective) -> str:
    return (
        f"latencies stay alike for some {worth.correlation_time_s:.2g} s, so a PASS takes a judged window of"
        f" {worth.needed_s:,.0f} s or more"
    )


def mean_evidence(objective: Objective, judged: Judged, terms: Terms) -> Evidence:
    """Student's t with the variance of the mean taken from equal blocks; one failed request makes the mean infinite."""
    observed = judged.observe(objective.metric)
    known = observed.known
    if observed.infinite:
        text = f"{_is(objective, math.inf)}: {observed.infinite:,} of {known:,} failed, and a failure never ends"
        return Evidence(
            objective, 1.0, 0.0, text, value=math.inf, samples=known, violations=observed.infinite,
            undefined=observed.undefined,
        )  # fmt: skip
    values = np.concatenate((observed.finite_s(), observed.unfinished_s))
    if len(values) == 0:
        text = f"no judged request has a known {objective.metric}"
        return Evidence(objective, 1.0, 1.0, text, more=FEWEST_FOR_A_MEAN, undefined=observed.undefined)
    mean = float(values.mean())
    if len(values) < FEWEST_FOR_A_MEAN:
        return Evidence(
            objective, 1.0, 1.0, f"{_is(objective, mean)}, of {known:,} values", value=mean, samples=known,
            undefined=observed.undefined, more=FEWEST_FOR_A_MEAN - len(values),
        )  # fmt: skip
    worth = mean_worth(objective, judged)
    error = float(values.std(ddof=1)) / math.sqrt(worth.samples)
    evidence = _student(objective, mean, error, BLOCKS, len(values), terms)
    stretch = _stretch(mean, objective.limit)
    short = worth.needed_s > 0 or (judged.window is not None and needed_s(worth, stretch) > judged.window.length_s)
    hint = f"{len(observed.unfinished_s):,} requests were not over" if len(observed.unfinished_s) else ""
    if short and objective.holds(mean):
        hint = hint or _too_short(replace(worth, needed_s=needed_s(worth, stretch)))
    sure = t_cdf((mean - objective.limit) / (error * stretch), BLOCKS - 1) if error else evidence.p_pass
    return replace(
        evidence,
        p_pass=1.0 if hint else sure,
        value_high=_mean_upper(mean, t_quantile(terms.confidence, BLOCKS - 1) * error),
        hint=hint,
        undefined=observed.undefined,
        worth=worth,
        text=f"{_is(objective, mean)}, of {known:,} values over {BLOCKS} equal blocks",
    )


def _stretch(mean: float, limit: float) -> float:
    """How many times larger the mean's error would be, were the truth at a limit above what was seen.

    A queue of mean 1 / (1 - load) has a deviation in proportion to it and a memory in proportion to its square (heavy
    traffic: Whitt, *Management Science* 35, 1989), so the error grows with the square of the mean; at most fourfold is
    taken, lest a limit that is further away be harder to keep.
    """
    return min(max(limit / mean, 1.0), 2.0) ** 2 if mean > 0 else 1.0


def _mean_upper(mean: float, reach: float) -> float:
    """The limit L that the mean just keeps: L - mean = reach x (L / mean)^2, or four times the reach where none is."""
    share = reach / mean if mean > 0 else 0.0
    if share <= 0 or share > 0.25:
        return mean + 4 * reach
    return mean * (1 - math.sqrt(1 - 4 * share)) / (2 * share)


def maximum_evidence(objective: Objective, observed: Observed) -> Evidence:
    overdue = observed.count_unfinished_beyond(objective.limit, inclusive=takes_limit(objective))
    known = observed.known + overdue
    violations = known - observed.count_within(objective.limit, inclusive=takes_limit(objective))
    if known == 0:
        text = f"no judged request has a known {objective.metric}"
        return Evidence(objective, 1.0, 1.0, text, undefined=observed.undefined)
    value = observed.at_rank(known)
    return Evidence(
        objective,
        1.0,
        0.0 if violations else 1.0,
        f"{_is(objective, value)}; {violations:,} of {known:,} violate it and none may",
        value=value,
        samples=known,
        undefined=observed.undefined,
        violations=violations,
        hint="no finite sample shows a maximum; check p99.9 instead",
    )


def rate_evidence(
    objective: Objective, judged: Judged, counted: BoolArray, terms: Terms, among: BoolArray | None = None
) -> Evidence:
    """Requests per second, with the spread taken from the means of equal blocks of the window.

    Blocks of a window that is short for its correlation time are alike, and vary too little. So the error is at least
    that of the share p which counts, of as many samples as the requests are worth: rate x sqrt((1 - p) / p / samples).
    ``among`` are the requests that could count, all unless told otherwise: a share that was drawn by chance adds no
    correlation.
    """
    window = judged.window
    if window is None:
        return Evidence(objective, 1.0, 1.0, f"no {objective.metric} without a judged window")
    ended_s = judged.requests.end_s[judged.ended_in_window(counted)]
    edges = np.linspace(window.low_s, window.high_s, RATE_BLOCKS + 1)
    blocks = np.histogram(ended_s, edges)[0] / (window.length_s / RATE_BLOCKS)
    total, mean = len(ended_s), float(blocks.mean())
    error = float(blocks.std(ddof=1)) / math.sqrt(RATE_BLOCKS)
    rows = judged.rows & ~judged.requests.unfinished
    if among is not None:
        rows = rows & among
    share = float(counted[rows].mean()) if rows.any() else 0.0
    worth = rate_worth(judged, counted, rows) if 0.0 < share < 1.0 else None
    if worth is not None:
        error = max(error, mean * math.sqrt((1.0 - share) / share / worth.samples))
    evidence = _student(objective, mean, error, RATE_BLOCKS, total, terms)
    few = total < FEWEST_FOR_A_MEAN
    hint = _too_short(worth) if worth is not None and worth.needed_s and objective.holds(mean) else ""
    return replace(
        evidence,
        p_pass=1.0 if few or hint else evidence.p_pass,
        p_fail=1.0 if terms.unseen else evidence.p_fail,
        hint=hint,
        samples=total,
        more=FEWEST_FOR_A_MEAN - total if few else evidence.more,
        text=f"{_is(objective, mean)}; {total:,} requests in {window.length_s:,.0f} s, over {RATE_BLOCKS} equal blocks",
    )


def _student(objective: Objective, mean: float, error: float, blocks: int, samples: int, terms: Terms) -> Evidence:
    sign = 1.0 if objective.lower_is_better else -1.0
    distance = sign * (mean - objective.limit)
    if error == 0.0:
        holds = objective.holds(mean)
        return Evidence(objective, 0.0 if holds else 1.0, 1.0 if holds else 0.0, "", value=mean, samples=samples)
    reach = t_quantile(terms.confidence, blocks - 1) * error
    wanted = samples * (reach / distance) ** 2 if distance else math.inf
    at_limit = wanted > max(samples, 1) * REASONABLE_FACTOR
    return Evidence(
        objective,
        t_cdf(distance / error, blocks - 1),
        t_cdf(-distance / error, blocks - 1),
        "",
        value=mean,
        value_low=mean - reach,
        value_high=mean + reach,
        samples=samples,
        more=None if at_limit else max(1, math.ceil(wanted) - samples),
        at_limit=at_limit,
    )


def longest_limit(objectives: Sequence[Objective]) -> float:
    """The largest latency limit in seconds, infinity without any."""
    return max((objective.limit for objective in objectives if objective.is_latency), default=math.inf)


def quantity(objective: Objective, value: float) -> str:
    """A value in the unit the objective was written in, with enough digits to lie on its own side of the limit."""
    text = number(value, objective.limit, _UNIT_SCALE[objective.unit])
    if objective.unit == "" or not math.isfinite(value):
        return text
    return f"{text}%" if objective.unit == "%" else f"{text} {objective.unit}"


def number(value: float, limit: float, scale: float = 1.0) -> str:
    """Three significant digits, or as many more as it takes to compare with the limit as the value does."""
    target = round(limit * scale, 9)
    shown = target if value == limit else value * scale
    if not math.isfinite(shown):
        return "infinite"
    decimals = max(0, 2 - math.floor(math.log10(abs(shown)))) if shown else 0
    for places in range(decimals, decimals + 20):
        text = f"{shown:.{places}f}"
        if np.sign(float(text) - target) == np.sign(value - limit):
            break
    return text.rstrip("0").rstrip(".") if "." in text else text


def _is(objective: Objective, value: float) -> str:
    name = f"{objective.aggregate}({objective.metric})" if objective.aggregate else objective.metric
    return f"{name} is {quantity(objective, value)}, the limit is {quantity(objective, objective.limit)}"


def percent(share: float) -> str:
    return f"{round(100 * share, 9):g}%"
