"""The part "Server and host" of a cell's page: complete, light, and absent where nothing was recorded."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from harness.judgement import Judgement, TelemetryLine, TelemetrySummary
from reports import cell_figures, html, telemetry
from reports.parts import Table
from tests import factories

GPU_ROWS = {"GPU utilisation", "GPU memory, GiB", "GPU power, W"}
ROWS = {"At the server: running; waiting dashed", "KV cache in use", "CPU, cores: server; load generator dashed"}


def cell(found: TelemetrySummary | None) -> Judgement:
    return factories.judgement(telemetry=found)


def figure_texts(judgement: Judgement) -> list[str]:
    course = cell_figures.build(judgement, "a")[-1]
    return [found.text or "" for found in ElementTree.fromstring(course.image).iter("text")]


def without_gpus(found: TelemetrySummary) -> TelemetrySummary:
    return found.model_copy(
        update={
            "gpus": {},
            "energy": None,
            "throttle_reasons": None,
            "series": tuple(each for each in found.series if not each.name.startswith("gpu")),
            "lines": tuple(each for each in found.lines if not each.name.startswith("gpu")),
        }
    )


def values(table: Table | None) -> dict[str, tuple[str, ...]]:
    assert table is not None
    return {row[0].text: tuple(item.text for item in row[1:]) for row in table.rows}


def test_every_row_is_drawn_once_with_one_time_axis() -> None:
    texts = figure_texts(cell(factories.telemetry()))
    assert set(texts) >= ROWS | GPU_ROWS
    assert texts.count("Time since all users were up") == 1


def test_server_and_client_share_one_axis() -> None:
    texts = figure_texts(cell(factories.telemetry()))
    assert texts.index("E2E latency: p95, p50 dashed") < texts.index("At the server: running; waiting dashed")
    alone = figure_texts(cell(None))
    assert alone.count("Time since all users were up") == 1


def test_several_gpus_say_how_they_are_joined() -> None:
    texts = figure_texts(cell(factories.telemetry(gpus=4)))
    assert {"GPU utilisation, mean of 4 GPUs", "GPU power, W, sum of 4 GPUs"} <= set(texts)


def test_without_a_gpu_no_row_column_or_fact_of_one() -> None:
    found = without_gpus(factories.telemetry())
    assert not GPU_ROWS & set(figure_texts(cell(found)))
    assert not [name for name in values(telemetry.table(found)) if "GPU" in name]
    assert not [fact for fact in telemetry.facts(found) if "GPU" in fact.label or "Energy" in fact.label]


def test_the_axis_is_the_timelines() -> None:
    """Readings from before the first user and after the last answer would stretch it."""
    early = TelemetryLine(name="running", t_s=(-500.0, 10.0, 5000.0), values=(9.0, 3.0, 9.0))
    judgement = cell(factories.telemetry(lines=(early,)))
    assert "At the server: running; waiting dashed" in figure_texts(judgement)
    assert telemetry._points(early, 2.0, (-10.0, 190.0)) == [{"x": 10.0, "y": 6.0}]


def test_a_gap_stays_a_gap() -> None:
    line = TelemetryLine(name="running", t_s=(1.0, 2.0, 3.0), values=(1.0, None, 2.0))
    assert telemetry._points(line, 1.0, (0.0, 9.0)) == [{"x": 1.0, "y": 1.0}, {"x": 2.0}, {"x": 3.0, "y": 2.0}]


def test_values_carry_their_units() -> None:
    shown = values(telemetry.table(factories.telemetry()))
    assert shown["KV cache in use"] == ("32.0\u00a0%", "40.0\u00a0%", "46.0\u00a0%", "48.0\u00a0%")
    assert shown["GPU power"][1] == "310\u00a0W"
    assert shown["GPU memory in use"][1] == "59.6\u00a0GiB"
    assert shown["CPU of the server"][1] == "1.10\u00a0cores"
    assert shown["Output tokens"][1] == "1,200\u00a0tokens/s"


def test_facts_say_energy_throttling_preemptions_and_failures() -> None:
    facts = {fact.label: (fact.value, fact.note) for fact in telemetry.facts(factories.telemetry())}
    assert facts["Energy per request"] == ("15.5\u00a0J", "2,400 answered")
    assert facts["Energy per 1,000 output tokens"][0] == "77.5\u00a0J"
    assert facts["Clocks lowered by"][0] == "software power cap"
    assert facts["Preemptions"][0] == "2"
    assert facts["Scrapes of its metrics"] == ("181, 1 failed", "timed out")
    assert facts["In flight, by the server"] == ("27.0", "we had 27.4 at the same moments")
    assert facts["CPU of this telemetry"][0].endswith("of a core")


def test_a_cell_without_telemetry_has_no_such_part() -> None:
    page = html.render([cell(None)])
    assert "Server and host" not in page
    assert telemetry.panels(cell(None)) == []
    assert telemetry.table(None) is None


@pytest.mark.parametrize("changes", [{"lines": ()}, {"series": ()}, {"lines": (), "series": (), "scrapes": 0}])
def test_parts_that_are_missing_leave_the_rest(changes: dict[str, object]) -> None:
    found = factories.telemetry(incomplete="the recorder was killed", **changes)
    page = html.render([cell(found)])
    assert "Incomplete: the recorder was killed." in page


def test_hostile_texts_are_escaped() -> None:
    hostile = {"scrape_error": "</svg><script>alert(1)</script>", "gpus": {0: "<img src=x>"}}
    found = factories.telemetry().model_copy(update=hostile)
    page = html.render([cell(found)])
    assert "<script" not in page
    assert "<img" not in page


def test_fifteen_cells_would_stay_light() -> None:
    long = factories.timeline(1.0, 100, seconds=150)  # more bins than a judgement ever has
    cells = [
        factories.judgement(stack=f"stack-{n}", timeline=long, telemetry=factories.telemetry(seconds=1800, gpus=8))
        for n in range(2)
    ]
    one, two = (html.render(cells[:count]) for count in (1, 2))
    assert len(one.encode()) + 14 * (len(two.encode()) - len(one.encode())) < 2_000_000
    charts = re.findall(r'<svg class="chart".*?</svg>', two, re.DOTALL)
    assert len(charts) == 2 * 4 + 1  # distributions, course, telemetry, claim; and cost against latency
    assert not [chart for chart in charts if "http" in chart]
