"""The page of a comparison: complete, self-contained, harmless, and the same as last time."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.compare import compare
from harness.comparison import ArmResult, Comparison, Finding, Launch, Part
from harness.differences import Rules
from harness.judgement import Mark, Verdict
from reports.compare import plain, print_comparison, render, write_page_of
from reports.compare_chart import ticks
from tests.conftest import Golden
from tests.unit.test_report import HOSTILE, parse

PARTS = (
    Part(name="cache hits", requests=310, ttft_p50_s=0.021, e2e_p50_s=0.81, e2e_p95_s=1.02),
    Part(name="cache misses", requests=290, ttft_p50_s=0.094, e2e_p50_s=0.88, e2e_p95_s=1.11),
)


def arm(label: str, factor: float, launches: int = 3, **changes: Any) -> ArmResult:
    """Launches whose luck follows a closed formula, as everything does here."""
    made = []
    for place in range(launches):
        luck = factor * (1 + 0.01 * math.sin(3 * place + factor))
        values = {
            "e2e_p50": 0.8 * luck,
            "e2e_p95": 1.2 * luck,
            "e2e_p99": 1.5 * luck,
            "ttft_p50": 0.08 * luck * factor,
            "error_rate": 0.002 * place,
            "slo_attainment": 0.99 - 0.001 * place,
            "goodput_rps": 6.1 / luck,
            "usd_per_1000_good": 0.52 * factor,
        }
        facts: dict[str, Any] = {
            "run": f"run-{label}-{place}",
            "directory": f"runs/compare/{label}/round-{place + 1}",
            "scenario": "chatbot",
            "scenario_title": "Customer support chatbot",
            "stack": "vllm-7b-a100",
            "stack_title": "7B on one A100, vLLM",
            "verdict": Verdict.PASS,
            "marks": (Mark.EMULATED,),
            "started": f"2026-11-22T02:1{place}:00Z",
            "round": place + 1,
            "emulated": True,
            "requests": 600,
            "window_s": 90.0,
            "headline": ("e2e_p95", "error_rate"),
            "values": values,
            "parts": PARTS,
        }
        made.append(Launch(**{**facts, **changes}))
    return ArmResult(label=label, changes={"prefix_cache": "on"} if factor < 1 else {}, launches=tuple(made))


def comparison(**changes: Any) -> Comparison:
    spoiled = arm("slow", 1.3, 4)
    out = spoiled.launches[3].model_copy(update={"left_out": "it is INVALID: the client was late", "values": {}})
    slow = spoiled.model_copy(update={"launches": (*spoiled.launches[:3], out)})
    facts: dict[str, Any] = {
        "title": "Caching of common queries, off and on",
        "question": "How much faster?",
        "interleaved": True,
        "command": "harness compare --experiment response-caching",
        "notes": ("A prefix cache spares the reading of a prompt.",),
    }
    return compare([arm("no cache", 1.0), arm("cache", 0.7), slow], Rules(), **{**facts, **changes})


@pytest.fixture(scope="module")
def page() -> str:
    return render(comparison())


def test_the_page_is_what_it_was(page: str, golden: Golden) -> None:
    said = re.sub(r'(<svg class="chart".*?</desc>).*?</svg>', r"\1…</svg>", page, flags=re.DOTALL)
    said = re.sub(r"<style>.*?</style>", "<style>…</style>", said, flags=re.DOTALL)
    golden("compare/page.html", said + "\n")


def test_the_chart_is_what_it_was(page: str, golden: Golden) -> None:
    chart = re.search(r'<svg class="chart".*?</svg>', page, flags=re.DOTALL)
    assert chart is not None
    golden("compare/forest.svg", chart[0].replace("><", ">\n<") + "\n")


def test_the_text_is_what_it_was(golden: Golden) -> None:
    golden("compare/findings.txt", plain(comparison()) + "\n")


def test_nothing_is_fetched_and_nothing_runs(page: str) -> None:
    document = parse(page)
    assert all(link.startswith("#") for link in document.values("href"))
    assert document.values("src") == []
    assert "://" not in page
    assert {"script", "link", "iframe", "object", "form"}.isdisjoint({tag for tag, _ in document.tags})
    identifiers = document.values("id")
    assert len(identifiers) == len(set(identifiers))
    assert {link.removeprefix("#") for link in document.values("href")} <= set(identifiers)


def test_it_says_what_was_found(page: str) -> None:
    text = " ".join(parse(page).text.split())
    assert "Cache is better in p95(E2E), −" in text
    assert "Slow is worse in p95(E2E), +" in text
    assert "is left out: it is INVALID: the client was late" in text
    assert "EMULATED" in text
    assert "cache misses" in text
    assert render(comparison()) == page


def test_foreign_texts_stay_texts() -> None:
    hostile = {"stack_title": HOSTILE, "scenario_title": HOSTILE, "run": HOSTILE, "directory": HOSTILE}
    arms = [arm(label, factor, **hostile) for label, factor in ((HOSTILE, 1.0), (f"{HOSTILE}2", 1.3))]
    found = compare(arms, Rules(), title=HOSTILE, question=HOSTILE, notes=(HOSTILE,), command=HOSTILE)
    document = parse(render(found))
    assert {"script", "img"}.isdisjoint({tag for tag, _ in document.tags})
    assert "{{ 7*7 }}" in document.text
    assert "\x1b" not in plain(found)


@pytest.mark.parametrize("launches", [1, 2])
def test_too_few_launches_have_a_page_too(launches: int) -> None:
    found = compare([arm("a", 1.0, launches), arm("b", 1.2, launches)], Rules())
    assert found.pairs[0].finding is Finding.TOO_FEW
    assert "too few samples" in parse(render(found)).text


def test_infinite_values_and_nothing_at_all_have_a_page() -> None:
    gone = arm("gone", 1.0, values={"e2e_p95": math.inf, "error_rate": 1.0})
    empty = arm("empty", 1.0, left_out="it was cut off", values={})
    text = parse(render(compare([arm("a", 1.0), gone, empty], Rules()))).text
    assert "so many requests failed or were unfinished that it is no number" in text
    assert "0 of empty" in text


def test_a_difference_of_many_times_stays_on_its_chart() -> None:
    found = compare([arm("a", 1.0), arm("b", 90.0), arm("c", 0.01)], Rules())
    points = [float(x) for x in re.findall(r"translate\((-?[\d.]+),", render(found))]
    assert points
    assert all(-1 <= x <= 520 for x in points)


def test_a_terminal_gets_tables(tmp_path: Path) -> None:
    with (tmp_path / "screen").open("w", encoding="utf-8") as file:
        print_comparison(Console(file=file, force_terminal=True, width=140, color_system=None), comparison())
    shown = (tmp_path / "screen").read_text(encoding="utf-8")
    assert "cache against no cache" in shown
    assert "p95(E2E) *" in shown
    assert "WORSE: slow is worse" in shown


def test_the_page_is_written_whole(tmp_path: Path, page: str) -> None:
    path = write_page_of(tmp_path / "deep" / "compare.html", comparison())
    assert path.read_text(encoding="utf-8") == page
    assert [each.name for each in path.parent.iterdir()] == ["compare.html"]


@pytest.mark.parametrize(("low", "high"), [(-0.12, 0.12), (-1.0, 4.0), (-0.3, 0.31)])
def test_ticks_are_round_and_hold_zero(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 0.0 in found
    assert 4 <= len(found) <= 8
    assert all(low <= tick <= high for tick in found)
