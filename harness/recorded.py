"""What was recorded at a path: runs, capacity searches and comparisons, each known by its own file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.capacity_log import CAPACITY, is_capacity, read_capacity
from harness.compare_log import COMPARISON, is_comparison, read_comparison
from harness.errors import RunDirectoryError
from harness.judge import judge, read_judgement
from harness.judgement import Judgement
from harness.runlog import JUDGEMENT, MANIFEST
from harness.studies import Studies


@dataclass(frozen=True, slots=True)
class Recorded:
    """Directories by what they hold; one that holds several things stands in each."""

    runs: tuple[Path, ...]
    capacities: tuple[Path, ...]
    comparisons: tuple[Path, ...]

    def studies(self) -> Studies:
        """Read the searches and comparisons.

        Raises
        ------
        RunDirectoryError
            When one is damaged or of a newer version.
        """
        return Studies(
            tuple(read_capacity(directory) for directory in self.capacities),
            tuple(read_comparison(directory) for directory in self.comparisons),
        )


def find(paths: Iterable[Path]) -> Recorded:
    """Look at each path and, where it is no run and no search, one level below.

    The levels of a search and the launches of a comparison belong to it, and are not found as runs of their own.

    Raises
    ------
    RunDirectoryError
        When a path holds none of them.
    """
    looked = dict.fromkeys(directory for path in paths for directory in _holding(path))
    return Recorded(
        tuple(each for each in looked if _is_run(each)),
        tuple(each for each in looked if is_capacity(each)),
        tuple(each for each in looked if is_comparison(each)),
    )


def judgements_of(runs: Iterable[Path]) -> list[Judgement]:
    """A run without a judgement is judged now."""
    return [read_judgement(each) if (each / JUDGEMENT).exists() else judge(each) for each in runs]


def _holding(path: Path) -> list[Path]:
    if _is_run(path) or is_capacity(path):
        return [path]
    folders = sorted(each for each in path.iterdir() if each.is_dir()) if path.is_dir() else []
    found = [each for each in (path, *folders) if _is_run(each) or is_capacity(each) or is_comparison(each)]
    if not found:
        raise RunDirectoryError(
            f"{path} is no run, capacity search or comparison: it has no {MANIFEST}, {CAPACITY} or {COMPARISON},"
            " nor has any folder in it"
        )
    return found


def _is_run(directory: Path) -> bool:
    return (directory / MANIFEST).is_file()
