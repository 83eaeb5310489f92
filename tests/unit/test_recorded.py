"""What ``harness report`` finds at a path, and what it writes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.capacity_log import write_capacity
from harness.cli import app
from harness.compare_log import read_comparison, write_comparison
from harness.errors import RunDirectoryError
from harness.judge import write_judgement
from harness.recorded import find
from tests import factories
from tests.unit.test_capacity_page import record
from tests.unit.test_compare_page import comparison
from tests.unit.test_report import parse


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    """A run, a search with the run of a level in it, and a comparison with the run of a launch in it."""
    for run in ("cell", "search/level-01", "versus/1-a/round-1"):
        directory = tmp_path / run
        directory.mkdir(parents=True)
        (directory / "manifest.json").write_text("{}", encoding="utf-8")
        write_judgement(directory, factories.unloaded())
    write_capacity(tmp_path / "search", record())
    write_comparison(tmp_path / "versus", comparison())
    (tmp_path / "empty").mkdir()
    return tmp_path


def report(*paths: Path) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["report", *map(str, paths)])
    return found.exit_code, found.output.strip()


def test_each_is_known_by_its_own_file_and_its_parts_are_not_cells(matrix: Path) -> None:
    found = find([matrix])
    assert (found.runs, found.capacities, found.comparisons) == (
        (matrix / "cell",),
        (matrix / "search",),
        (matrix / "versus",),
    )
    assert find([matrix / "search", matrix, matrix / "versus"]).capacities == (matrix / "search",)


def test_a_comparison_written_into_a_folder_of_runs_hides_none_of_them(matrix: Path) -> None:
    write_comparison(matrix, comparison())
    write_comparison(matrix / "cell", comparison())
    assert find([matrix]).runs == (matrix / "cell",)
    assert find([matrix]).comparisons == (matrix, matrix / "cell", matrix / "versus")


def test_one_report_holds_all_of_them(matrix: Path) -> None:
    code, said = report(matrix)
    assert (code, said) == (0, str(matrix / "report.html"))
    assert {"capacities", "comparisons", "evidence"} <= set(parse(Path(said).read_text("utf-8")).values("id"))
    assert {"verdict.md", "junit.xml"} <= {each.name for each in matrix.iterdir()}


def test_a_single_one_gets_its_own_page_and_several_get_one_report(matrix: Path) -> None:
    assert report(matrix / "search") == (0, str(matrix / "search" / "capacity.html"))
    assert report(matrix / "versus") == (0, str(matrix / "versus" / "compare.html"))
    code, said = report(matrix / "search", matrix / "versus")
    assert (code, said) == (0, str(matrix / "search" / "report.html"))
    assert "Capacity and comparison" in Path(said).read_text("utf-8")
    assert not (matrix / "search" / "junit.xml").exists(), "no case at all would be a green build"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("compare.json", b"{"),
        ("compare.json", b"[]"),
        ("compare.json", b"\xff"),
        ("capacity.json", b"\xff"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(matrix: Path, name: str, content: bytes) -> None:
    broken = matrix / "broken"
    broken.mkdir()
    (broken / name).write_bytes(content)
    with pytest.raises(RunDirectoryError) as caught:
        find([matrix]).studies()
    assert str(caught.value).startswith(f"{broken / name} is damaged or of another version: ")
    assert "\n" not in str(caught.value)


def test_a_newer_comparison_is_refused_by_its_format(tmp_path: Path) -> None:
    write_comparison(tmp_path, comparison().model_copy(update={"format": 99}))
    with pytest.raises(RunDirectoryError, match=r"has format 99; this harness reads up to 1"):
        read_comparison(tmp_path)


@pytest.mark.parametrize("name", ["empty", "nowhere"])
def test_a_directory_of_nothing_says_what_it_is_not(matrix: Path, name: str) -> None:
    with pytest.raises(RunDirectoryError) as caught:
        find([matrix / name])
    assert str(caught.value) == (
        f"{matrix / name} is no run, capacity search or comparison: it has no manifest.json, capacity.json or"
        " compare.json, nor has any folder in it"
    )
