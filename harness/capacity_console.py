"""``harness capacity`` on the screen: progress of the level under way, a line a level, the sentence, the page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from harness.capacity import load_text
from harness.capacity_log import CAPACITY
from harness.capacity_record import CapacityRecord
from harness.capacity_run import Search, exit_code, level_cell, run_search
from harness.capacity_sizing import confirm, with_sizing
from harness.console import write_json
from harness.errors import ExitCode
from harness.live_display import progress_display
from harness.run import CellProgress
from reports import capacity as page
from reports.capacity_terminal import level_line, print_capacity

PAGE = "capacity.html"


def show_capacity(search: Search, record: CapacityRecord, *, confirmed: bool, as_json: bool) -> int:
    """Search, size, write the record and its page, print what was found; return the exit code."""
    err = Console(stderr=True)
    first = level_cell(search, search.settings.start, search.directory)

    def on_start(place: int, load: float) -> None:
        err.print(f"level {place}: {load_text(search.settings.kind, load)}", style="dim")

    def on_level(so_far: CapacityRecord) -> None:
        err.print(Text(level_line(so_far, so_far.levels[-1])), soft_wrap=True)

    with progress_display(err, [first]) as display:

        def on_change(progress: CellProgress) -> None:
            # One line, whichever level it is: a level's cell has a name of its own.
            display.update(_as_first(progress, first.run))

        record = run_search(search, record, on_start, on_change, on_level)
        code = exit_code(record)
        if record.levels and code is not ExitCode.INTERRUPTED:
            record = with_sizing(search, record)
            if confirmed and record.ended != "interrupted":
                record = confirm(search, record, on_change)
    path = page.write(search.directory / PAGE, record) if record.levels else None
    if as_json:
        write_json({"exit_code": int(code), "page": None if path is None else str(path), **_json(search, record)})
        return code
    out = Console()
    print_capacity(out, record)
    if path is not None:
        out.print(f"page: {path}", markup=False, highlight=False, soft_wrap=True)
    return code


def _as_first(progress: CellProgress, run: str) -> CellProgress:
    return CellProgress(
        cell=progress.cell.model_copy(update={"run": run}),
        state=progress.state,
        event=progress.event,
        error=progress.error,
        exit_code=progress.exit_code,
        judgement=progress.judgement,
    )


def _json(search: Search, record: CapacityRecord) -> dict[str, object]:
    return {"record": str(Path(search.directory) / CAPACITY), **record.model_dump(mode="json")}
