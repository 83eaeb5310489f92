"""The charts of one cell: how long requests and tokens took, and what happened when, at the client and the server."""

from __future__ import annotations

from harness.judgement import CheckResult, Judgement
from reports import charts, figures, telemetry
from reports.parts import Figure, Key
from reports.svg import stacked

REQUESTS = ("response_time", "e2e", "ttft")
TOKENS = ("tpot", "itl")
STYLES = ("line", "line other", "line second")
"""Of the first, second and third curve of a chart."""


def build(judgement: Judgement, anchor: str) -> tuple[Figure, ...]:
    where = f"{judgement.stack} in {judgement.scenario}"
    found = (
        _distribution(judgement, REQUESTS, "How long requests took", f"{anchor}--latency", where),
        _distribution(judgement, TOKENS, "How long tokens took", f"{anchor}--tokens", where),
        _course(judgement, f"{anchor}--time", where),
    )
    return tuple(figure for figure in found if figure is not None)


def judged(check: CheckResult) -> charts.Judged:
    label = f"limit {figures.limit(check.limit, check.metric)}"
    if check.allowed_rate is None:
        return charts.Judged(check.metric, label, check.limit)
    return charts.Judged(check.metric, label, check.limit, 1 - check.allowed_rate, check.aggregate)


def _latencies(judgement: Judgement, metrics: tuple[str, ...]) -> list[charts.Judged]:
    return [judged(check) for check in judgement.checks if check.metric in metrics]


def _distribution(judgement: Judgement, metrics: tuple[str, ...], title: str, key: str, where: str) -> Figure | None:
    limits = _latencies(judgement, metrics)
    names = {each.metric for each in limits}
    curves = sorted(
        (curve for curve in judgement.curves if curve.metric in metrics),
        key=lambda curve: (curve.metric not in names, metrics.index(curve.metric)),
    )
    about = ", ".join(f"{figures.metric_name(each.metric)} {each.share_label} {each.label}" for each in limits)
    subject = "requests" if metrics == REQUESTS else "measurements"
    desc = f"Share of judged {subject} of {where} that were done within a time. {about}".strip()
    image = charts.latency_chart(curves, limits, key, f"{title}: {where}", desc)
    if image is None:
        return None
    keys = [Key(figures.metric_name(curve.metric), style) for curve, style in zip(curves, STYLES, strict=False)]
    if limits:
        keys.append(Key("limit", "limit"))
    return Figure(title, image, tuple(keys), _caption(judgement, metrics))


def _caption(judgement: Judgement, metrics: tuple[str, ...]) -> str:
    if metrics == TOKENS:
        return "TPOT: mean time per output token of a request. ITL: each gap between two chunks of an answer."
    text = "Share of judged requests done within a time."
    failures = max((spread.failures for spread in judgement.distributions if spread.metric in metrics), default=0)
    if failures:
        text += f" {figures.count(failures)} failed: a curve ends below 100 % by their share."
    return text


def _course(judgement: Judgement, key: str, where: str) -> Figure | None:
    """Client and server under one axis, so that a cause stands under its effect."""
    title = "What happened when"
    limit = next(iter(_latencies(judgement, ("e2e", "response_time"))), charts.Judged("e2e", ""))
    rows = telemetry.rows(judgement)
    panels = charts.timeline_panels(judgement.timeline, judgement.window, judgement.warm_up_s, limit, last=not rows)
    if not panels:
        return None
    names = ("latency", "requests in flight and users", "requests per second", *(row.title for row in rows))
    desc = f"Of {where} over the run, one under the other: {'; '.join(names)}."
    image = stacked([*panels, *telemetry.panels(judgement)], key, f"{title}: {where}", desc)
    keys = []
    if limit.limit_s is not None:
        keys.append(Key(limit.label, "limit"))
    if any(point.failed for point in judgement.timeline):
        keys.append(Key("failed", "block failed"))
    if judgement.warm_up_s > 0:
        keys.append(Key("warm-up", "block warm-up"))
    return Figure(title, image, tuple(keys), _window(judgement), "tall")


def _window(judgement: Judgement) -> str:
    size = charts.merge_size(judgement.timeline)
    text = ""
    if judgement.window is not None:
        start, end = judgement.window
        text = (
            f"Judged: requests issued from {figures.clock(start)} to {figures.clock(end)}, between the upright lines."
        )
    if size > 1:
        text += f" Each point joins {figures.count(size)} intervals and shows the largest latency of them."
    return text.strip()
