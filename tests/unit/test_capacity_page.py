"""The page of a capacity search: what it says, that nothing in it runs or is fetched; odd searches have one too."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from rich.console import Console

from harness.capacity import Tried, describe, interval_of, shape_of, verdict_of
from harness.capacity_record import CapacityRecord, Confirmation, LevelResult, PriceTag, SearchSettings, Sizing
from harness.daily_profile import DAILY_PROFILES
from harness.judgement import Mark, Verdict
from harness.sizing import Basis, size
from reports import capacity
from reports.capacity_terminal import print_capacity
from reports.rendering import render_page
from tests.conftest import Golden
from tests.runs import scenario, stack
from tests.unit.test_report import HOSTILE, parse

API = stack(
    name="paid-api",
    price={"kind": "tokens", "usd_per_million_input": 30, "usd_per_million_output": 60, "source": {"text": "its list"}},
)


def level(users: float, verdict: Verdict, violating: float, p95: float, **changes: Any) -> LevelResult:
    rate = users / 10
    facts = {
        "load": users,
        "verdict": verdict,
        "sentence": f"{verdict}: a sentence.",
        "run_dir": f"level-{users:g}",
        "judged": round(90 * rate),
        "run_time_s": 100.0,
        "p50_s": p95 / 2,
        "p95_s": p95,
        "p99_s": p95 * 1.4,
        "throughput_rps": rate,
        "goodput_rps": rate * (1 - violating),
        "attained": 1 - violating,
        "response_s": p95 / 2,
        "think_s": 9.0,
        "usd_per_1000_good": 2.0 / 3.6 / rate / max(1 - violating, 0.01),
        "prompt_tokens": 400.0,
        "output_tokens": 150.0,
        "check": "p95(e2e) < 2 s",
        "violating": violating,
        "allowed": 0.05,
    }
    return LevelResult.model_validate({**facts, **changes})


LEVELS = (
    level(25, Verdict.PASS, 0.0, 1.1),
    level(50, Verdict.PASS, 0.004, 1.4),
    level(100, Verdict.FAIL, 0.93, 6.2),
    level(71, Verdict.FAIL, 0.31, 2.9),
    level(60, Verdict.INCONCLUSIVE, 0.048, 1.98),
    level(55, Verdict.PASS, 0.01, 1.6),
)


def record(levels: tuple[LevelResult, ...] = LEVELS, kind: str = "users", **changes: Any) -> CapacityRecord:
    settings = SearchSettings.model_validate({"kind": kind, "start": 25, "most": 800, "levels_max": 12})
    interval = interval_of([Tried(each.load, each.verdict) for each in levels])
    shape, text = shape_of(levels, interval, settings.kind)
    binding = (
        "" if interval.infeasible is None else "p95(e2e) is 2.90 s, the limit is 2 s; 31% of 639 requests violate it"
    )
    facts = {
        "scenario": "chatbot",
        "scenario_title": "Customer support chatbot",
        "stack": "13b-a100",
        "stack_title": "13B on one A100",
        "profile": "quick",
        "settings": settings,
        "options": {"profile": "quick", "seed": "1"},
        "confidence": 0.95,
        "level_confidence": 1 - 0.05 / 12,
        "limit_s": 2.0,
        "marks": (Mark.EMULATED,),
        "levels": levels,
        "interval": interval,
        "shape": shape,
        "shape_text": text,
        "binding": binding,
        "verdict": verdict_of(interval),
        "sentence": describe(interval, settings.kind, binding, text),
        "ended": "the interval is as narrow as asked",
        "prices": (
            PriceTag(stack="13b-a100", text="$2 per GPU and hour", source="a list", read="2026-01-02", flag="old"),
        ),
        "sizing": sizing(levels, interval.feasible),
        "notes": ("each level has a server of its own",),
        "harness_version": "1.2.3",
        "host": "bench-1",
        "started": "2026-11-22T10:00:00+00:00",
        "command": "harness capacity chatbot --stack 13b-a100",
    }
    return CapacityRecord.model_validate({**facts, **changes})


def sizing(levels: tuple[LevelResult, ...], feasible: float | None) -> Sizing | None:
    if feasible is None:
        return None
    price = {"kind": "hourly", "usd_per_gpu_hour": 2.0, "source": {"text": "a list"}}
    own = stack(name="13b-a100", hardware={"gpu": "a100-80-sxm"}, price=price)
    at = {each.load: each for each in levels}
    basis = Basis(
        own, scenario(users=100, think_s=9.0), "users", at[feasible], DAILY_PROFILES["office-hours"], "office-hours"
    )
    return size(basis, api=API, at_limit={0.8: at.get(50), 1.2: at.get(60)})


def page(found: CapacityRecord) -> str:
    return render_page("capacity.html.j2", capacity.build(found))


def test_the_page_is_what_it_was(golden: Golden) -> None:
    confirmation = Confirmation(replicas=3, load=100, verdict=Verdict.PASS, sentence="a run of 3 replicas confirms it")
    said = page(record(confirmation=confirmation))
    said = re.sub(r'(<svg class="chart".*?</desc>).*?</svg>', r"\1…</svg>", said, flags=re.DOTALL)
    said = re.sub(r"<style>.*?</style>", "<style>…</style>", said, flags=re.DOTALL)
    golden("capacity/page.html", said + "\n")


def test_the_charts_are_what_they_were(golden: Golden) -> None:
    drawn = re.findall(r'<svg class="chart".*?</svg>', page(record()), flags=re.DOTALL)
    assert len(drawn) == 4
    golden("capacity/charts.svg", "\n".join(drawn) + "\n")


def test_nothing_is_fetched_and_nothing_runs() -> None:
    document = parse(page(record()))
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert {"http-equiv": "Content-Security-Policy", "content": policy} in [found for _, found in document.tags]
    assert {"script", "link", "iframe", "object", "form"}.isdisjoint({tag for tag, _ in document.tags})
    assert document.values("src") == []
    identifiers = document.values("id")
    assert len(identifiers) == len(set(identifiers))
    assert {link.removeprefix("#") for link in document.values("href")} <= set(identifiers)
    tags = [tag for tag, _ in document.tags]
    assert tags.count("caption") == tags.count("table") == 5


def test_foreign_text_is_escaped() -> None:
    hostile = record(
        stack_title=HOSTILE,
        binding=HOSTILE,
        sentence=HOSTILE,
        command=HOSTILE,
        notes=(HOSTILE,),
        options={"model": HOSTILE},
    )
    said = page(hostile)
    assert "<script" not in said
    assert "<img" not in said
    parse(said)


@pytest.mark.parametrize(
    "odd",
    [
        record(()),
        record((level(1, Verdict.FAIL, 1.0, math.inf, throughput_rps=0.0, usd_per_1000_good=None),)),
        record((level(1, Verdict.INVALID, 0.0, 1.0),)),
        record((level(25, Verdict.PASS, 0.0, 1.0),), kind="rate"),
        record(sizing=None, prices=()),
        record((level(5, Verdict.PASS, 0.0, 0.001), level(10, Verdict.FAIL, 1.0, 90.0))),
    ],
    ids=["nothing", "all failed", "invalid", "one level of a rate", "no sizing", "a factor of many"],
)
def test_odd_searches_have_a_page(odd: CapacityRecord) -> None:
    document = parse(page(odd))
    assert odd.sentence[1:] in document.text
    assert "NaN" not in page(odd)
    console = Console(record=True, width=160, force_terminal=True)
    print_capacity(console, odd)
    assert odd.sentence.split(";")[0][:40] in console.export_text()


def test_the_record_is_read_back_as_it_was() -> None:
    found = record((level(1, Verdict.FAIL, 1.0, math.inf),))
    assert CapacityRecord.model_validate_json(found.model_dump_json()) == found
