"""``harness list runs`` and ``harness open``: recorded runs on the screen, in a browser, or over HTTP."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from harness.catalog import Catalog
from harness.console import write_json
from harness.errors import ExitCode, RunDirectoryError, UsageError
from harness.judge import judge, read_judgement
from harness.matrix import report_of
from harness.run_heads import RunHead, run_heads
from harness.runlog import JUDGEMENT, REPORT, run_directories
from harness.runs_server import RunsServer
from reports import figures
from reports.parts import SYMBOLS
from reports.terminal import STYLES

PAGES = (REPORT, "capacity.html", "compare.html", "summary.html")
"""What a folder's page may be called: of runs, of a search, of a comparison, of a night."""
NO_RUNS = "there are no runs in {root} yet; make one with: harness run"


def print_runs(root: Path, *, as_json: bool) -> None:
    """A line a run, the newest first; damaged directories are named below.

    Raises
    ------
    UsageError
        When there is no such folder.
    """
    if not root.is_dir():
        raise UsageError(f"there is no folder {root}; say where the runs are with --runs")
    heads = run_heads(root)
    if as_json:
        write_json([_json(head) for head in heads])
        return
    out = Console()
    whole = [head for head in heads if not head.damage]
    if not whole:
        out.print(NO_RUNS.format(root=root), markup=False, highlight=False, soft_wrap=True)
    elif out.is_terminal:
        out.print(_table(whole))
    else:
        for head in whole:
            sys.stdout.write("\t".join(_clean(text) for text in _texts(head)) + "\n")  # rich would widen tabs
    for head in heads:
        if head.damage:
            out.print(Text(_clean(f"damaged: {head.directory}: {head.damage}"), style="red"), soft_wrap=True)


def page_of(path: Path | None, root: Path, catalog: Catalog) -> Path:
    """The page of a run or of a folder of runs; a report that is missing is written.

    ``path`` None: of the newest run in ``root``. A name that is no path is looked for in ``root``.

    Raises
    ------
    HarnessError
        When there is no such run, or nothing of it can be judged.
    """
    directory = _newest(root) if path is None else _found(path, root)
    for name in PAGES:
        if (directory / name).is_file():
            return directory / name
    judgements = [
        read_judgement(each) if (each / JUDGEMENT).exists() else judge(each) for each in run_directories(directory)
    ]
    return report_of(judgements, directory / REPORT, catalog)


def open_page(page: Path) -> int:
    """Show a page in the desktop's browser, or say where it lies and how to serve it."""
    sys.stdout.write(f"{page}\n")
    sys.stdout.flush()
    if not _has_browser() or not webbrowser.open(page.resolve().as_uri()):
        sys.stderr.write(f"there is no browser to open it with; to look from elsewhere: harness open {page} --serve\n")
    return ExitCode.PASS


def serve_runs(root: Path, page: Path | None, port: int) -> int:
    """Serve a folder of runs, for reading and on this machine alone, until Ctrl-C.

    Raises
    ------
    UsageError
        When the port is taken.
    """
    try:
        server = RunsServer(root, port)
    except OSError as error:
        raise UsageError(f"cannot listen on 127.0.0.1:{port}: {error.strerror}; choose another --port") from error
    with server:
        where = (
            "" if page is None or root not in page.resolve().parents else page.resolve().relative_to(root).as_posix()
        )
        sys.stdout.write(f"{server.url}{where}\n")
        sys.stdout.flush()
        sys.stderr.write(f"serves {root} until Ctrl-C\n")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            thread.join()
        except KeyboardInterrupt:
            server.shutdown()
    return ExitCode.PASS


def _found(path: Path, root: Path) -> Path:
    for each in (path, root / path):
        if each.is_dir():
            return each
        if each.is_file():
            return each.parent
    raise UsageError(f"there is no run {path}, neither here nor in {root} (see: harness list runs)")


def _newest(root: Path) -> Path:
    """The newest run, or the folder of its matrix where that has a page of its own."""
    heads = [head for head in run_heads(root) if not head.damage] if root.is_dir() else []
    if not heads:
        raise RunDirectoryError(NO_RUNS.format(root=root))
    directory = heads[0].directory
    # The cells of a matrix have one report together.
    with_page = (each for each in (directory, directory.parent) if any((each / name).is_file() for name in PAGES))
    return next(with_page, directory)


def _has_browser() -> bool:
    """Whether a browser would be seen: over ssh or in a container, Python finds text browsers at best."""
    if sys.platform != "darwin" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return bool(os.environ.get("BROWSER"))
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def _table(heads: list[RunHead]) -> Table:
    table = Table(
        *("started (UTC)", "scenario", "stack", Column("users", justify="right"), "verdict", "marks"),
        Column("directory", overflow="fold"),
        box=None,
        pad_edge=False,
    )
    for head in heads:
        started, scenario, stack, users, _, marks, directory = map(_clean, _texts(head))
        style = "dim" if head.verdict is None else STYLES[head.verdict]
        sign = "" if head.verdict is None else f"{SYMBOLS[head.verdict]} "
        verdict = Text(f"{sign}{standing(head)}", style=style)
        table.add_row(Text(started), Text(scenario), Text(stack), users, verdict, marks, Text(directory))
    return table


def _texts(head: RunHead) -> tuple[str, ...]:
    return (
        head.started[:19].replace("T", " "),
        head.scenario,
        head.stack,
        "open" if head.arrivals else figures.count(head.users),
        standing(head),
        ", ".join(head.marks),
        str(head.directory),
    )


def standing(head: RunHead) -> str:
    """The verdict's word, or why there is none."""
    if head.verdict is not None:
        return head.verdict.value
    return "not judged" if head.sealed else "not sealed"


def _json(head: RunHead) -> dict[str, Any]:
    return head.model_dump(mode="json")


def _clean(text: str) -> str:
    return " ".join(figures.clean(text, 300).split())
