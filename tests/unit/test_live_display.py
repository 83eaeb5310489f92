"""What ``harness run`` shows while cells run: live at 80 and 140 columns, and as lines where nobody looks."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness import live, live_plain
from harness.catalog import load_catalog
from harness.cell import Cell
from harness.errors import ExitCode
from harness.judgement import CheckResult, Judgement, Verdict
from harness.live_checks import ASCII, UNICODE, bar, check_line, short_need
from harness.live_display import LiveDisplay, progress_display
from harness.matrix import Options, build_cells
from harness.phases import passed_s
from harness.run import CellProgress
from harness.snapshot import LiveClient, write_snapshot
from reports.live_view import leading
from reports.terminal import verdict_line
from tests import factories
from tests.hostile import HOSTILE
from tests.snapshots import snapshot

STACKS = ("vllm-7b-int8-a100", "vllm-7b-t4", "vllm-13b-a100", "trtllm-13b-int8-2xa100")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Cell]:
    """Eight cells of the catalog, each with a directory for its snapshots."""
    found = build_cells(
        load_catalog(),
        Options(scenarios=("chatbot", "content"), stacks=STACKS, run_dir=tmp_path_factory.mktemp("cells")),
    )
    for cell in found:
        cell.run_dir.mkdir(parents=True)
    return found


def loading(cell: Cell, **event: Any) -> CellProgress:
    facts = {"phase": "load", "elapsed_s": 34.0, "of_s": 64.0, "users": 20, "completed": 812, "failed": 3}
    return CellProgress(cell, state="running", event={**facts, **event})


def judged(cell: Cell, judgement: Judgement) -> CellProgress:
    return CellProgress(cell, state="judged", exit_code=judgement.verdict.exit_code, judgement=judgement)


def shown(display: LiveDisplay, width: int, height: int = 24, **options: Any) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, record=True, **options)
    console.print(display)
    return console.export_text(clear=False).rstrip("\n").split("\n")


def check(verdict: Verdict) -> CheckResult:
    medians = {Verdict.PASS: 0.9, Verdict.FAIL: 1.8, Verdict.INCONCLUSIVE: 1.13}
    found = factories.latency_check(median_s=medians[verdict], samples=812)
    assert found.verdict is verdict
    return found


@pytest.mark.parametrize("width", [80, 140])
def test_one_cell_is_shown_in_full(cells: list[Cell], width: int) -> None:
    found_so_far = factories.judgement("chatbot", STACKS[0], median_s=1.13, samples=812)
    warned = LiveClient(hub_lag_p99_s=0.031, warnings=("the event loop runs late",))
    write_snapshot(cells[0].run_dir, snapshot(found_so_far, client=warned))
    display = LiveDisplay(cells[:1])
    display.update(loading(cells[0]))
    lines = shown(display, width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert "0 of 1 cells done" in lines[0]
    assert "? chatbot on vllm-7b-int8-a100" in text
    assert "✓ warm-up ▸ load tail" in text
    assert "Not decided yet" in text
    assert "14 in flight" in text
    assert "this would make it INVALID: the event loop runs late" in text
    for found in found_so_far.checks:
        assert any(line.strip().startswith(("?", "✓", "✗")) and found.text.split()[0] in line for line in lines)
    primary = found_so_far.checks[0]
    row = next(line for line in lines if primary.text in line and "●" in line)
    assert "│" in row
    assert "812" in row
    assert ("about 1,800 more requests" if width == 140 else "~1,800") in " ".join(text.split())
    assert f"{primary.violations}" in row


@pytest.mark.parametrize("width", [80, 140])
def test_eight_cells_fit_side_by_side(cells: list[Cell], width: int) -> None:
    display = LiveDisplay(cells)
    for cell in cells:
        write_snapshot(cell.run_dir, snapshot(factories.judgement(median_s=1.13)))
        display.update(loading(cell))
    lines = shown(display, width)
    assert len(lines) == 1 + 2 * 8 <= 24
    assert max(map(len, lines)) <= width
    assert sum("p95(e2e) < 2 s" in line and "│" in line for line in lines) == 8
    assert not any("error_rate" in line for line in lines)


def test_many_that_are_over_never_push_the_running_ones_off_the_screen(cells: list[Cell]) -> None:
    display = LiveDisplay(cells)
    write_snapshot(cells[7].run_dir, snapshot())
    display.update(loading(cells[7]))
    for cell in cells[:6]:
        display.update(judged(cell, factories.judgement()))
    lines = shown(display, 80, height=16)
    assert len(lines) <= 16
    assert "6 of 8 cells done" in lines[0]
    assert "1 waiting" in lines[0]
    assert "5 done before these" in lines[0]
    assert any("✓ PASS" in line for line in lines)
    assert any("error_rate" in line for line in lines)


def test_a_server_that_is_being_installed_says_so(cells: list[Cell]) -> None:
    display = LiveDisplay(cells[1:2])
    starting = {"phase": "server", "note": f"installing vllm {HOSTILE}", "elapsed_s": None}
    display.update(CellProgress(cells[1], state="running", event=starting))
    lines = shown(display, 80)
    assert max(map(len, lines)) <= 80
    assert any("installing vllm" in line for line in lines)
    assert "\x1b" not in "".join(lines).replace("\\u001b", "")


def test_colour_says_nothing_that_words_and_signs_do_not(cells: list[Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    display = LiveDisplay(cells[:1])
    write_snapshot(cells[0].run_dir, snapshot())
    display.update(loading(cells[0]))
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    console.print(display)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert not {"\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[1;32m"} & set(written.split("m"))
    assert "PASS so far; it may turn until the run ends" in written


@pytest.mark.parametrize(
    ("verdict", "limit_stands"),
    [
        (Verdict.PASS, lambda text: text.rindex("━") < text.index("│")),
        (Verdict.FAIL, lambda text: text.index("│") < text.index("━")),
        (Verdict.INCONCLUSIVE, lambda text: text.index("━") <= text.index("│") + 1 and text.count("│") == 1),
    ],
)
def test_a_bar_shows_on_which_side_of_the_limit_the_interval_is(
    verdict: Verdict, limit_stands: Callable[[str], bool]
) -> None:
    text = bar(check(verdict), 40).plain
    assert len(text) == 40
    assert limit_stands(text), text
    assert set(text) <= set(UNICODE)
    assert set(bar(check(verdict), 40, ASCII).plain) <= set(ASCII)


def test_what_is_not_finite_or_not_there_is_drawn_as_such() -> None:
    failed = check(Verdict.FAIL).model_copy(update={"value": float("inf"), "value_high": float("inf")})
    assert bar(failed, 12).plain.endswith("▸")
    empty = failed.model_copy(update={"value": None, "violations": None, "samples": 0})
    assert bar(empty, 12).plain == " " * 12
    assert "–" in check_line(empty, 80).plain


def test_what_decides_is_said_in_few_words() -> None:
    said = {verdict: short_need(check(verdict)) for verdict in (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE)}
    assert said == {Verdict.PASS: "decided", Verdict.FAIL: "decided", Verdict.INCONCLUSIVE: "~1,800 more"}
    assert short_need(check(Verdict.INCONCLUSIVE).model_copy(update={"at_limit": True})) == "at the limit"
    assert short_need(check(Verdict.PASS).model_copy(update={"verdict": Verdict.NOT_MEASURED})) == "not measured"


def test_the_leading_check_is_the_one_that_decides() -> None:
    checks = tuple(check(verdict) for verdict in (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL))
    assert leading(checks) == checks[2]
    assert leading(checks[:2]) == checks[1]
    assert leading(()) is None


def test_phases_have_a_length_where_one_is_known() -> None:
    lengths = {"warm_up_s": 10.0, "run_time_s": 60.0, "tail_s": 2.0}
    assert passed_s("warm-up", 4.0, **lengths) == (4.0, 10.0)
    assert passed_s("load", 34.0, **lengths) == (24.0, 50.0)
    assert passed_s("tail", 99.0, **lengths) == (2.0, 2.0)
    assert passed_s("seal", 70.0, **lengths) is None
    assert passed_s("load", None, **lengths) is None


@pytest.mark.parametrize("terminal", [False, True])
def test_without_a_real_terminal_there_are_lines(
    cells: list[Cell], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    now = [100.0]
    monkeypatch.setattr(live_plain.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("TERM", "dumb")
    out = io.StringIO()
    write_snapshot(cells[0].run_dir, snapshot(factories.judgement(median_s=1.13)))
    with progress_display(Console(file=out, force_terminal=terminal, width=80), cells[:1]) as display:
        for second in range(41):
            now[0] = 100.0 + second
            display.update(loading(cells[0], elapsed_s=float(second)))
        display.update(judged(cells[0], factories.judgement()))
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert [line.split(",")[0] for line in lines if "of 64 s" in line] == [
        f"chatbot on vllm-7b-int8-a100: load {second} of 64 s" for second in (0, 10, 20, 30, 40)
    ]
    stood = [line for line in lines if "Not decided yet" in line]
    assert len(stood) == 1
    assert "p95(e2e) < 2 s" in stood[0]
    assert "allowed" in stood[0]
    assert "more requests" in stood[0]
    assert lines[-1].startswith("chatbot on vllm-7b-int8-a100: PASS")


def test_quiet_says_nothing(cells: list[Cell]) -> None:
    out = io.StringIO()
    with progress_display(Console(file=out, force_terminal=True), cells, quiet=True) as display:
        display.update(loading(cells[0]))
    assert out.getvalue() == ""


def test_a_snapshot_that_is_cut_off_is_passed_over(cells: list[Cell], tmp_path: Path) -> None:
    cell = cells[2].model_copy(update={"run_dir": tmp_path})
    (tmp_path / "live.json").write_text('{"format": 1, "run"')
    display = LiveDisplay([cell])
    display.update(loading(cell))
    assert any("812 req" in line for line in shown(display, 80))


@pytest.mark.parametrize("as_json", [False, True])
def test_quiet_leaves_a_line_a_verdict(
    cells: list[Cell], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    found = [factories.judgement("chatbot", STACKS[0]), factories.judgement("chatbot", STACKS[1], median_s=1.8)]
    progress = [judged(cell, judgement) for cell, judgement in zip(cells, found, strict=False)]
    monkeypatch.setattr(live, "run_cells", lambda cells, update: progress)
    assert live.show_run(load_catalog(), cells[:2], as_json=as_json, quiet=True) == ExitCode.FAIL
    out, err = capsys.readouterr()
    assert err == ""
    if as_json:
        assert [each["verdict"] for each in json.loads(out)["cells"]] == ["PASS", "FAIL"]
    else:
        assert out.splitlines() == [verdict_line(each) for each in found]
