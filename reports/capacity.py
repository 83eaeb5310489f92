"""The page of a capacity search: self-contained, offline, with nothing in it that runs."""

from __future__ import annotations

from pathlib import Path

from harness.capacity_record import CapacityRecord
from reports import capacity_view
from reports.rendering import render_page, write_page


def render(record: CapacityRecord) -> str:
    """Render the whole page; the same input gives the same text."""
    return render_page("capacity.html.j2", capacity_view.build(record))


def write(path: Path, record: CapacityRecord) -> Path:
    return write_page(path, render(record))
