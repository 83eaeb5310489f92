"""What the scored share says of a check about answers.

Answers to one prompt are alike, and so are neighbours in time, so neither counts as many. Of a mean score the variance
is that of sums over clusters (prompts, or blocks of time; the larger is taken) with Student's t on their number. A
share is tested by Clopper and Pearson on counts divided by its design effect, the variance over clusters to that of a
binomial share, at least 1 (Rao and Scott, 1992, doi:10.2307/2532311).

A failed request has no acceptable answer: it is scored 0. One that is not over is unknown, and weighs against either
verdict. What was scored was fixed before it was sent, so the share stands for all requests.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from harness.evidence import FEWEST_FOR_A_MEAN, Evidence, Terms, number, percent, quantity, rate_evidence
from harness.metrics import BoolArray, FloatArray, IntArray, Judged
from harness.objective import Objective
from harness.scored import Scored
from harness.statistics import more_samples, p_value_fail, p_value_pass, rate_lower, rate_upper, t_cdf, t_quantile

TIME_BLOCKS = 20
"""Blocks of equally many requests, in the order of their issue."""


def score_evidence(objective: Objective, judged: Judged, scored: Scored, terms: Terms) -> Evidence:
    """``quality(chrf) > 0.45``: the mean over the scored requests."""
    values, unknown, prompts, blocks = score_values(judged, scored, objective.metric)
    known = int(np.count_nonzero(~unknown))
    name = f"quality({objective.metric})"
    if not known:
        text = f"no judged answer has a {name}"
        return Evidence(objective, 1.0, 1.0, text, more=FEWEST_FOR_A_MEAN)
    mean, low, high = mean_interval(values[~unknown], prompts[~unknown], blocks[~unknown], terms.confidence)
    text = f"{name} is {quantity(objective, mean)}, the limit is {quantity(objective, objective.limit)}; the mean of"
    evidence = Evidence(
        objective, 1.0, 1.0, f"{text} {known:,} answers to {len(np.unique(prompts)):,} prompts",
        value=mean, value_low=low, value_high=high, samples=known,
    )  # fmt: skip
    if known < FEWEST_FOR_A_MEAN:
        return replace(evidence, more=FEWEST_FOR_A_MEAN - known)
    worst, best = (np.where(unknown, filled, values) for filled in (0.0, 1.0))
    more = _more(values[~unknown], prompts[~unknown], blocks[~unknown], objective.limit, terms)
    return replace(
        evidence,
        p_pass=_chance(objective, worst, prompts, blocks, upper=True),
        p_fail=_chance(objective, best, prompts, blocks, upper=False),
        more=more,
        at_limit=more is None,
        hint=f"{int(unknown.sum()):,} requests were not over" if unknown.any() else "",
    )


def score_values(judged: Judged, scored: Scored, name: str) -> tuple[FloatArray, BoolArray, IntArray, IntArray]:
    """One score of the judged requests to which it applies: values, which are unknown, prompts, blocks of time."""
    values = scored.scores[name]
    mine = judged.rows[scored.rows] & ~np.isnan(values)
    rows = scored.rows[mine]
    values = np.where(judged.requests.ok[rows], values[mine], 0.0)
    return values, judged.requests.unfinished[rows], scored.prompts[mine], time_blocks(judged, rows)


def mean_interval(
    values: FloatArray, prompts: IntArray, blocks: IntArray, confidence: float
) -> tuple[float, float | None, float | None]:
    """Mean and its one-sided bounds, each at ``confidence``, within 0 and 1; no bounds from one cluster."""
    mean = float(values.mean())
    error, degrees = _error(values, prompts, blocks)
    if not degrees:
        return mean, None, None
    reach = t_quantile(confidence, degrees) * error
    return mean, max(0.0, mean - reach), min(1.0, mean + reach)


def good_share_evidence(
    objective: Objective, judged: Judged, scored: Scored, good: BoolArray, bad: BoolArray, terms: Terms, checks: int
) -> Evidence:
    """``good_share >= 95 %``: on time and acceptable. ``good`` and ``bad`` are of latencies alone, a row per sample."""
    mine = judged.rows[scored.rows]
    rows, acceptable = scored.rows[mine], scored.acceptable[mine]
    late = bad[rows]
    spoiled = judged.requests.ok[rows] & ~late & ~acceptable
    violating = late | spoiled
    known = violating | good[rows]
    violations, samples, unknown = int(violating.sum()), int(known.sum()), int((~known).sum())
    allowed = round(1.0 - objective.limit, 12)
    if not samples:
        more, _ = more_samples(0, 0, allowed, pass_alpha=terms.alpha, fail_alpha=terms.fail_alpha(checks))
        return Evidence(objective, 1.0, 1.0, "no judged request was scored", allowed=allowed, more=more)
    effect = design_effect(violating[known], scored.prompts[mine][known], time_blocks(judged, rows[known]))
    everything = samples + unknown + terms.unseen
    fewest, most = math.floor(everything / effect), math.ceil(everything / effect)
    least_bad, most_bad = math.floor(violations / effect), math.ceil((violations + unknown + terms.unseen) / effect)
    more, at_limit = more_samples(
        least_bad, math.floor(samples / effect), allowed, pass_alpha=terms.alpha, fail_alpha=terms.fail_alpha(checks)
    )
    share = 1 - violations / samples
    low, high = (
        1 - rate_upper(most_bad, fewest, terms.confidence),
        1 - rate_lower(least_bad, most, terms.confidence),
    )
    kinds = f"{int(late.sum()):,} late or failed, {int(spoiled.sum()):,} on time and not acceptable"
    text = f"good_share is {quantity(objective, share)}, the limit is {quantity(objective, objective.limit)}"
    return Evidence(
        objective,
        p_value_pass(most_bad, fewest, allowed),
        p_value_fail(least_bad, most, allowed),
        f"{text}; {number(violations / samples, allowed, 100)}% of {samples:,} scored requests violate it ({kinds}) and"
        f" at most {percent(allowed)} may",
        value=share,
        value_low=low,
        value_high=high,
        samples=samples,
        violations=violations,
        allowed=allowed,
        rate_low=1 - high,
        rate_high=1 - low,
        more=None if more is None else math.ceil(more * effect),
        at_limit=at_limit,
        hint=f"{unknown:,} requests were not over" if unknown else "",
    )


def goodput_evidence(objective: Objective, judged: Judged, scored: Scored, good: BoolArray, terms: Terms) -> Evidence:
    """Good requests per second, counted on the scored share and divided by it."""
    share = scored_share(judged, scored)
    counted = np.zeros_like(good)
    if not share:
        return rate_evidence(objective, judged, counted, terms)
    counted[scored.rows[scored.acceptable]] = True
    among = np.zeros_like(good)
    among[scored.rows] = True
    evidence = rate_evidence(replace(objective, limit=objective.limit * share), judged, counted & good, terms, among)
    low, value, high = (
        None if bound is None else bound / share for bound in (evidence.value_low, evidence.value, evidence.value_high)
    )
    text = evidence.text
    if value is not None:
        text = f"goodput is {quantity(objective, value)}, the limit is {quantity(objective, objective.limit)}"
        text += f"; {evidence.samples:,} good requests among the {percent(round(share, 4))} that were scored"
    return replace(evidence, objective=objective, value=value, value_low=low, value_high=high, text=text)


def scored_share(judged: Judged, scored: Scored) -> float:
    """Of the judged requests; 0 without any."""
    everything = int(np.count_nonzero(judged.rows))
    return int(np.count_nonzero(judged.rows[scored.rows])) / everything if everything else 0.0


def design_effect(violating: BoolArray, prompts: IntArray, blocks: IntArray) -> float:
    """Variance of a share over clusters to that of independent requests, at least 1."""
    samples = len(violating)
    share = float(violating.mean())
    if share in (0.0, 1.0):
        return 1.0
    error, _ = _error(violating.astype(np.float64), prompts, blocks)
    return min(max(1.0, error**2 / (share * (1 - share) / samples)), float(samples))


def time_blocks(judged: Judged, rows: IntArray) -> IntArray:
    order = np.argsort(judged.requests.issued_s[rows], kind="stable")
    blocks = np.empty(len(rows), dtype=np.int64)
    blocks[order] = np.arange(len(rows)) * TIME_BLOCKS // max(len(rows), 1)
    return blocks


def _error(values: FloatArray, *clusterings: IntArray) -> tuple[float, int]:
    """The largest standard error of the mean over the clusterings, with its degrees of freedom."""
    found = [_cluster_error(values, clusters) for clusters in clusterings]
    return max(found, default=(0.0, 0), key=lambda each: (each[0], -each[1]))


def _cluster_error(values: FloatArray, clusters: IntArray) -> tuple[float, int]:
    _, codes = np.unique(clusters, return_inverse=True)
    count = int(codes.max()) + 1 if len(codes) else 0
    if count < 2:
        return 0.0, 0
    sums = np.bincount(codes, values - values.mean())
    return math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(values), count - 1


def _chance(objective: Objective, values: FloatArray, prompts: IntArray, blocks: IntArray, *, upper: bool) -> float:
    """Chance of a mean this far above (or below) the limit, if it were at it."""
    mean = float(values.mean())
    error, degrees = _error(values, prompts, blocks)
    if not degrees:
        return 1.0
    if error == 0.0:
        return float(objective.holds(mean) != upper)
    distance = (mean - objective.limit) / error
    return t_cdf(-distance if upper else distance, degrees)


def _more(values: FloatArray, prompts: IntArray, blocks: IntArray, limit: float, terms: Terms) -> int | None:
    """Answers still needed at the mean and the spread seen; None: no reasonable number would do."""
    error, degrees = _error(values, prompts, blocks)
    distance = abs(float(values.mean()) - limit)
    if not degrees or not distance:
        return None
    wanted = len(values) * (t_quantile(terms.confidence, degrees) * error / distance) ** 2
    return None if wanted > 100 * len(values) else max(1, math.ceil(wanted) - len(values))
