"""The history page: complete, harmless, offline, and small however long the history."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from harness.history.rows import METRICS, Cell
from reports import trend
from tests.unit.histories import CELL, LEVELS, history
from tests.unit.test_report import HOSTILE, parse


def test_the_page_shows_every_figure_and_the_night_of_a_change() -> None:
    rows = history(1, 60, 0.01, shift=0.2, since=40)
    page = trend.render({CELL: rows})
    document = parse(page)
    for name in LEVELS:
        assert METRICS[name].title in document.text
    assert "60 launches of 1 cell, 2026-01-02 to 2026-03-02" in document.text
    marks = re.findall(r"<title>(2026-\d\d-\d\d): [^<]* to [^<]*</title>", page)
    assert set(marks) <= {"2026-02-10", "2026-02-11", "2026-02-12"}  # night 40, or a neighbour
    assert marks.count("2026-02-11") >= 6
    targets = {value for value in document.values("id") if value}
    assert {link.removeprefix("#") for link in document.values("href") if link} <= targets


def test_a_history_without_a_change_marks_none() -> None:
    page = trend.build({CELL: history(2, 60, 0.01)})
    assert [line[4].text for line in page.summary.rows] == ["none"]
    assert all("without a change" in figure.caption for figure in page.cells[0].figures)


def test_changed_versions_and_flags_are_listed_with_what_they_were() -> None:
    rows = history(3, 20, 0.01)
    later = [replace(each, annotations={"harness": "0.2.0", "flag --dtype": "half"}) for each in rows[12:]]
    document = parse(trend.render({CELL: [*rows[:12], *later]}))
    assert "flag --dtype: none → half" in document.text
    assert "harness: 0.1.0 → 0.2.0" in document.text


def test_hostile_names_stay_text_and_nothing_is_fetched_or_run() -> None:
    cell = Cell(HOSTILE, HOSTILE, "1 users", HOSTILE, "EMULATED")
    rows = [replace(each, cell=cell, annotations={HOSTILE: str(n)}) for n, each in enumerate(history(4, 12, 0.01))]
    page = trend.render({cell: rows})
    document = parse(page)
    assert {"script", "img", "link", "iframe"}.isdisjoint(tag for tag, _ in document.tags)
    assert "&lt;script&gt;" in page
    assert document.values("src") == []
    assert all(link.startswith("#") for link in document.values("href"))
    assert "url(" not in page


def test_infinite_missing_and_single_values_have_a_page() -> None:
    rows = history(5, 12, 0.01)
    rows[6] = replace(rows[6], values={"e2e_p95_s": math.inf}, verdict="FAIL")
    rows[7] = replace(rows[7], values={}, verdict="INVALID")
    page = trend.render({CELL: rows, replace(CELL, stack="other"): rows[:1]})
    assert "10 PASS, 1 INVALID, 1 FAIL" in page
    assert "NaN" not in page
    assert not re.search(r'd="[^"]*(nan|inf)', page)


def test_a_long_history_is_a_small_page() -> None:
    short, long = (len(trend.render({CELL: history(6, nights, 0.01)})) for nights in (200, 2000))
    assert long < 1.5 * short
    assert long < 150_000
