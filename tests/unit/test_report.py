"""The page as a whole: complete, self-contained, harmless, and the same as last time."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from harness.audit import Audit
from harness.judgement import Judgement, Mark
from harness.plan import PlanRow
from harness.recommend import Recommendation
from reports import html
from reports.rendering import environment
from reports.written import write_reports
from tests import factories
from tests.conftest import Golden
from tests.hostile import HOSTILE, hostile

VOID = {"meta", "link", "br", "hr", "img", "input"}
CHARTLESS: dict[str, Any] = {"timeline": (), "curves": ()}


@dataclass
class Document(HTMLParser):
    """What a browser would find: elements, links, identifiers, text; and whether all that opens is closed."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""
    _open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data

    def values(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


def parse(page: str) -> Document:
    document = Document()
    document.feed(page)
    document.close()
    assert document._open == []
    return document


@pytest.fixture(scope="module")
def page() -> str:
    return html.render(
        factories.mixed(),
        [factories.recommendation(), factories.no_recommendation()],
        [factories.plan_row(), factories.plan_row(stack="7b-2xt4-vllm", expected="PASS", predicted=1.9)],
        "Nightly SLA verdicts",
        factories.audit(),
    )


def test_the_page_is_what_it_was(page: str, golden: Golden) -> None:
    # Charts and the style sheet have their own looks; here is what the page says.
    said = re.sub(r'(<svg class="chart".*?</desc>).*?</svg>', r"\1…</svg>", page, flags=re.DOTALL)
    said = re.sub(r"<style>.*?</style>", "<style>…</style>", said, flags=re.DOTALL)
    said = re.sub(r"(base64,)[A-Za-z0-9+/=]+", r"\1…", said)
    golden("report/page.html", said + "\n")


def test_rendering_twice_gives_the_same_text(page: str) -> None:
    again = html.render(
        factories.mixed(),
        [factories.recommendation(), factories.no_recommendation()],
        [factories.plan_row(), factories.plan_row(stack="7b-2xt4-vllm", expected="PASS", predicted=1.9)],
        "Nightly SLA verdicts",
        factories.audit(),
    )
    assert again == page


def test_nothing_is_fetched_and_nothing_runs(page: str) -> None:
    document = parse(page)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert {"http-equiv": "Content-Security-Policy", "content": policy} in [found for _, found in document.tags]
    assert all(link.startswith(("#", "data:")) for link in document.values("href"))
    carried = [found for tag, found in document.tags if (found.get("href") or "").startswith("data:")]
    kinds = re.compile(r"data:(application/gzip|text/csv);base64,[A-Za-z0-9+/=]+")
    assert all(kinds.fullmatch(found["href"] or "") for found in carried)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", found["download"] or "") for found in carried)
    assert document.values("src") == document.values("srcset") == document.values("action") == []
    assert "url(" not in page
    assert "@import" not in page
    assert "://" not in page
    assert {"script", "link", "iframe", "object", "base", "form", "foreignobject"}.isdisjoint(
        {tag for tag, _ in document.tags}
    )
    assert not [name for _, attributes in document.tags for name in attributes if name.startswith("on")]


def test_links_lead_somewhere_and_identifiers_are_unique(page: str) -> None:
    document = parse(page)
    identifiers = document.values("id")
    assert len(identifiers) == len(set(identifiers))
    links = {link.removeprefix("#") for link in document.values("href") if link.startswith("#")}
    assert links <= set(identifiers)
    named = {name for value in document.values("aria-labelledby") for name in value.split()}
    assert named <= set(identifiers)


def test_headings_captions_and_images_are_named(page: str) -> None:
    document = parse(page)
    levels = [int(tag[1]) for tag, _ in document.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    tags = [tag for tag, _ in document.tags]
    assert tags.count("caption") == tags.count("table") > 0
    images = [attributes for tag, attributes in document.tags if tag == "svg"]
    assert images
    assert all(image["role"] == "img" and {"aria-label", "aria-labelledby"} & image.keys() for image in images)


def test_the_first_screen_counts_every_verdict(page: str) -> None:
    assert 'aria-label="6 cells: 1 PASS, 3 FAIL, 1 INCONCLUSIVE, 1 INVALID"' in page
    for word in ("✓</span> PASS", "✗</span> FAIL", "?</span> INCONCLUSIVE", "!</span> INVALID"):
        assert word in page


def test_a_page_without_anything_still_opens() -> None:
    document = parse(html.render([], title="Nothing yet"))
    assert "Nothing yet" in document.text
    assert "How to read this" in document.text


def test_a_cell_that_never_got_load_has_a_section() -> None:
    text = parse(html.render([factories.unloaded()])).text
    assert "Does not fit: 26.0 GB of weights in 13.5 GB of usable memory." in text
    assert "No load was sent." in text


def section(page: str, name: str) -> str:
    return page.partition(f'<section id="{name}"')[2].partition('<section id="')[0]


@pytest.mark.parametrize("name", ["summary", "recommendations", "claims", "evidence"])
def test_marks_are_where_numbers_are(name: str) -> None:
    marked = factories.replayed(stack="13b-a100-vllm", median_s=0.9, **CHARTLESS)
    advice = factories.recommendation(runner_up=None, ties=(), dropped={})
    claims = factories.audit(stack="13b-a100-vllm", marks=marked.marks)
    found = section(html.render([marked], [advice], audit=claims), name)
    assert found.count(">EMULATED<") >= 1
    assert found.count(">CLAIM REPLAYED<") >= 1


def test_a_pick_on_a_claim_says_so_in_the_same_sentence() -> None:
    advice = factories.recommendation(sentence="Take the API.", rests_on_claim=True)
    page = html.render([factories.judgement(**CHARTLESS)], [advice])
    assert page.count("Take the API; this rests on a replayed claim, which its own measurement cannot confirm.") == 2


def test_no_pick_names_the_nearest_and_its_gap(page: str) -> None:
    found = section(page, "recommendations")
    assert "p95(e2e) is 800 ms, 60% over the limit" in found
    assert "13b-int8-2xa100-trtllm" in found


def test_two_runs_of_one_cell_are_both_shown() -> None:
    twice = [factories.judgement(run="a", **CHARTLESS), factories.judgement(run="b", median_s=1.8, **CHARTLESS)]
    document = parse(html.render(twice))
    assert {"cell-support-chatbot-7b-t4-vllm", "cell-support-chatbot-7b-t4-vllm_2"} <= set(document.values("id"))
    assert "run 2" in document.text


def test_an_invalid_run_shows_its_reason_and_decides_nothing() -> None:
    page = html.render([factories.invalid(**CHARTLESS)])
    assert "use more workers" in section(page, "summary")
    assert "p95(e2e)" not in section(page, "summary")
    assert "The run is invalid, so these checks decide nothing." in section(page, "evidence")


def test_failures_rank_as_infinity() -> None:
    check = factories.latency_check().model_copy(
        update={"value": math.inf, "value_high": math.inf, "margin": -math.inf}
    )
    page = html.render([factories.judgement(checks=(check,), **CHARTLESS)])
    assert "∞ (failed or unfinished)" in page
    assert "−∞" in page


def assert_harmless(page: str) -> None:
    test_nothing_is_fetched_and_nothing_runs(page)
    test_links_lead_somewhere_and_identifiers_are_unique(page)
    page.encode("utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)
    assert "49&amp;" not in page
    document = parse(page)
    assert "<script>alert(1)</script>" in document.text
    assert "\\u202e" in document.text


def test_foreign_texts_stay_texts() -> None:
    cells = [Judgement(**hostile(each.model_dump())) for each in factories.mixed()]
    assert {each.scenario for each in cells} != {each.scenario for each in factories.mixed()}
    advice = [
        Recommendation(**hostile(each.model_dump()))
        for each in (factories.recommendation(), factories.no_recommendation())
    ]
    rows = [PlanRow(**hostile(factories.plan_row().model_dump()))]
    claims = Audit.model_validate(hostile(factories.audit().model_dump()))
    assert_harmless(html.render(cells, advice, rows, HOSTILE, claims))


def test_a_line_of_megabytes_is_cut() -> None:
    cell = factories.judgement(
        sentence="x" * 10_000, notes=("y" * 10_000,), server_log_tail=("z" * 10_000,) * 50, **CHARTLESS
    )
    page = html.render([cell])
    assert "x" * 2000 + " … (8,000 more characters)" in page
    assert "z" * 400 + " … (9,600 more characters)" in page
    assert len(page) < 300_000


def test_fifteen_cells_stay_small() -> None:
    cells = [factories.judgement(f"scenario-{a}", f"stack-{b}", failures=60) for a in range(3) for b in range(5)]
    assert len(html.render(cells).encode()) < 2_000_000


def test_templates_compute_nothing() -> None:
    templates = environment()
    with pytest.raises(TypeError, match="format it in the view"):
        templates.from_string("{{ number }}").render(number=1.5)
    with pytest.raises(UndefinedError):
        templates.from_string("{{ nobody }}").render()


def test_the_reports_lie_beside_each_other(tmp_path: Path) -> None:
    path = write_reports(tmp_path / "new" / "report.html", [factories.unloaded()], title="Once")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert {each.name for each in path.parent.iterdir()} == {"report.html", "verdict.md", "junit.xml"}


def test_marks_of_every_kind_are_explained(page: str) -> None:
    found = section(page, "reading")
    assert all(f">{mark.value}<" in found for mark in Mark)
    for code in ("0", "99", "98", "97"):
        assert f"exit code {code}<" in found
