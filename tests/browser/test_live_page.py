"""The live page in a real browser: legible, reachable, changed in place, and with the numbers of the snapshot."""

from __future__ import annotations

import itertools
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from werkzeug.serving import make_server

from harness.judgement import CheckResult, Distribution, Judgement
from harness.snapshot import LiveClient, Snapshot
from tests import factories
from tests.browser.conftest import DESKTOP, PHONE, Visit
from tests.browser.test_report_page import CONTRAST, number, rows, same
from tests.e2e.processes import (
    LOCUST,
    answers,
    assert_no_trace,
    events,
    free_port,
    in_phase,
    judgement_of,
    post,
    started,
)
from tests.live_stage import STACK, Stage
from tests.snapshots import attacked, snapshot

LATER = snapshot(factories.judgement("chatbot", STACK, median_s=1.8, failures=60))


class Live:
    """A stage that a browser can look at."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self.stage = Stage(folder)
        self._server = make_server("127.0.0.1", 0, self.stage.app, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self._browser = browser
        self._pages: list[Page] = []
        self.url = f"http://127.0.0.1:{self._server.server_port}/verdict"

    def visit(self, scheme: str = "light", size: dict[str, int] | None = None) -> Visit:
        visit = opened(self._browser, self.url, scheme, size)
        self._pages.append(visit.page)
        return visit

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def close(self) -> None:
        for page in self._pages:
            page.context.close()
        if self._thread.is_alive():
            self.stop()


def opened(browser: Browser, url: str, scheme: str = "light", size: dict[str, int] | None = None) -> Visit:
    context = browser.new_context(color_scheme=scheme, viewport=size or DESKTOP)  # type: ignore[arg-type]
    visit = Visit(context.new_page())
    visit.page.on("request", lambda request: visit.requests.append(request.url))
    visit.page.on("console", lambda message: visit.complaints.append(message.text))
    visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    visit.page.on("dialog", lambda dialog: (visit.complaints.append(dialog.message), dialog.dismiss()))
    visit.page.goto(url)
    return visit


@pytest.fixture
def live(chromium: Browser, tmp_path: Path) -> Iterator[Live]:
    live = Live(chromium, tmp_path)
    yield live
    live.close()


def tiles(page: Page) -> dict[str, str]:
    found: dict[str, str] = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('.tiles > div')]"
        ".map(each => [each.children[0].innerText, each.children[1].firstChild.textContent]))"
    )
    return found


def polled(page: Page) -> None:
    """Wait until the page has looked again."""
    with page.expect_response(lambda answer: answer.url.endswith("/verdict.json") and answer.ok):
        pass


def assert_shown(page: Page, found: Snapshot) -> None:
    said = tiles(page)
    assert same(said["Within the SLA"], found.slo_attainment)
    assert number(said["Judged"]) == found.judged
    assert number(said["Ended"]) == found.completed
    assert number(said["Failed"]) == found.failed
    assert number(said["In flight"]) == found.in_flight
    assert same(said["Throughput"], found.throughput_rps)
    assert said["Users"] == f"{found.users} of {found.users_asked}"
    assert_tables(page, found.checks, found.distributions)


def assert_tables(page: Page, checks: tuple[CheckResult, ...], distributions: tuple[Distribution, ...]) -> None:
    for cells, check in zip(rows(page, "checks", "Every check of the SLA"), checks, strict=True):
        assert cells[0].startswith(check.text)
        assert cells[1].endswith(check.verdict.value)
        assert same(cells[2], check.value)
        low, high = re.search(r"\n(.*) to (.*)", cells[2]).groups()  # type: ignore[union-attr]
        assert same(low, check.value_low)
        assert same(high, check.value_high)
        assert number(cells[5]) == check.violations
        assert number(re.search(r"of ([\d,]+)", cells[5])[1]) == check.samples  # type: ignore[index]
    for cells, spread in zip(rows(page, "percentiles", "Percentiles of the"), distributions, strict=True):
        values = (spread.mean_ok, spread.p50, spread.p90, spread.p95, spread.p99, spread.p999, spread.max)
        assert [number(text) for text in cells[1:3]] == [spread.samples, spread.failures]
        assert all(same(text, value) for text, value in zip(cells[3:], values, strict=True))


def test_the_numbers_are_the_snapshot_s_and_follow_it(live: Live) -> None:
    first = snapshot()
    live.stage.show(first)
    visit = live.visit()
    assert_shown(visit.page, first)
    live.stage.show(LATER)
    expect(visit.page.locator("[role=status]")).to_contain_text("FAIL so far; it may turn until the run ends")
    assert_shown(visit.page, LATER)
    assert visit.complaints == []
    assert {url.rpartition("/")[2] for url in visit.requests} == {"verdict", "verdict.json"}


def test_it_changes_in_place(live: Live) -> None:
    """Focus, scrolling and layout stay; a screen reader hears only of a change of phase or verdict."""
    live.stage.show(snapshot())
    page = live.visit(size=PHONE).page
    page.evaluate(
        "() => { window.heard = 0; new MutationObserver(() => { window.heard += 1; })"
        ".observe(document.querySelector('[role=status]'), {subtree: true, characterData: true, childList: true}); }"
    )
    table = page.locator("#checks .scroll")
    table.focus()
    table.evaluate("each => { each.scrollLeft = 120; }")
    before = page.locator("#percentiles").bounding_box()
    changed = snapshot(completed=9_999, in_flight=15)
    live.stage.show(changed)
    expect(page.locator(".tiles")).to_contain_text("9,999")
    assert page.locator("#percentiles").bounding_box() == before
    assert table.evaluate("each => [each.scrollLeft, each === document.activeElement]") == [120, True]
    assert page.evaluate("window.heard") == 0
    live.stage.show(changed, "tail")
    expect(page.locator("[role=status]")).to_contain_text("Tail.")
    assert page.evaluate("window.heard") > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out(live: Live, scheme: str) -> None:
    warned = LiveClient(hub_lag_p99_s=0.2, warnings=("its event loop ran late",))
    old = snapshot(client=warned)
    live.stage.show(old.model_copy(update={"written_at_s": old.written_at_s - 60}))
    visit = live.visit(scheme)
    dark = visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 21, 28)"
    assert dark == (scheme == "dark")
    looked, poor = visit.page.evaluate(CONTRAST)
    assert looked > 90
    assert poor == []
    assert visit.complaints == []


@pytest.mark.parametrize("phase", ["", "certify", "load", "done"])
def test_a_phone_never_scrolls_sideways(live: Live, phase: str) -> None:
    if phase == "done":
        live.stage.end(factories.judgement())
    elif phase:
        live.stage.show(attacked() if phase == "load" else snapshot(), phase)
    page = live.visit(size=PHONE).page
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_structure_is_told_to_a_screen_reader(live: Live) -> None:
    live.stage.show(snapshot())
    page = live.visit().page
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(each => +each.tagName[1])")
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    assert page.locator("table:not(:has(> caption)), th:not([scope])").count() == 0
    assert page.get_by_role("main").count() == page.get_by_role("banner").count() == 1
    assert page.get_by_role("status").count() == 1
    assert page.locator("[aria-current=step]").inner_text().endswith("load")
    assert re.fullmatch(r"\d+\ss of 50\ss", page.get_by_role("progressbar").get_attribute("aria-label") or "")
    names = page.get_by_role("img").evaluate_all("all => all.map(each => each.getAttribute('aria-label'))")
    assert len(names) == 2
    assert all("limit" in name for name in names)
    assert page.evaluate("document.documentElement.lang") == "en"


def test_the_keyboard_reaches_everything(live: Live) -> None:
    live.stage.end(factories.judgement())
    page = live.visit().page
    wanted = page.evaluate(
        "[...document.querySelectorAll('a, .scroll')].filter(each => each.checkVisibility())"
        ".map((each, place) => each.dataset.place = String(place))"
    )
    assert len(wanted) == 4
    for place in wanted:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.dataset.place") == place
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_the_end_leads_to_the_sealed_report(live: Live) -> None:
    judgement = factories.judgement("chatbot", STACK)
    live.stage.show(snapshot(judgement))
    visit = live.visit()
    assert visit.page.get_by_role("link", name="The sealed report").count() == 0
    live.stage.end(judgement)
    expect(visit.page.locator("[role=status]")).to_have_text(f"The run is over. {judgement.sentence}")
    assert visit.page.locator(".badge").all_inner_texts() == ["EMULATED"]
    assert_tables(visit.page, judgement.checks, judgement.distributions)
    visit.page.get_by_role("link", name="The sealed report").click()
    expect(visit.page.locator("article.cell .lead")).to_have_text(judgement.sentence)
    assert visit.complaints == []


def test_attacks_stay_texts(live: Live) -> None:
    live.stage.show(attacked())
    visit = live.visit()
    polled(visit.page)
    assert visit.page.locator("img[src], iframe, object, embed, form").count() == 0
    assert visit.page.locator("script").count() == 1
    assert "<script>alert(1)</script>" in visit.page.locator("main").inner_text()
    assert visit.complaints == []


def test_a_test_that_has_gone_is_said_to_have(live: Live) -> None:
    live.stage.show(snapshot())
    page = live.visit().page
    assert not page.get_by_role("alert").is_visible()
    live.stop()
    expect(page.get_by_role("alert")).to_be_visible(timeout=15_000)
    expect(page.get_by_role("alert")).to_contain_text("does not answer")


@pytest.mark.slow
def test_a_real_run_from_the_web_form_to_the_report(chromium: Browser, tmp_path: Path) -> None:
    port = free_port()
    url, run_dir, progress = f"http://127.0.0.1:{port}", tmp_path / "run", tmp_path / "progress.jsonl"
    own = ("-f", "locustfiles/chatbot.py", "--run-dir", run_dir, "--progress-file", progress, "--web-port", str(port))
    load = ("--stack", STACK, "-u", "4", "-t", "60", "--think-time", "0.3", "--output-tokens", "20")
    with started([*LOCUST, *own, *load], tmp_path) as ui:
        ui.until(lambda: answers(url), "a page")
        assert f"The verdict while a run lasts: {url}/verdict" in ui.err
        visit = opened(chromium, f"{url}/verdict")
        page = visit.page
        expect(page.locator("[role=status]")).to_contain_text("Ready: start a run on Locust's page")
        post(f"{url}/swarm", user_count=4, spawn_rate=4)
        ui.until(lambda: in_phase(progress, "load") and events(progress)[-1]["completed"] > 50, "samples")
        expect(page.locator("[aria-current=step]")).to_contain_text("load")
        expect(page.locator(".tiles")).to_contain_text("Judged", timeout=20_000)
        charts = opened(chromium, url)
        expect(charts.page.get_by_role("cell", name="Aggregated")).to_be_visible()
        charts.page.get_by_role("tab", name="Charts").click()
        expect(charts.page.locator("canvas").first).to_be_visible()
        charts.page.get_by_role("tab", name="SLA verdict").click()
        expect(charts.page.get_by_role("cell", name="All of it")).to_be_visible(timeout=10_000)
        charts.page.get_by_role("tab", name="Download Data").click()
        charts.page.get_by_role("link", name="Open the verdict's own page").click()
        expect(charts.page.locator("h1")).to_have_text("Verdict so far")
        stats: Any = charts.page.request.get(f"{url}/stats/requests").json()
        assert stats["state"] == "running"
        assert stats["stats"][-1]["num_requests"] > 50
        assert charts.page.request.post(f"{url}/stop", timeout=90_000).ok  # answers once the run is judged
        expect(page.locator("[role=status]")).to_contain_text("The run is over.", timeout=60_000)
        judgement: Judgement = judgement_of(run_dir)
        expect(page.locator("[role=status]")).to_contain_text(judgement.sentence)
        page.get_by_role("link", name="The sealed report").click()
        expect(page.locator("article.cell .lead")).to_have_text(judgement.sentence)
        assert visit.complaints == []
        for each in (visit, charts):
            each.page.context.close()
        ui.send(signal.SIGTERM)
        ended = ui.end()
    assert_no_trace(ended.out, ended.err)
    assert ended.code == judgement.verdict.exit_code
