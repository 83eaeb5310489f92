"""The routes of the live page: what they say, what they serve, and what they keep to themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ExitCode
from harness.judgement import Verdict
from harness.snapshot import LiveClient
from tests import factories
from tests.hostile import HOSTILE
from tests.live_stage import Stage
from tests.snapshots import attacked, snapshot


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def state(stage: Stage, path: str = "/verdict.json") -> dict[str, Any]:
    answer = stage.app.test_client().get(path)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    found: dict[str, Any] = json.loads(answer.data)
    return found


def test_before_the_first_run_it_says_where_to_start_one(stage: Stage) -> None:
    found = state(stage)
    assert found["verdict"] is None
    assert not found["over"]
    assert found["run"] == ""
    assert "start a run on Locust&#39;s page" in found["body"]
    assert "NO RUN" in found["body"]


def test_a_run_is_shown_with_the_words_that_it_may_turn(stage: Stage) -> None:
    stage.show(snapshot())
    found = state(stage)
    assert (found["phase"], found["verdict"]) == ("load", "PASS")
    assert "PASS so far; it may turn until the run ends" in found["body"]
    assert found["title"] == "PASS so far · chatbot"
    assert 'aria-current="step"' in found["body"]


def test_nothing_judged_is_no_verdict(stage: Stage) -> None:
    stage.show(snapshot(judged=0, verdict=Verdict.INCONCLUSIVE, checks=(), distributions=()), "warm-up")
    body = state(stage)["body"]
    assert "Nothing is judged yet" in body
    assert "NOT YET" in body
    assert "INCONCLUSIVE" not in body


def test_what_would_make_it_invalid_is_said(stage: Stage) -> None:
    stage.show(snapshot(client=LiveClient(hub_lag_p99_s=0.2, warnings=("its event loop ran late by 200 ms at p99",))))
    body = state(stage)["body"]
    assert "The run would be INVALID if this stayed so" in body
    assert "its event loop ran late by 200 ms at p99" in body


def test_old_figures_are_said_to_be_old(stage: Stage) -> None:
    stage.show(snapshot())
    assert "old." not in state(stage)["body"]
    seen = snapshot()
    stage.show(seen.model_copy(update={"written_at_s": seen.written_at_s - 60}))
    assert "These figures are 60\u00a0s old." in state(stage)["body"]


def test_the_last_run_s_figures_are_not_the_next_one_s(stage: Stage) -> None:
    stage.show(snapshot(), "spawn")
    assert "Figures come once all users are up" in state(stage)["body"]


def test_the_end_is_the_judgement_and_its_report(stage: Stage) -> None:
    judgement = factories.judgement(median_s=1.8, failures=60)
    stage.show(snapshot())
    assert state(stage)["report"] == ""
    stage.end(judgement)
    found = state(stage)
    assert found["over"]
    assert found["verdict"] == judgement.verdict == "FAIL"
    assert found["sentence"] == judgement.sentence
    assert found["report"] == f"runs/{stage.cell.run}/report.html"
    report = stage.app.test_client().get(f"/{found['report']}")
    assert report.status_code == 200
    assert report.data == (stage.cell.run_dir / "report.html").read_bytes()


def test_a_run_that_could_not_be_made_says_so(stage: Stage) -> None:
    stage.environment.process_exit_code = ExitCode.SERVER
    assert "There is no verdict (exit code 3): the terminal says why" in state(stage)["sentence"]


def test_only_reports_of_this_process_are_served(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.html").write_text("somebody else's")
    stage.end(factories.judgement())
    run, client = stage.cell.run, stage.app.test_client()
    assert client.get(f"/runs/{run}/report.html").status_code == 200
    for path in (
        "/runs/other/report.html",
        "/runs/../other/report.html",
        "/runs/..%2fother/report.html",
        "/runs/%2e%2e/report.html",
        f"/runs/{run}/../../other/report.html",
        f"/runs/{run}/manifest.json",
        f"/runs/{run}/samples.parquet",
        f"/runs/{run}/report.html/../judgement.json",
        f"/runs//{run}/report.html",
        f"/runs/{tmp_path}/other/report.html",
    ):
        answer = client.get(path)
        assert answer.status_code in (404, 308), path
        assert b"somebody" not in answer.data


def test_locust_s_own_page_gets_a_tab_a_link_and_keeps_what_others_added(stage: Stage) -> None:
    stage.show(snapshot())
    arguments = stage.web_ui.template_args
    assert [each["title"] for each in arguments["extended_tabs"]] == ["Mine", "SLA verdict"]
    assert arguments["extended_csv_files"][-1]["href"] == "./verdict"
    keys = [each["key"] for each in arguments["extended_tables"][-1]["structure"]]
    answer = json.loads(stage.app.test_client().get("/stats/requests").data)
    mine, ours = answer["extended_stats"]
    assert mine == {"key": "mine"}
    assert ours["key"] == arguments["extended_tables"][-1]["key"]
    assert [row["name"] for row in ours["data"]] == ["All of it", "p95(e2e) < 2 s", "error_rate < 1 %"]
    assert all(list(row) == keys for row in ours["data"])
    assert "PASS so far" in ours["data"][0]["verdict"]


def test_it_lies_behind_locust_s_login(tmp_path: Path) -> None:
    def refused(view: Any) -> Any:
        def instead(*_: Any, **__: Any) -> tuple[str, int]:
            return "log in", 401

        instead.__name__ = view.__name__
        return instead

    stage = Stage(tmp_path, guard=refused)
    stage.end(factories.judgement())
    for path in ("/verdict", "/verdict.json", f"/runs/{stage.cell.run}/report.html"):
        assert stage.app.test_client().get(path).status_code == 401, path


def test_it_lies_under_locust_s_base_path(tmp_path: Path) -> None:
    stage = Stage(tmp_path, base="/load")
    assert stage.app.test_client().get("/load/verdict").status_code == 200
    assert stage.app.test_client().get("/verdict").status_code == 404


def test_attacks_stay_texts(stage: Stage) -> None:
    stage.show(attacked())
    page = stage.app.test_client().get("/verdict")
    text = page.get_data(as_text=True)
    assert text.count("<script>") == 1
    assert "<img" not in text
    assert HOSTILE not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "default-src 'none'; script-src 'sha256-" in page.headers["Content-Security-Policy"]
    assert "\u202e" not in json.dumps(state(stage), ensure_ascii=False)
