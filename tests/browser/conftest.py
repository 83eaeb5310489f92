"""A real Chromium without a network, and pages for it: one of real judgements, one of every kind, one of attacks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from harness.capacity_log import write_capacity
from harness.compare_log import write_comparison
from harness.judge import judge, write_judgement
from harness.judgement import Judgement, Verdict
from harness.recommend import Recommendation
from harness.recorded import find
from reports.written import write_reports
from tests import factories
from tests.hostile import hostile
from tests.runs import Loop, failed, load, loop_run, sample, scenario, write_run
from tests.unit.test_capacity_page import level, record
from tests.unit.test_compare_page import comparison

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("no chromium here: make test-browser installs it where it may, or apt-get install chromium")
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=path, args=[*ARGUMENTS])
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page that is open, and everything that it did besides being there."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """Console messages, uncaught errors and dialogs."""


@dataclass
class Door:
    """Opens files without a network."""

    browser: Browser
    _opened: list[Page] = field(default_factory=list)

    def open(self, path: Path, *, scheme: str = "light", size: dict[str, int] | None = None) -> Visit:
        context = self.browser.new_context(
            color_scheme=scheme,  # type: ignore[arg-type]
            viewport=size or DESKTOP,  # type: ignore[arg-type]
            offline=True,
        )
        page = context.new_page()
        self._opened.append(page)
        visit = Visit(page)
        page.route("**/*", lambda route: route.continue_() if route.request.url == path.as_uri() else route.abort())
        page.on("request", lambda request: visit.requests.append(request.url))
        page.on("console", lambda message: visit.complaints.append(message.text))
        page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (visit.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(path.as_uri())
        return visit

    def close(self) -> None:
        for page in self._opened:
            page.context.close()


@pytest.fixture
def door(chromium: Browser) -> Iterator[Door]:
    door = Door(chromium)
    yield door
    door.close()


@dataclass(frozen=True)
class Report:
    path: Path
    judgements: tuple[Judgement, ...]


@pytest.fixture(scope="session")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """All verdicts and marks, telemetry of several GPUs, claims, a plan, recommendations."""
    cells = (*factories.mixed(), factories.judgement("translation", "gpus", telemetry=factories.telemetry(gpus=4)))
    rows = [factories.plan_row(), factories.plan_row(stack="7b-2xt4-vllm", expected="PASS", predicted=1.9)]
    advice = [factories.recommendation(), factories.no_recommendation()]
    path = tmp_path_factory.mktemp("every-kind") / "report.html"
    return Report(write_reports(path, cells, advice, rows), cells)


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Two runs from samples to judgement.json to the page, as ``harness report`` goes; one of them has failures."""
    folder = tmp_path_factory.mktemp("judged")
    loop_run(folder / "steady", Loop())
    samples = [sample(10 + place / 4, 0.5 + (place % 50) / 20, user=place) for place in range(300)]
    samples += [failed(20 + place, 0.3, user=400 + place) for place in range(9)]
    write_run(folder / "broken", samples, scenario(), load(users_asked=309, users_reached=309))
    cells = []
    for name in ("steady", "broken"):
        cells.append(judge(folder / name))
        write_judgement(folder / name, cells[-1])
    return Report(write_reports(folder / "report.html", cells), tuple(cells))


@pytest.fixture(scope="session")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Two cells, two capacity searches and a comparison, read back from their files."""
    medians = {"one-a100": 0.9, "two-a100": 1.4}
    cells = tuple(factories.judgement("chatbot", name, median_s=median) for name, median in medians.items())
    folder = tmp_path_factory.mktemp("studied")
    small = (level(10, Verdict.PASS, 0.0, 1.1), level(20, Verdict.FAIL, 0.4, 3.0))
    write_capacity(folder / "a", record(stack="one-a100", stack_title="One A100"))
    write_capacity(folder / "b", record(small, stack="two-a100", stack_title="Two A100"))
    write_comparison(folder / "c", comparison())
    studies = find([folder]).studies()
    return Report(write_reports(folder / "report.html", cells, studies=studies), cells)


@pytest.fixture(scope="session")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Every free text of every record attacks the page."""
    cells = tuple(Judgement(**hostile(each.model_dump())) for each in factories.mixed())
    advice = [
        Recommendation(**hostile(each.model_dump()))
        for each in (factories.recommendation(), factories.no_recommendation())
    ]
    path = tmp_path_factory.mktemp("attacked") / "report.html"
    return Report(write_reports(path, cells, advice), cells)
