"""The audit as a page, on a terminal, in a pipe and as a command."""

from __future__ import annotations

import io
import json
from datetime import date
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from harness.audit import Audit, audit
from harness.audit.lines import AuditLine, Standing
from harness.catalog import load_catalog
from harness.cli import app
from harness.judge import write_judgement
from harness.judgement import Mark
from harness.matrix import report_of
from harness.runlog import MANIFEST
from reports import audit as page
from reports.rendering import render_page
from tests.conftest import Golden
from tests.unit.recommend_support import judged
from tests.unit.test_report import HOSTILE, parse


@pytest.fixture(scope="module")
def seed() -> Audit:
    return audit(load_catalog(), date(2026, 11, 23))


def shown(found: Audit, *, tty: bool) -> str:
    out = io.StringIO()
    page.print_audit(Console(file=out, force_terminal=tty, width=140, color_system=None), found)
    return out.getvalue()


def test_the_table_of_the_scenario_analysis_is_what_it_was(seed: Audit, golden: Golden) -> None:
    golden("report/audit.txt", shown(seed, tty=False))


def test_a_terminal_gets_a_table_for_each_scenario(seed: Audit) -> None:
    text = shown(seed, tty=True)
    assert "✗ IMPOSSIBLE 11.0 times" in text
    assert "at least 8.78" in text
    assert "28 claims: 7 impossible, 10 inconsistent, 6 unproven, 5 plausible" in text


def test_every_line_is_on_the_page_which_fetches_nothing(seed: Audit) -> None:
    text = render_page("audit.html.j2", page.build(seed))
    document = parse(text)
    assert document.values("href") == document.values("src") == []
    assert {"script", "link", "iframe", "form"}.isdisjoint({tag for tag, _ in document.tags})
    assert "://" not in text
    for line in seed.lines:
        assert line.sentence in document.text
        assert all(step in document.text for step in line.arithmetic)
    assert all(standing.value in document.text for standing in Standing)


def test_a_page_without_claims_still_opens() -> None:
    assert "Nothing was claimed." in parse(render_page("audit.html.j2", page.build(Audit(lines=())))).text


def test_foreign_texts_stay_texts() -> None:
    line = AuditLine(
        scenario=HOSTILE,
        stack=HOSTILE,
        title=HOSTILE,
        subject="latency",
        standing=Standing.UNPROVEN,
        sentence=HOSTILE,
        arithmetic=(HOSTILE,),
        marks=(Mark.EMULATED,),
    )
    found = Audit(lines=(line,), notes=(HOSTILE,))
    document = parse(render_page("audit.html.j2", page.build(found)))
    assert "script" not in {tag for tag, _ in document.tags}
    assert "<script>alert(1)</script>" in document.text
    for tty in (True, False):
        assert "\x1b[31m" not in shown(found, tty=tty)


def test_the_report_of_a_run_holds_the_claims_and_the_advice(tmp_path: Path) -> None:
    cells = [judged("vllm-13b-a100"), judged("openai-gpt4", value=1.5)]
    text = report_of(cells, tmp_path / "report.html", load_catalog()).read_text(encoding="utf-8")
    document = parse(text)
    for said in (
        "0.6 s for 200 tokens cannot be",  # ran
        "0.8 s for 200 tokens cannot be",  # did not run
        "20% more users (120)",
        "13B on one A100, vLLM in place of GPT-4, OpenAI API: cheaper from",
        "What physics expected",
    ):
        assert said in document.text
    claims = text.partition('<section id="claims"')[2].partition("<section")[0]
    assert 'href="#cell-chatbot-vllm-13b-a100"' in claims


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command_ends_well_unless_strict() -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["audit", "chatbot"]).exit_code == 0
    assert runner.invoke(app, ["audit", "chatbot", "--strict"]).exit_code == 99
    possible = runner.invoke(app, ["audit", "translation", "--stack", "trtllm-13b-2xa100", "--strict"])
    assert possible.exit_code == 0


def test_the_command_writes_json_and_a_page(tmp_path: Path) -> None:
    output = tmp_path / "new" / "audit.html"
    ended = CliRunner().invoke(app, ["audit", "content", "--json", "--output", str(output)])
    document = json.loads(ended.stdout)
    assert document["summary"] == "8 claims: 2 impossible, 4 inconsistent, 1 unproven, 1 plausible"
    assert [line["standing"] for line in document["lines"] if line["stack"] == "vllm-7b-t4"] == [
        "IMPOSSIBLE",
        "INCONSISTENT",
        "INCONSISTENT",
    ]
    assert output.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert list(output.parent.iterdir()) == [output]


def test_the_command_reads_recorded_runs(tmp_path: Path) -> None:
    directory = tmp_path / "runs" / "one"
    directory.mkdir(parents=True)
    (directory / MANIFEST).write_text("{}", encoding="utf-8")
    write_judgement(directory, judged("vllm-13b-a100", value=1.0))
    ended = CliRunner().invoke(app, ["audit", "chatbot", "--json", "--runs", str(tmp_path / "runs")])
    [users] = [
        line
        for line in json.loads(ended.stdout)["lines"]
        if (line["stack"], line["subject"]) == ("vllm-13b-a100", "users")
    ]
    assert users["measured"] == 100
