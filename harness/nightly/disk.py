"""Room on the disk, asked before each cell: a run that ends in the middle of a write helps nobody."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.errors import RunDirectoryError

GIB = 2**30


def free_gib(folder: Path) -> float:
    try:
        return shutil.disk_usage(folder).free / GIB
    except OSError as error:
        raise RunDirectoryError(f"cannot read how much room {folder} has: {error.strerror}") from error


def too_full(free: float, needed: float, folder: Path) -> str:
    """Why no cell may start; empty when there is room."""
    if free >= needed:
        return ""
    return (
        f"the disk of {folder} has {free:.2g} GiB free, less than the {needed:g} GiB that min_free_gib asks for: "
        "no further cell was started, and what there is was kept"
    )
