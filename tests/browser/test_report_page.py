"""The report in a real browser: alone, legible, reachable, printable, and with the numbers of judgement.json."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from harness.judgement import Judgement
from tests.browser.conftest import PHONE, Door, Report

NUMBER = re.compile(r"([−-]?[\d,]+(?:\.\d+)?)\s*(µs|ms|s|%|req/s)?")
UNITS = {"µs": 1e-6, "ms": 1e-3, "s": 1.0, "%": 0.01, "req/s": 1.0, None: 1.0}
CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")

CHART_FONTS = """[...document.querySelectorAll('svg.chart text')].map(text => {
    const svg = text.ownerSVGElement;
    const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    return parseFloat(getComputedStyle(text).fontSize) * scale;
})"""
"""Pixels on the screen, of every text of every chart."""
CHART_LABELS = """(() => {
    let pairs = 0;
    const over = [];
    for (const svg of document.querySelectorAll('svg.chart')) {
        const boxes = [...svg.querySelectorAll('text')].filter(it => it.textContent.trim())
            .map(it => [it.textContent, it.getBoundingClientRect()]);
        boxes.forEach(([one, a], place) => boxes.slice(place + 1).forEach(([other, b]) => {
            pairs += 1;
            const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
            const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
            if (wide > 2 && high > 4) over.push(`${one} | ${other}`);
        }));
    }
    return [pairs, over];
})()"""
"""Pairs of texts within one chart, and those that lie on each other."""


def number(text: str) -> float:
    """Read a figure as a reader does: ``1.85 s``, ``12,300``, ``−31.0 %``, ``∞``."""
    if text.startswith("∞"):
        return math.inf
    found = NUMBER.match(text.strip())
    assert found, f"no figure: {text!r}"
    return float(found[1].replace(",", "").replace("−", "-")) * UNITS[found[2]]


def rows(page: Page, article: str, caption: str) -> list[list[str]]:
    """The texts of a table, its first column of row headings among them."""
    found: list[list[str]] = page.locator(f"#{article} table", has=page.locator("caption", has_text=caption)).evaluate(
        "table => [...table.tBodies[0].rows].map(row => [...row.cells].map(cell => cell.innerText))"
    )
    return found


def facts(page: Page, article: str) -> dict[str, str]:
    found: dict[str, str] = page.evaluate(
        "id => Object.fromEntries([...document.querySelectorAll(`#${id} .facts > div`)]"
        ".map(each => [each.children[0].innerText, each.children[1].firstChild.textContent]))",
        article,
    )
    return found


@pytest.fixture(params=["every_kind", "judged", "attacked", "studied"])
def report(request: pytest.FixtureRequest) -> Report:
    found: Report = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_alone_and_says_nothing(door: Door, report: Report, scheme: str) -> None:
    visit = door.open(report.path, scheme=scheme)
    visit.page.wait_for_load_state("networkidle")
    assert visit.requests == [report.path.as_uri()]
    assert visit.complaints == []
    assert visit.page.locator("h1").is_visible()
    assert visit.page.locator("article.cell").count() == len(report.judgements)


def test_attacks_stay_texts(door: Door, attacked: Report) -> None:
    visit = door.open(attacked.path)
    assert visit.page.locator("script, img, iframe, object, embed, form, base, link").count() == 0
    assert visit.page.evaluate(
        "[...document.querySelectorAll('*')].every(each => [...each.attributes].every(it => !it.name.startsWith('on')))"
    )
    assert "<script>alert(1)</script>" in visit.page.locator("main").inner_text()
    assert visit.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out(door: Door, every_kind: Report, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1, or 3 to 1 where large; in charts as well."""
    page = door.open(every_kind.path, scheme=scheme).page
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 21, 28)"
    assert dark == (scheme == "dark")
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    looked, poor = page.evaluate(CONTRAST)
    assert looked > 500
    assert poor == []


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_never_scrolls_sideways(door: Door, report: Report, width: int) -> None:
    page = door.open(report.path, size={**PHONE, "width": width}).page
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_phone_can_read_the_charts(door: Door, every_kind: Report) -> None:
    page = door.open(every_kind.path, size=PHONE).page
    sizes = page.evaluate(CHART_FONTS)
    assert len(sizes) > 50
    assert min(sizes) >= 9.5


def test_no_label_of_a_chart_lies_on_another(door: Door, report: Report) -> None:
    pairs, over = door.open(report.path).page.evaluate(CHART_LABELS)
    assert pairs > 100
    assert over == []


def test_links_lead_to_what_they_name(door: Door, report: Report) -> None:
    page = door.open(report.path).page
    lost = page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].filter(each => !document.getElementById("
        "decodeURIComponent(each.hash.slice(1)))).map(each => each.hash)"
    )
    assert lost == []
    assert page.locator("a:not([href])").count() == 0


def test_a_verdict_leads_to_its_evidence(door: Door, every_kind: Report) -> None:
    page = door.open(every_kind.path).page
    page.locator("table.matrix a").first.click()
    assert page.url.partition("#")[2].startswith("cell-")
    heading = page.locator(":target h3")
    box, bar = heading.bounding_box(), page.locator("nav").bounding_box()
    assert box is not None
    assert bar is not None
    assert bar["y"] + bar["height"] <= box["y"] < 900


def test_provenance_opens_where_a_link_leads(door: Door, every_kind: Report) -> None:
    page = door.open(every_kind.path).page
    page.locator("article.cell a", has_text="Provenance").first.click()
    target = page.locator("details:target")
    assert target.count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_structure_is_told_to_a_screen_reader(door: Door, report: Report) -> None:
    page = door.open(report.path).page
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(each => +each.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    assert page.locator("table:not(:has(> caption))").count() == 0
    assert page.locator("th:not([scope])").count() == 0
    assert page.get_by_role("img").count() == page.locator("svg").count() > 0
    names = page.get_by_role("img").evaluate_all(
        "all => all.map(each => each.getAttribute('aria-label') ?? each.getAttribute('aria-labelledby').split(' ')"
        ".map(id => document.getElementById(id).textContent).join(' '))"
    )
    assert all(len(name.strip()) > 10 for name in names)
    assert page.get_by_role("main").count() == page.get_by_role("navigation").count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"


def test_verdicts_are_words_and_signs_not_colours_alone(door: Door, every_kind: Report) -> None:
    page = door.open(every_kind.path).page
    words = set(page.locator(".chip").all_inner_texts())
    assert {"✓ PASS", "✗ FAIL", "? INCONCLUSIVE", "! INVALID"} <= words
    assert all(re.fullmatch(r"\S [A-Z ]+", word) for word in words)


def test_the_keyboard_reaches_and_opens_everything(door: Door, every_kind: Report) -> None:
    page = door.open(every_kind.path).page
    wanted = page.evaluate(
        "[...document.querySelectorAll('a, summary, .scroll')].filter(each => each.checkVisibility())"
        ".map((each, place) => each.dataset.place = String(place))"
    )
    reached = []
    for _ in wanted:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.dataset.place"))
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring != "none", f"focus on {page.evaluate('document.activeElement.outerHTML.slice(0, 80)')} is not seen"
    assert reached == wanted
    details = page.locator("details").first
    details.locator("summary").focus()
    assert details.get_attribute("open") is None
    page.keyboard.press("Enter")
    assert details.get_attribute("open") is not None
    assert details.locator("table, pre").first.is_visible()


def test_it_prints(door: Door, every_kind: Report) -> None:
    page = door.open(every_kind.path, scheme="dark", size={"width": 720, "height": 1000}).page
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) > 3
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    hidden = page.evaluate(
        "[...document.querySelectorAll('details > :not(summary)')].filter(each => !each.getBoundingClientRect().height)"
        ".map(each => each.outerHTML.slice(0, 80))"
    )
    assert hidden == []
    wide = page.evaluate(
        "[...document.querySelectorAll('table')].filter(each => each.getBoundingClientRect().right > innerWidth + 1)"
        ".map(each => each.caption.innerText + ': ' + each.getBoundingClientRect().right)"
    )
    assert wide == []


def same(shown: str, value: float | None) -> bool:
    """Three significant digits of a figure, or the sign for none."""
    if value is None:
        return shown.startswith("–")
    seen = number(shown)
    return seen == value or seen == pytest.approx(value, rel=0.0051)


def written(report: Report) -> list[Judgement]:
    """From the files of the runs, not from memory."""
    folders = {each.parent: each for each in report.path.parent.glob("*/judgement.json")}
    return [
        Judgement.model_validate_json(folders[report.path.parent / name].read_text()) for name in ("steady", "broken")
    ]


def test_the_numbers_are_those_of_judgement_json(door: Door, judged: Report) -> None:
    page = door.open(judged.path).page
    articles = page.locator("article.cell").evaluate_all("all => all.map(each => each.id)")
    checked = 0
    for article, found in zip(articles, written(judged), strict=True):
        assert page.locator(f"#{article} .chip").first.inner_text().endswith(found.verdict.value)
        assert page.locator(f"#{article} .lead").inner_text() == found.sentence
        for cells, check in zip(rows(page, article, "Every check of the SLA"), found.checks, strict=True):
            assert cells[0].startswith(check.text)
            assert cells[1].endswith(check.verdict.value)
            assert same(cells[2], check.value)
            assert same(cells[3].removeprefix("<"), check.limit)
            assert same(re.search(r"margin (.*)", cells[3])[1].lstrip("+"), check.margin)  # type: ignore[index]
            assert number(cells[5]) == check.violations
            assert number(re.search(r"of ([\d,]+)", cells[5])[1]) == check.samples  # type: ignore[index]
            checked += 6
        for cells, spread in zip(rows(page, article, "Percentiles of the judged"), found.distributions, strict=True):
            values = (spread.mean_ok, spread.p50, spread.p90, spread.p95, spread.p99, spread.p999, spread.max)
            assert [number(text) for text in cells[1:3]] == [spread.samples, spread.failures]
            assert all(same(text, value) for text, value in zip(cells[3:], values, strict=True))
            checked += 9
        for cells, outcome in zip(rows(page, article, "How requests ended"), found.outcomes, strict=True):
            assert number(cells[1]) == outcome.count
            assert same(cells[2], outcome.share)
            checked += 2
        said = facts(page, article)
        load = found.load
        assert number(said["Users N"]) == load.users
        assert same(said["Throughput X"], load.throughput_rps)
        assert same(said["Response time R"], load.response_s)
        assert same(said["In flight, mean"], load.in_flight_mean)
        assert same(said["Within the SLA"], found.slo_attainment)
        assert same(said["Goodput"], found.goodput_rps)
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        for cells, slow in zip(rows(page, article, "Slowest requests"), found.slowest, strict=True):
            assert cells[0] == slow.request_id
            assert same(cells[3], slow.took_s)
            checked += 2
    assert checked > 100


def test_the_numbers_are_those_of_capacity_json(door: Door, studied: Report) -> None:
    page = door.open(studied.path).page
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    checked = 0
    for path in sorted(studied.path.parent.glob("*/capacity.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        article = f"capacity-{found['scenario']}-{found['stack']}-users"
        levels = sorted(found["levels"], key=lambda each: each["load"])
        for cells, level in zip(rows(page, article, "Every level"), levels, strict=True):
            assert number(cells[0]) == level["load"]
            assert cells[1].splitlines()[0].endswith(level["verdict"])
            names = ("violating", "p50_s", "p95_s", "p99_s", "throughput_rps", "goodput_rps")
            assert all(same(text, level[name]) for text, name in zip(cells[2:8], names, strict=True))
            assert same(cells[8].lstrip("$"), level["usd_per_1000_good"])
            checked += 8
        for cells, figure in zip(rows(page, article, "What it costs"), found["sizing"]["figures"], strict=True):
            assert same(cells[1].lstrip("$"), figure["value"])
            checked += 1
        row = next(
            each for each in rows(page, "capacities", "How much each") if each[0].startswith(found["stack_title"])
        )
        plan = found["sizing"]["replicas"]
        assert number(row[1]) == found["interval"]["feasible"]
        assert number(row[1].partition("fails at ")[2]) == found["interval"]["infeasible"]
        assert same(row[2], plan["per_replica"] / plan["gpus_per_replica"])
        assert number(row[3]) == plan["needed"]
        assert same(row[4].lstrip("$"), found["sizing"]["usd_per_1000_good"])
        checked += 5
    assert checked > 60


def test_the_numbers_are_those_of_compare_json(door: Door, studied: Report) -> None:
    page = door.open(studied.path).page
    [path] = studied.path.parent.glob("*/compare.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    articles = page.locator("#comparisons article article").evaluate_all("all => all.map(each => each.id)")
    checked = 0
    for article, pair in zip(articles, found["pairs"], strict=True):
        assert page.locator(f"#{article} .lead").inner_text().lower() == f"{pair['sentence']}.".lower()
        told = {each["label"]: each for each in pair["differences"]}
        for cells in rows(page, article, "Each metric by itself"):
            each = told.pop(cells[0].splitlines()[0])
            assert cells[1].splitlines()[0].endswith(each["finding"])
            assert same(cells[2].lstrip("$"), each["a"])
            assert same(cells[3].lstrip("$"), each["b"])
            checked += 3
        assert told == {}
    assert checked > 40


def test_the_first_screen_leads_to_searches_and_comparisons(door: Door, studied: Report) -> None:
    page = door.open(studied.path).page
    lines = page.locator("ul.found a").all()
    assert len(lines) == 2 + 2
    for line in lines:
        line.click()
        assert page.locator(":target h3, :target h4").first.is_visible()


def test_the_numbers_can_be_taken_along(door: Door, judged: Report, tmp_path: Path) -> None:
    page = door.open(judged.path).page
    for place, name in enumerate(("steady", "broken")):
        with page.expect_download() as waiting:
            page.locator("article.cell").nth(place).locator("a[download]").click()
        waiting.value.save_as(tmp_path / name)
        taken: dict[str, Any] = json.loads(gzip.decompress((tmp_path / name).read_bytes()))
        assert taken == json.loads((judged.path.parent / name / "judgement.json").read_text())
    with page.expect_download() as waiting:
        page.locator(".take a[download]").click()
    assert waiting.value.suggested_filename == "checks.csv"
    waiting.value.save_as(tmp_path / "checks.csv")
    assert len((tmp_path / "checks.csv").read_text().splitlines()) == 1 + sum(
        len(each.checks) for each in judged.judgements
    )


def test_the_first_screen_answers_a_manager(door: Door, every_kind: Report) -> None:
    """A sentence with a pick for each scenario, and the matrix, before anything else."""
    page = door.open(every_kind.path).page
    for line in page.locator("article.headline").all():
        assert re.match(r"✓ PICK|– NO PICK", line.locator(".chip").inner_text())
        assert line.locator("p").last.is_visible()
    box = page.locator("table.matrix").bounding_box()
    assert box is not None
    assert box["y"] < 900
