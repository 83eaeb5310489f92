"""Charts: small, labelled, drawn without a browser, and right where a run was odd."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from harness.judgement import Curve, TimelinePoint
from reports import charts
from reports.svg import Panel, stacked
from tests import factories
from tests.conftest import Golden

JUDGED = charts.Judged("e2e", "limit 2 s", 2.0, 0.95, "p95")


def latency(curves: tuple[Curve, ...], judged: charts.Judged = JUDGED) -> str | None:
    return charts.latency_chart(curves, (judged,), "k", "How long", "A description")


def timeline(points: tuple[TimelinePoint, ...], window: tuple[float, float] | None = (30.0, 150.0)) -> str | None:
    return drawn(charts.timeline_panels(points, window, 30.0, JUDGED))


def drawn(panels: list[Panel]) -> str | None:
    return stacked(panels, "k", "What happened", "A description") if panels else None


def texts(svg: str) -> list[str]:
    return [found.text or "" for found in ElementTree.fromstring(svg).iter("text")]


def test_the_latency_chart_is_what_it_was(golden: Golden) -> None:
    cell = factories.judgement(failures=60)
    golden("report/latency.svg", f"{latency(cell.curves[:2])}\n")


def test_the_timeline_is_what_it_was(golden: Golden) -> None:
    cell = factories.judgement(failures=60)
    golden("report/timeline.svg", f"{timeline(cell.timeline)}\n")


def test_charts_are_small_and_labelled() -> None:
    cell = factories.judgement(
        failures=60,
        timeline=factories.timeline(1.0, 100, seconds=7200, failing=True),
        curves=(factories.curve("e2e", 1.0, 0.4, points=5000), factories.curve("ttft", 0.1, 0.4, points=5000)),
    )
    for svg in (latency(cell.curves), timeline(cell.timeline)):
        assert svg is not None
        assert len(svg) < 40_000
        root = ElementTree.fromstring(svg)
        assert root.attrib["role"] == "img"
        assert [child.tag for child in root][:2] == ["title", "desc"]
        assert not re.search(r"\d\.\d{2,}[ ,LMh]", svg)
        assert "http" not in svg
        assert "font-family" not in svg


def test_titles_are_escaped_and_labels_cleaned() -> None:
    judged = charts.Judged("e2e", "</svg>\x00\u202e<script>", 2.0, 0.95, "<p95>")
    svg = charts.latency_chart(factories.judgement().curves, (judged,), "k", "</svg><script>", "&\x01")
    assert svg is not None
    assert "<script" not in svg
    assert "</svg>\\u0000\\u202e<script>" in texts(svg)
    assert ElementTree.fromstring(svg)[0].text == "</svg><script>"


@pytest.mark.parametrize(
    "curves",
    [(), (Curve(metric="e2e", x_s=(), share=()),), (Curve(metric="e2e", x_s=(math.inf,), share=(0.5,)),)],
)
def test_no_points_no_latency_chart(curves: tuple[Curve, ...]) -> None:
    assert latency(curves) is None


def test_no_points_no_timeline() -> None:
    assert timeline(()) is None


@pytest.mark.parametrize("value", [None, math.inf])
def test_a_run_of_failures_only_has_a_timeline(value: float | None) -> None:
    points = tuple(
        TimelinePoint(t_s=t, users=1, in_flight=0, sent=1, completed=0, failed=1, e2e_p95_s=value) for t in range(3)
    )
    assert timeline(points) is not None
    assert timeline(points, None) is not None


def test_one_sample_and_one_bin_are_enough() -> None:
    assert latency((Curve(metric="e2e", x_s=(0.0,), share=(1.0,)),)) is not None
    assert timeline((TimelinePoint(t_s=0, users=0, in_flight=0, sent=0, completed=0, failed=0),)) is not None


def test_other_limits_do_not_touch_the_latency_panel() -> None:
    dashed = 'stroke-dasharray="2,3"'
    points = factories.judgement().timeline
    without = drawn(charts.timeline_panels(points, None, 0.0, charts.Judged("ttft", "limit 1 s", 1.0)))
    with_limit = drawn(charts.timeline_panels(points, None, 0.0, charts.Judged("e2e", "limit 1 s", 1.0)))
    assert without is not None
    assert with_limit is not None
    assert (without.count(dashed), with_limit.count(dashed)) == (0, 1)


def test_merging_bins_keeps_counts_and_the_worst() -> None:
    points = factories.timeline(1.0, 100, seconds=1000, failing=True)
    bins = charts.merged(points)
    assert len(bins) <= charts.MOST_POINTS
    assert sum(each.point.completed for each in bins) == sum(point.completed for point in points)
    assert sum(each.point.failed for each in bins) == sum(point.failed for point in points)
    assert sum(each.width_s for each in bins) == len(points)
    assert max(each.point.e2e_p95_s or 0 for each in bins) == max(point.e2e_p95_s or 0 for point in points)


@pytest.mark.parametrize(
    ("top", "most", "ticks"), [(10, 5, [0, 2, 4, 6, 8, 10]), (0.7, 3, [0, 0.5]), (1234, 3, [0, 500, 1000])]
)
def test_linear_ticks_are_round(top: float, most: int, ticks: list[float]) -> None:
    assert charts.linear_ticks(top, most) == ticks


def test_every_limit_of_a_drawn_metric_is_drawn_once() -> None:
    judged = (
        JUDGED,
        charts.Judged("e2e", "limit 2 s", 2.0, 0.5, "p50"),
        charts.Judged("ttft", "limit 1 s", 1.0, 0.9, "p90"),
    )
    svg = charts.latency_chart(
        factories.judgement().curves[:2], (*judged, charts.Judged("tpot", "limit 9 s", 9.0)), "k", "t", "d"
    )
    assert svg is not None
    shown = texts(svg)
    assert [text for text in shown if text.startswith("limit")] == ["limit 1 s", "limit 2 s"]
    assert {"p95", "p50", "p90"} <= set(shown)


def test_log_ticks_are_round_and_few() -> None:
    assert charts.log_ticks(0.05, 5) == [0.05, 0.1, 0.2, 0.5, 1, 2, 5]
    assert charts.log_ticks(0.001, 100) == [0.001, 0.01, 0.1, 1, 10, 100]
