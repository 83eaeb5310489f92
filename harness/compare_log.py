"""``compare.json``: its only reader and its only writer."""

from __future__ import annotations

from pathlib import Path

from harness.comparison import COMPARISON_FORMAT, Comparison
from harness.errors import RunDirectoryError
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
    path = directory / COMPARISON
    try:
        comparison = Comparison.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunDirectoryError(f"{directory} holds no comparison: it has no {COMPARISON}") from error
    except OSError as error:
        raise RunDirectoryError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # pydantic's, and of bytes that are no text
        raise RunDirectoryError(f"{path} is damaged or of another version: {str(error).splitlines()[0]}") from error
    if comparison.format > COMPARISON_FORMAT:
        raise RunDirectoryError(f"{path} has format {comparison.format}; this harness reads up to {COMPARISON_FORMAT}")
    return comparison
