"""Judgements as a run would give them, built from closed formulas: the same on every machine, no random numbers.

Latencies are lognormal; ``judgement(...)`` takes where the judged percentile lies and derives everything else,
so that verdict, interval, percentiles, curves and timeline agree with each other.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

from harness.audit import Audit
from harness.audit.lines import AuditLine, Standing
from harness.judgement import (
    CheckResult,
    ClaimAudit,
    ClientHealth,
    CostSummary,
    Curve,
    Distribution,
    EnergySummary,
    Judgement,
    LoadSummary,
    Mark,
    OutcomeCount,
    PromptViolations,
    Provenance,
    SeriesSummary,
    SlowRequest,
    TelemetryLine,
    TelemetrySummary,
    TimelinePoint,
    Verdict,
)
from harness.plan import PlanRow
from harness.recommend import Recommendation
from harness.statistics import rate_lower, rate_upper

NORMAL = NormalDist()


def quantile(median_s: float, sigma: float, share: float) -> float:
    return median_s * math.exp(sigma * NORMAL.inv_cdf(share))


def latency_check(
    metric: str = "e2e", limit_s: float = 2.0, median_s: float = 0.9, sigma: float = 0.35, samples: int = 2400
) -> CheckResult:
    """One ``p95`` check of a lognormal latency, with the verdict that its violation rate earns."""
    violations = round(samples * (1 - NORMAL.cdf(math.log(limit_s / median_s) / sigma)))
    low, high = rate_lower(violations, samples, 0.95), rate_upper(violations, samples, 0.95)
    verdict = Verdict.PASS if high <= 0.05 else Verdict.FAIL if low > 0.05 else Verdict.INCONCLUSIVE
    value = quantile(median_s, sigma, 0.95)
    wiggle = 2 * math.sqrt(0.05 * 0.95 / samples)
    limit_text = f"{limit_s:g} s" if limit_s >= 1 else f"{limit_s * 1000:g} ms"
    return CheckResult(
        text=f"p95({metric}) < {limit_text}",
        metric=metric,
        aggregate="p95",
        comparison="<",
        limit=limit_s,
        unit="s",
        verdict=verdict,
        reason=f"{violations:,} of {samples:,} requests violate; at most 5 % may",
        value=value,
        value_low=quantile(median_s, sigma, 0.95 - wiggle),
        value_high=quantile(median_s, sigma, min(0.95 + wiggle, 0.9999)),
        margin=(limit_s - value) / limit_s,
        samples=samples,
        violations=violations,
        allowed_rate=0.05,
        rate_low=low,
        rate_high=high,
        more_samples=1800 if verdict is Verdict.INCONCLUSIVE else None,
    )


def error_check(failures: int = 2, samples: int = 2400, limit: float = 0.01) -> CheckResult:
    low, high = rate_lower(failures, samples, 0.95), rate_upper(failures, samples, 0.95)
    verdict = Verdict.PASS if high <= limit else Verdict.FAIL if low > limit else Verdict.INCONCLUSIVE
    return CheckResult(
        text="error_rate < 1 %",
        metric="error_rate",
        aggregate="",
        comparison="<",
        limit=limit,
        unit="%",
        verdict=verdict,
        reason=f"{failures:,} of {samples:,} requests failed",
        value=failures / samples,
        value_low=low,
        value_high=high,
        margin=(limit - failures / samples) / limit,
        samples=samples,
        violations=failures,
        allowed_rate=limit,
        rate_low=low,
        rate_high=high,
    )


def distribution(metric: str, median_s: float, sigma: float, samples: int = 2400, failures: int = 2) -> Distribution:
    def at(share: float) -> float:
        return math.inf if share > 1 - failures / samples else quantile(median_s, sigma, share)

    return Distribution(
        metric=metric,
        samples=samples,
        failures=failures,
        mean_ok=median_s * math.exp(sigma**2 / 2),
        p50=at(0.5),
        p90=at(0.9),
        p95=at(0.95),
        p99=at(0.99),
        p999=at(0.999),
        max=math.inf if failures else at(0.9998),
    )


def curve(metric: str, median_s: float, sigma: float, reached: float = 1.0, points: int = 200) -> Curve:
    shares = [(index + 0.5) / points for index in range(points)]
    return Curve(
        metric=metric,
        x_s=tuple(quantile(median_s, sigma, share) for share in shares),
        share=tuple(share * reached for share in shares),
    )


def timeline(
    median_s: float, users: int, seconds: int = 150, spawn: int = 5, failing: bool = False
) -> tuple[TimelinePoint, ...]:
    """Bins of one second from the first user; latency is higher while caches are cold, and breathes a little after."""
    points = []
    for t in range(-spawn, seconds):
        up = min(1.0, (t + spawn + 1) / spawn)
        cold = 1 + 0.8 * math.exp(-max(t, 0) / 8)
        breath = 1 + 0.06 * math.sin(t / 7) + 0.03 * math.sin(t * 1.7)
        p50 = median_s * cold * breath * (1 + (0.02 * max(t, 0) if failing else 0))
        done = round(users * up / (8 + p50) * (1 + 0.1 * math.sin(t * 2.3)))
        points.append(
            TimelinePoint(
                t_s=float(t),
                users=round(users * up),
                in_flight=users * up * p50 / (8 + p50),
                sent=done,
                completed=done,
                failed=3 if failing and t > 90 and t % 4 == 0 else 0,
                ttft_p50_s=p50 * 0.15,
                e2e_p50_s=p50,
                e2e_p95_s=p50 * 1.75,
            )
        )
    return tuple(points)


def provenance(**changes: Any) -> Provenance:
    facts: dict[str, Any] = {
        "harness_version": "0.1.0",
        "git": "0123abc",
        "python": "3.12.8",
        "host": "bench-01",
        "cores": 16,
        "gpus": (),
        "locust": "2.47.0",
        "started": "2026-11-22T02:10:00Z",
        "seeds": {"data": 1, "order": 2, "schedule": 3},
        "command": "harness run support-chatbot 7b-t4-vllm --profile full",
        "repeat": "harness run support-chatbot 7b-t4-vllm --profile full --seed 1",
        "digests": {"samples.parquet": "sha256:" + "ab" * 32, "telemetry.parquet": "sha256:" + "cd" * 32},
    }
    return Provenance(**{**facts, **changes})


def claim(scenario: str, stack: str, median_s: float, **changes: Any) -> ClaimAudit:
    facts: dict[str, Any] = {
        "scenario": scenario,
        "stack": stack,
        "claim_latency_s": 0.8,
        "claim_tokens": 200,
        "floor_s": 8.75,
        "floor_arithmetic": (
            "W = 7.0e9 × 2 B = 14.0 GB; BW = 320 GB/s\nmax(W/BW, 2·P·T_in/F) + (n_out − 1)·(W + KV)/BW\n"
            "= 0.0438 s + 199 × 0.0438 s = 8.75 s"
        ),
        "feasible": False,
        "factor": 10.9,
        "measured_p50_s": median_s,
        "measured_tokens": 187.0,
        "note": "",
    }
    return ClaimAudit(**{**facts, **changes})


def judgement(
    scenario: str = "support-chatbot",
    stack: str = "7b-t4-vllm",
    *,
    limit_s: float = 2.0,
    median_s: float = 0.9,
    sigma: float = 0.35,
    users: int = 100,
    samples: int = 2400,
    failures: int = 2,
    marks: tuple[Mark, ...] = (Mark.EMULATED,),
    **changes: Any,
) -> Judgement:
    """One cell; the verdict follows from ``median_s``, ``sigma`` and ``limit_s``. Any field can be replaced."""
    check = latency_check("e2e", limit_s, median_s, sigma, samples)
    checks = (check, error_check(failures, samples))
    verdicts = [each.verdict for each in checks]
    verdict = next(v for v in (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS) if v in verdicts)
    response_s = median_s * math.exp(sigma**2 / 2)
    rate = users / (8 + response_s)
    failed = failures / samples
    words = {
        Verdict.PASS: "Meets the SLA",
        Verdict.FAIL: "Misses the SLA",
        Verdict.INCONCLUSIVE: "Cannot be decided yet",
    }
    facts: dict[str, Any] = {
        "run": f"20261122-021000-{scenario}-{stack}",
        "scenario": scenario,
        "scenario_title": scenario.replace("-", " ").capitalize(),
        "stack": stack,
        "stack_title": stack.replace("-", " ").upper(),
        "profile": "full",
        "verdict": verdict,
        "sentence": f"{words[verdict]}: {check.text} at {users} users, {check.reason}.",
        "reasons": tuple(each.reason for each in checks),
        "marks": marks,
        "checks": checks,
        "distributions": (
            distribution("ttft", median_s * 0.15, sigma, samples, failures),
            distribution("tpot", median_s * 0.0045, sigma / 2, samples - 14, failures),
            distribution("itl", median_s * 0.0042, sigma, samples * 180, 0),
            distribution("e2e", median_s, sigma, samples, failures),
            distribution("response_time", median_s * 1.002, sigma, samples, failures),
        ),
        "outcomes": (
            OutcomeCount(outcome="ok", count=samples - failures, share=1 - failed),
            *(
                [OutcomeCount(outcome="timeout", count=failures, share=failed, examples=("no token after 30 s",))]
                if failures
                else []
            ),
        ),
        "slo_attainment": 1 - (check.violations or 0) / samples,
        "goodput_rps": rate * (1 - (check.violations or 0) / samples),
        "load": LoadSummary(
            users=users,
            users_reached=users,
            think_s=8.0,
            throughput_rps=rate,
            response_s=response_s,
            in_flight_mean=rate * response_s,
            users_implied=users * 0.997,
            little_error=0.003,
            little_holds=True,
            requests=samples + 310,
            judged=samples,
            output_tokens_per_s=rate * 187,
            events_per_s=rate * 188,
            window_s=120.0,
            tokens_asked_mean=200.0,
            tokens_got_mean=187.0,
            prompt_tokens_mean=412.0,
            token_source="usage",
        ),
        "client": ClientHealth(
            workers=2,
            hub_lag_p99_s=0.0031,
            hub_lag_max_s=0.0122,
            send_lag_p99_s=0.0018,
            cpu_share_max=0.42,
            samples_sent=samples + 310,
            samples_written=samples + 310,
        ),
        "window": (30.0, 150.0),
        "warm_up_s": 30.0,
        "ended_by": "run time",
        "timeline": timeline(median_s, users, failing=failures > 20),
        "curves": (
            curve("e2e", median_s, sigma, 1 - failed),
            curve("ttft", median_s * 0.15, sigma, 1 - failed),
            curve("tpot", median_s * 0.0045, sigma / 2, 1 - failed),
            curve("itl", median_s * 0.0042, sigma),
        ),
        "worst_prompts": (
            PromptViolations(prompt_id="support-017", requests=52, violations=9),
            PromptViolations(prompt_id="support-031", requests=48, violations=4),
        ),
        "slowest": tuple(
            SlowRequest(
                request_id=f"20261122-021000-{scenario}-{stack}/{place % 2}/{7 * place}/{place}",
                prompt_id=f"support-{17 + place:03d}",
                outcome="timeout" if place < failures else "ok",
                issued_s=40.0 + 3 * place,
                took_s=30.0 if place < failures else quantile(median_s, sigma, 1 - (place + 1) / samples),
                ttft_s=None if place < failures else quantile(median_s, sigma, 0.9) * 0.15,
                output_tokens=0 if place < failures else 200,
            )
            for place in range(5)
        ),
        "claim": claim(scenario, stack, median_s),
        "cost": CostSummary(
            usd_per_hour=0.59,
            usd_per_query=0.59 / 3600 / rate,
            usd_per_1000_good=590 / 3600 / rate,
            claim_usd_per_query=0.0002,
            arithmetic=f"$0.59/h ÷ 3,600 s × 1 GPU ÷ {rate:.3g} req/s = ${0.59 / 3600 / rate:.3g}",
            source="a list price, read 2026-11-01",
        ),
        "quality_word": "sufficient",
        "quality_note": "NOT MEASURED: an emulated model writes no text that could be scored; the word is the claim's.",
        "server": {"launcher": "emulator", "version": "0.1.0", "calibration": "roofline"},
        "notes": (
            "Requests are counted as independent; batching correlates neighbours, so the bounds are too narrow.",
        ),
        "provenance": provenance(),
    }
    return Judgement(**{**facts, **changes})


def invalid(scenario: str = "support-chatbot", stack: str = "gpt-4-api", **changes: Any) -> Judgement:
    """A cell whose client was the bottleneck: numbers exist, and none counts."""
    base = judgement(scenario, stack, marks=(Mark.EMULATED, Mark.CLAIM_REPLAYED))
    facts: dict[str, Any] = {
        "verdict": Verdict.INVALID,
        "sentence": "Nothing was decided: the load generator was the bottleneck (hub lag p99 240 ms, allowed 50 ms).",
        "reasons": ("hub lag p99 was 240 ms, allowed 50 ms; use more workers",),
        "client": base.client.model_copy(update={"hub_lag_p99_s": 0.24, "cpu_share_max": 0.99}),
    }
    return base.model_copy(update={**facts, **changes})


def unloaded(scenario: str = "support-chatbot", stack: str = "13b-t4-vllm", **changes: Any) -> Judgement:
    """A stack whose memory cannot admit one request: FAIL without load, without a single sample."""
    facts: dict[str, Any] = {
        "run": "",
        "scenario": scenario,
        "scenario_title": scenario.replace("-", " ").capitalize(),
        "stack": stack,
        "stack_title": stack.replace("-", " ").upper(),
        "verdict": Verdict.FAIL,
        "sentence": "Does not fit: 26.0 GB of weights in 13.5 GB of usable memory.",
        "reasons": ("26.0 GB of weights in 13.5 GB of usable memory",),
        "load": LoadSummary(users=100, users_reached=0),
        "client": ClientHealth(workers=0),
    }
    return Judgement(**{**facts, **changes})


def replayed(scenario: str = "support-chatbot", stack: str = "gpt-4-api", **changes: Any) -> Judgement:
    """An API stack calibrated from its own claim: it cannot confirm that claim."""
    marks = (Mark.EMULATED, Mark.CLAIM_REPLAYED)
    about = claim(
        scenario, stack, 1.0, claim_latency_s=2.0, floor_s=None, floor_arithmetic="", feasible=None, factor=None,
        note="an API states no hardware, so there is no floor; the measurement replays the claim",
    )  # fmt: skip
    return judgement(scenario, stack, marks=marks, claim=about, **changes)


def recommendation(scenario: str = "support-chatbot", **changes: Any) -> Recommendation:
    """A pick with everything that can be said of one."""
    facts: dict[str, Any] = {
        "scenario": scenario,
        "pick": "13b-a100-vllm",
        "sentence": f"{scenario}: 13B A100 VLLM: the cheapest of 2 stacks that pass; measured on an emulated server.",
        "reasons": ("p95(e2e) < 2 s: 1.71 s, 15% of the limit left", "quality 'good' meets the need, medium"),
        "runner_up": "gpt-4-api",
        "ties": ("gpt-4-api",),
        "dropped": {"7b-t4-vllm": "FAIL: 916 of 2,400 requests violate"},
        "flips": ("If 13B A100 VLLM failed, it would be GPT 4 API.",),
        "binding": "p95(e2e) < 2 s: 15% of the limit left",
        "headroom": "20% more users (120) would still pass by arithmetic: emulated 1.71 s x 1.1 is 1.88 s.",
        "fallback": ("13B A100 VLLM in place of GPT 4 API: cheaper from 44,648 queries a month on.",),
        "price_notes": ("The price of 13B A100 VLLM was read on 2026-01-01, 326 days ago: look it up again.",),
        "rests_on_emulation": True,
    }
    return Recommendation(**{**facts, **changes})


def no_recommendation(scenario: str = "translation", **changes: Any) -> Recommendation:
    facts: dict[str, Any] = {
        "scenario": scenario,
        "sentence": f"{scenario}: no stack can be recommended: none passes.",
        "nearest": "7b-t4-vllm",
        "gap": "p95(e2e) is 800 ms, 60% over the limit",
        "dropped": {"7b-t4-vllm": "FAIL: 916 of 2,400 requests violate"},
        "variants": ("13b-int8-2xa100-trtllm",),
    }
    return Recommendation(**{**facts, **changes})


def audit(scenario: str = "support-chatbot", stack: str = "7b-t4-vllm", **changes: Any) -> Audit:
    """A latency that cannot be and a cost that nobody measured."""
    facts: dict[str, Any] = {
        "scenario": scenario,
        "stack": stack,
        "title": stack.replace("-", " ").upper(),
        "subject": "latency",
        "standing": Standing.IMPOSSIBLE,
        "claimed": 0.8,
        "floor": 8.75,
        "measured": 0.9,
        "marks": (Mark.EMULATED,),
        "factor": 10.9,
        "sentence": "0.8 s for 200 tokens cannot be: reading the weights once a token takes 8.75 s at least.",
        "arithmetic": ("At least: 0.0438 s + 199 x 0.0438 s = 8.75 s.", "8.75 s / 0.8 s = 10.9."),
    }
    cost = {"subject": "cost", "standing": Standing.PLAUSIBLE, "claimed": 0.0002, "floor": 0.0001, "factor": None}
    cost |= {"measured": None, "marks": (), "sentence": "$0.000200 a query agrees with the list price."}
    cost |= {"arithmetic": ("The answer alone: (200 output tokens x $1) / 1,000,000 = $0.000200.",)}
    return Audit(lines=(AuditLine(**{**facts, **changes}), AuditLine(**{**facts, **cost, **changes})))


def plan_row(scenario: str = "support-chatbot", stack: str = "7b-t4-vllm", **changes: Any) -> PlanRow:
    facts: dict[str, Any] = {
        "scenario": scenario,
        "stack": stack,
        "title": stack.replace("-", " ").upper(),
        "check": "p95(e2e) < 2 s",
        "claim_s": 0.8,
        "claim_tokens": 200,
        "tokens": 200,
        "floor_s": 8.75,
        "floor_arithmetic": "0.0438 s + 199 × 0.0438 s = 8.75 s",
        "feasible": False,
        "factor": 10.9,
        "input_tokens": 350,
        "output_tokens": 200,
        "largest_batch": 1,
        "users": 100,
        "think_s": 15.0,
        "needed_rps": 5.88,
        "capacity_rps": 0.104,
        "predicted": 964.0,
        "expected": "FAIL",
        "reasons": ("memory admits one request at a time, so users queue",),
    }
    return PlanRow(**{**facts, **changes})


def mixed() -> list[Judgement]:
    """One of each verdict, in two scenarios, and a stack that got no load."""
    return [
        judgement(median_s=1.8, failures=60, server_log_tail=("INFO ready", "ERROR out of memory")),
        judgement(stack="13b-a100-vllm", median_s=0.96),
        replayed(median_s=1.1),
        unloaded(),
        invalid("translation"),
        judgement("translation", median_s=0.45, failures=0, limit_s=0.5, users=1000, marks=(Mark.REDUCED,)),
    ]


def telemetry(seconds: int = 182, gpus: int = 1, **changes: Any) -> TelemetrySummary:
    """What a server on GPUs gives: every row of the chart, every fact."""
    points = min(seconds, 120)
    t_s = tuple(round(index * seconds / points, 2) for index in range(points))

    def course(middle: float) -> tuple[float | None, ...]:
        return tuple(round(middle * (1 + 0.2 * math.sin(index / 7)), 4) for index in range(points))

    middles = {
        "running": 24.0,
        "waiting": 3.0,
        "kv_use": 0.4,
        "output_tokens_total": 1200.0,
        "server_cpu_s": 1.1,
        "server_rss_bytes": 4.2e9,
        "load_cpu_s": 0.2,
        "telemetry_cpu_s": 0.006,
        "host_cpu_share": 0.6,
        "gpu_utilization": 0.92,
        "gpu_memory_bytes": 6.4e10,
        "gpu_power_w": 310.0,
    }
    facts: dict[str, Any] = {
        "server_kind": "vllm",
        "gpus": dict.fromkeys(range(gpus), "NVIDIA H100 80GB HBM3"),
        "series": tuple(
            SeriesSummary(name=name, readings=120, min=0.8 * each, mean=each, p95=1.15 * each, max=1.2 * each)
            for name, each in middles.items()
        ),
        "lines": tuple(
            TelemetryLine(name=name, t_s=t_s, values=course(each))
            for name, each in middles.items()
            if name not in ("output_tokens_total", "server_rss_bytes", "telemetry_cpu_s", "host_cpu_share")
        ),
        "energy": EnergySummary(
            joules=37_200.0,
            gpus=tuple(range(gpus)),
            source="energy counter",
            requests=2400,
            output_tokens=480_000,
            per_request_j=15.5,
            per_1000_tokens_j=77.5,
        ),
        "throttle_reasons": ("software power cap",),
        "preemptions": 2,
        "scrapes": 181,
        "scrape_failures": 1,
        "scrape_error": "timed out",
        "in_flight_server": 27.0,
        "in_flight_client": 27.4,
    }
    return TelemetrySummary(**{**facts, **changes})
