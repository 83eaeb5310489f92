"""``harness history``, ``trend`` and ``regress`` over run directories, as a nightly calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.errors import HarnessError
from harness.judge import write_judgement
from harness.runlog import MANIFEST
from tests import factories

runner = CliRunner()


def recorded(folder: Path, night: int, slower: float = 1.0) -> Path:
    """A judged run of one night; a few permille of launch luck, by a formula."""
    luck = 1 + 0.004 * ((night * 7) % 5 - 2)
    path = folder / f"run-{night:02d}"
    path.mkdir(parents=True)
    (path / MANIFEST).write_text("{}", encoding="utf-8")  # judging is over: only judgement.json is read
    provenance = factories.provenance(started=f"2026-10-{night:02d}T02:10:00Z")
    write_judgement(path, factories.judgement(run=path.name, median_s=0.9 * luck * slower, provenance=provenance))
    return path


@pytest.fixture
def nights(tmp_path: Path) -> Path:
    for night in range(1, 25):
        recorded(tmp_path / "nights", night)
    return tmp_path / "nights"


def invoke(*arguments: object) -> tuple[int, str]:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, HarnessError):
        return result.exception.exit_code, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_add_trend_and_regress(tmp_path: Path, nights: Path) -> None:
    store, page = tmp_path / "history.duckdb", tmp_path / "pages" / "trend.html"
    assert invoke("history", "add", nights, "--store", store) == (0, f"{store}: 24 of 24 runs added\n")
    assert invoke("history", "add", nights / "run-01", "--store", store)[1] == f"{store}: 0 of 1 run added\n"
    assert invoke("trend", "--store", store, "--output", page) == (0, f"{page}\n")
    assert "24 launches of 1 cell" in page.read_text(encoding="utf-8")
    good, slow = recorded(tmp_path / "good", 25), recorded(tmp_path / "slow", 26, slower=1.4)
    code, text = invoke("regress", good, "--store", store)
    assert code == 0
    assert "0 regressed" in text
    code, text = invoke("regress", slow, "--store", store, "--json")
    found = {each["metric"]: each for each in json.loads(text)["findings"]}
    assert code == 99 == json.loads(text)["exit_code"]
    assert found["e2e_p95_s"]["change"] == "REGRESSED"
    assert found["e2e_p95_s"]["effect"] == pytest.approx(0.4, abs=0.03)
    assert invoke("regress", slow, "--store", store, "--min-effect", "60%", "--metric", "e2e_p95_s")[0] == 0


def test_a_named_baseline_and_a_new_cell(tmp_path: Path, nights: Path) -> None:
    store = tmp_path / "h.duckdb"
    invoke("history", "add", nights, "--store", store)
    assert invoke("history", "baseline", "v1", nights / "run-03", nights / "run-04", "--store", store) == (
        0,
        f"{store}: baseline 'v1' is 2 runs\n",
    )
    slow = recorded(tmp_path / "slow", 26, slower=1.4)
    for name in ("v1", "last-good", "window:7"):
        assert invoke("regress", slow, "--store", store, "--baseline", name)[0] == 99
    invoke("history", "add", nights / "run-01", "--store", tmp_path / "young.duckdb")
    assert invoke("regress", slow, "--store", tmp_path / "young.duckdb")[0] == 0
    code, text = invoke("regress", slow, "--store", tmp_path / "young.duckdb", "--strict")
    assert code == 98
    assert "TOO NOISY" in text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--baseline", "v9"], "unknown baseline 'v9'"),
        (["--baseline", "window:0"], "a window is a number of nights"),
        (["--min-effect", "much"], "--min-effect much: a share above 0"),
        (["--min-effect", "-5%"], "a share above 0"),
        (["--metric", "e2e_p95"], "did you mean 'e2e_p95_s'?"),
    ],
)
def test_wrong_options_are_one_sentence(tmp_path: Path, options: list[str], sentence: str) -> None:
    run, store = recorded(tmp_path / "runs", 1), tmp_path / "h.duckdb"
    invoke("history", "add", run, "--store", store)
    code, text = invoke("regress", run, "--store", store, *options)
    assert code == 2
    assert sentence in text


def test_what_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    run, store = recorded(tmp_path / "runs", 1), tmp_path / "h.duckdb"
    assert "there is no history" in invoke("trend", "--store", store)[1]
    invoke("history", "add", run, "--store", store)
    code, text = invoke("trend", "--store", store, "--cell", "tranlation")
    assert code == 2
    assert "unknown cell 'tranlation'" in text
    assert "cannot name a baseline" in invoke("history", "baseline", "last-good", run, "--store", store)[1]
    (run / "judgement.json").unlink()
    assert "was not judged yet" in invoke("history", "add", run, "--store", store)[1]
