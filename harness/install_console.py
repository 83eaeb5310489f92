"""``harness install`` and ``harness models`` on the screen: tables, and progress while something is made."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from harness.console import write_json
from harness.errors import ExitCode
from servers.environments import ENVIRONMENTS, Environment, environment, make, problems, remove
from servers.environments.step import directory_mb
from servers.models import described, ensure
from servers.models.listing import Listed, check, listed

Say = Callable[[str], None]


def print_engines(*, as_json: bool) -> int:
    rows = [_engine(wanted) for wanted in ENVIRONMENTS.values()]
    if as_json:
        write_json(rows)
        return ExitCode.PASS
    table = _table("Engines", "name", "state", "size", "fetches", "what it is for", "how to get it")
    for row in rows:
        size, fetches = (f"{row[key]:,} MB" if row[key] else "-" for key in ("size_mb", "download_mb"))
        table.add_row(*(str(each) for each in (row["name"], row["state"], size, fetches, row["about"], row["command"])))
    Console().print(table)
    return ExitCode.PASS


def install_engine(name: str, check_only: bool, remove_it: bool) -> int:
    """Make, check or remove one environment; 3 when a check finds something missing."""
    wanted = environment(name)
    if check_only:
        missing = problems(wanted, digests=True)
        for problem in missing:
            _out(f"{name}: {problem}; run: {wanted.command}")
        if not missing:
            _out(f"{name}: complete")
        return ExitCode.SERVER if missing else ExitCode.PASS

    def work(say: Say) -> None:
        if remove_it:
            remove(wanted, say)
        else:
            make(wanted, say)

    return _interruptible(name, work)


def print_models(*, as_json: bool) -> int:
    found = listed()
    if as_json:
        write_json([each.model_dump(mode="json") for each in found])
        return ExitCode.PASS
    table = _table("Models", "name", "format", "size", "state", "where it comes from", "licence")
    for each in found:
        size = f"{each.size_mb:,.0f} MB" if each.size_mb else "-"
        table.add_row(each.name, each.format, size, each.state, each.source, each.licence)
    out = Console()
    out.print(table)
    hint = "harness models NAME gets one; hf:ORGANISATION/NAME[@REVISION] and random:SHAPE are names too"
    out.print(hint, style="dim", markup=False, soft_wrap=True)
    return ExitCode.PASS


def fetch_model(name: str) -> int:
    return _interruptible(name, lambda say: ensure(name, say))


def check_models(name: str | None) -> int:
    """Read the weights of one model, or of all that are there, and compare them with their digests."""
    found = listed()
    if name is not None and all(name not in (each.name, each.path.name) for each in found):
        found = [Listed.of(described(name))]
    elif name is not None:
        found = [each for each in found if name in (each.name, each.path.name)]
    else:
        found = [each for each in found if each.state != "not there"]
    bad = False
    for each in found:
        damaged = check(each)
        for problem in damaged:
            _out(f"{each.name}: {problem}; run: harness models {each.name}")
        if not damaged:
            _out(f"{each.name}: {each.path} is as its digests say")
        bad = bad or bool(damaged)
    if not found:
        _out("no models are here; harness models lists what there is")
    return ExitCode.SERVER if bad else ExitCode.PASS


def _engine(wanted: Environment) -> dict[str, str | int]:
    missing = problems(wanted)
    there = wanted.directory.exists()
    measured = directory_mb(wanted.directory) if there and not missing else float(wanted.size_mb)
    return {
        "name": wanted.name,
        "state": "ready" if not missing else "incomplete" if there else "not there",
        "size_mb": round(measured),
        "download_mb": wanted.download_mb,
        "about": wanted.about,
        "missing": "; ".join(missing),
        "command": wanted.command,
    }


def _interruptible(name: str, work: Callable[[Say], object]) -> int:
    try:
        with _progress(name) as say:
            work(say)
    except KeyboardInterrupt:
        sys.stderr.write(f"harness: interrupted; the same command goes on with {name}\n")
        return ExitCode.INTERRUPTED
    return ExitCode.PASS


@contextmanager
def _progress(name: str) -> Iterator[Say]:
    """Give what says a line: under a spinner with the time so far on a terminal, plain elsewhere."""
    err = Console(stderr=True)
    if not err.is_terminal:
        yield _out
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(name)

        def say(line: str) -> None:
            progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
            progress.update(task, description=line)

        yield say


def _out(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
