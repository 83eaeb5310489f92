"""``compare.json``: its only reader and its only writer."""

from __future__ import annotations

from pathlib import Path

from harness.comparison import COMPARISON_FORMAT, Comparison
from harness.json_file import read_json_file
from harness.runlog import write_atomically

COMPARISON = "compare.json"


def is_comparison(directory: Path) -> bool:
    return (directory / COMPARISON).is_file()


def write_comparison(directory: Path, comparison: Comparison) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / COMPARISON, comparison.model_dump_json(indent=1))


def read_comparison(directory: Path) -> Comparison:
    """Read ``compare.json``.

    Raises
    ------
    RunDirectoryError
        When there is none, or it is damaged or of a newer version.
    """
    missing = f"{directory} holds no comparison: it has no {COMPARISON}"
    return read_json_file(directory / COMPARISON, Comparison, COMPARISON_FORMAT, missing)
