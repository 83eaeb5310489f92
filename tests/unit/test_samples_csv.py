"""``harness export RUN --csv``: every sample, facts and metrics, readable by anything."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from harness import samples_csv
from harness.cli import app
from harness.errors import HarnessError, RunDirectoryError, UsageError
from harness.records import Sample
from harness.runlog import RunReader
from harness.samples_csv import DERIVED, write_csv
from tests.runs import failed, load, sample, scenario, unfinished, write_run

SAMPLES = [
    sample(20.0, 2.0, user=1, error='a "quoted", text\nof two lines'),
    sample(5.0, 1.0, user=2),
    failed(30.0, 0.5, user=3),
    unfinished(40.0, 3.0, user=4),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "run", SAMPLES, scenario(), load())
    return tmp_path / "run"


def exported(run: Path) -> pd.DataFrame:
    out = io.BytesIO()
    assert write_csv(RunReader(run), out) == len(SAMPLES)
    return pd.read_csv(io.BytesIO(out.getvalue()), keep_default_na=False, na_values={name: [""] for name in DERIVED})


def test_a_row_a_request_with_facts_and_metrics(run: Path) -> None:
    found = exported(run)
    assert list(found.columns) == [*Sample.__dataclass_fields__, *DERIVED]
    assert list(found["request_id"]) == ["r/0/1/0", "r/0/2/0", "r/0/3/0", "r/0/4/0"]
    assert list(found["judged"]) == [True, False, True, True]
    assert list(found["issued_s"].round(6)) == [20.0, 5.0, 30.0, 40.0]
    assert list(found["e2e_s"].round(6)) == [2.0, 1.0, float("inf"), 3.0]
    assert found["ttft_s"][0] == pytest.approx(0.2)
    assert found["tpot_s"][0] == pytest.approx(0.18)
    assert found["error"][0] == 'a "quoted", text\nof two lines'
    assert found["gaps_us"][0] == " ".join(["180000"] * 10)
    assert found["first_token_s"][2] == ""


def test_slices_are_joined_without_a_seam(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = exported(run)
    monkeypatch.setattr(samples_csv, "SLICE", 3)
    pd.testing.assert_frame_equal(exported(run), whole)


def test_a_run_that_was_killed(tmp_path: Path) -> None:
    write_run(tmp_path / "run", SAMPLES, scenario(), load(), seal=False)
    assert len(exported(tmp_path / "run")) == len(SAMPLES)


def test_a_run_without_samples_has_a_heading(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [], scenario(), load())
    out = io.BytesIO()
    assert write_csv(RunReader(tmp_path / "run"), out) == 0
    assert out.getvalue().startswith(b'"run","worker"')
    assert out.getvalue().count(b"\n") == 1


def test_the_command(run: Path) -> None:
    result = CliRunner().invoke(app, ["export", str(run), "--csv"])
    assert (result.exit_code, result.stdout) == (0, f"4 requests: {run / 'samples.csv'}\n")
    lines = CliRunner().invoke(app, ["export", str(run), "--csv", "--output", "-"]).stdout
    assert lines == (run / "samples.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], UsageError("say as what")),
        (["--csv", "--output", "/nowhere/samples.csv"], RunDirectoryError("cannot write in /nowhere")),
    ],
)
def test_what_cannot_be_done_is_said(run: Path, arguments: list[str], error: HarnessError) -> None:
    result = CliRunner().invoke(app, ["export", str(run), *arguments])
    assert type(result.exception) is type(error)
    assert str(result.exception).startswith(str(error))
