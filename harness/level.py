"""One level of a capacity search: how long it has to run, and what its judgement says of it."""

from __future__ import annotations

import math

from harness.capacity_record import LevelQuality, LevelResult, LoadKind
from harness.judgement import CheckResult, Judgement, QualitySummary, Verdict
from harness.spec import Scenario, Timing
from harness.statistics import required_samples

SPARE_VIOLATIONS = 1
"""A level runs long enough to pass with this many violations of each check."""
MOST_STRETCH = 4.0
"""A level runs at most this many times the profile's time."""


def run_time_s(scenario: Scenario, timing: Timing, kind: LoadKind, load: float, confidence: float) -> float:
    """Seconds in which a level can be decided: the profile's, or longer where too few requests would come.

    Users who get their answers just within the longest limit L ask N / (Z + L) times a second.
    """
    rates = [check.limit if check.metric == "error_rate" else check.allowed_rate for check in scenario.sla]
    needed = max((required_samples(SPARE_VIOLATIONS, rate, confidence) for rate in rates if rate), default=0)
    cycle_s = scenario.think_time.mean_s + scenario.longest_limit_s
    rate_rps = load if kind == "rate" else load / max(cycle_s, 0.001)
    wanted = timing.warm_up_s + needed / rate_rps
    return float(math.ceil(min(max(timing.run_time_s, wanted), MOST_STRETCH * timing.run_time_s)))


def level_result(load: float, run_dir: str, judgement: Judgement, run_time: float, metric: str) -> LevelResult:
    """What a search keeps of a judged level."""
    spread = next((found for found in judgement.distributions if found.metric == metric), None)
    check = tightest(judgement)
    cost, facts = judgement.cost, judgement.load
    return LevelResult(
        load=load,
        verdict=judgement.verdict,
        sentence=judgement.sentence,
        run_dir=run_dir,
        judged=facts.judged,
        run_time_s=run_time,
        p50_s=spread.p50 if spread else None,
        p95_s=spread.p95 if spread else None,
        p99_s=spread.p99 if spread else None,
        throughput_rps=facts.throughput_rps,
        goodput_rps=judgement.goodput_rps,
        attained=judgement.slo_attainment,
        response_s=facts.response_s,
        think_s=facts.think_s,
        usd_per_query=cost.usd_per_query if cost else None,
        usd_per_1000_good=cost.usd_per_1000_good if cost else None,
        prompt_tokens=facts.prompt_tokens_mean,
        output_tokens=facts.tokens_got_mean,
        quality=_quality(judgement.quality),
        check=check.text if check else "",
        violating=_violating(check),
        allowed=_allowed(check),
        requests_per_min_allowed=_whole(judgement.server.get("requests/min allowed")),
        tokens_per_min_allowed=_whole(judgement.server.get("tokens/min allowed")),
    )


def _quality(found: QualitySummary | None) -> LevelQuality | None:
    if found is None:
        return None
    return LevelQuality(
        judged=found.judged,
        good_share=found.good_share,
        good_low=found.good_low,
        good_high=found.good_high,
        acceptable_on_time=found.acceptable_on_time,
        means={each.scorer: each.mean for each in found.scores if each.mean is not None},
    )


def tightest(judgement: Judgement) -> CheckResult | None:
    """The check that decides: the failing one that is furthest off, else the one with the least room."""
    failing = [check for check in judgement.checks if check.verdict is Verdict.FAIL]
    known = [check for check in failing or judgement.checks if check.margin is not None]
    return min(known, key=lambda check: check.margin or 0.0, default=None)


def binding_text(judgement: Judgement) -> str:
    """Why a level fails, in words: its tightest check, or what else the judgement says first."""
    check = tightest(judgement)
    if check is not None and check.verdict is Verdict.FAIL:
        return check.reason
    return judgement.reasons[0] if judgement.reasons else ""


def _violating(check: CheckResult | None) -> float | None:
    if check is None or check.violations is None or not check.samples:
        return None
    return check.violations / check.samples


def _allowed(check: CheckResult | None) -> float | None:
    if check is None:
        return None
    return check.limit if check.metric == "error_rate" else check.allowed_rate


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
