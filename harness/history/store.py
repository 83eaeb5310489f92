"""One DuckDB file that every judgement is appended to, in tables that any DuckDB can read.

A neighbouring ``.lock`` file is locked by whoever has the store open, shared by readers and alone by a writer, and a
second one waits. The schema has a version; a store of an older one is brought up to date when it is next written to.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from harness.errors import HistoryError
from harness.history.rows import Cell, Row, row_of
from harness.judgement import Judgement

WAIT_S = 60.0
"""How long a second process waits for the first; an append takes well under a second."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE launches (key TEXT PRIMARY KEY, run TEXT NOT NULL, host TEXT NOT NULL, scenario TEXT NOT NULL,
        stack TEXT NOT NULL, load TEXT NOT NULL, profile TEXT NOT NULL,
        started_s DOUBLE NOT NULL, verdict TEXT NOT NULL);
    CREATE TABLE figures (key TEXT NOT NULL, metric TEXT NOT NULL, value DOUBLE NOT NULL, PRIMARY KEY (key, metric));
    """,
    # What a jump may come from; emulated, reduced and other-GPU runs become cells of their own.
    """
    ALTER TABLE launches ADD COLUMN marks TEXT DEFAULT '';
    CREATE TABLE annotations (key TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (key, name));
    """,
    # Baselines with a name.
    """
    CREATE TABLE baselines (name TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (name, key));
    """,
)
"""The schema's history: entry k brings a store of version k to version k + 1. Never edited, only appended to."""

Connection = duckdb.DuckDBPyConnection


def append(store: Path, judgements: Iterable[Judgement]) -> int:
    """Append judgements; those already there are left as they are. All of them are written, or none.

    Returns
    -------
    int
        How many were new.

    Raises
    ------
    HistoryError
        When the store is damaged, of a newer version, cannot be written, or stays locked, or a judgement has no time.
    """
    return append_rows(store, [row_of(judgement) for judgement in judgements])


def append_rows(store: Path, rows: Sequence[Row]) -> int:
    """:func:`append` for rows that were made already."""
    with _opened(store, write=True) as database:
        known = {key for (key,) in database.execute("SELECT key FROM launches").fetchall()}
        new = {row.key: row for row in rows if row.key not in known}
        launches = [
            (key, row.run, row.host, *astuple(row.cell), row.started_s, row.verdict) for key, row in new.items()
        ]
        into = "launches (key, run, host, scenario, stack, load, profile, marks, started_s, verdict)"
        _insert(database, into, launches)
        figures = [(key, *each) for key, row in new.items() for each in row.values.items()]
        _insert(database, "figures (key, metric, value)", figures)
        facts = [(key, *each) for key, row in new.items() for each in row.annotations.items()]
        _insert(database, "annotations (key, name, value)", facts)
        return len(new)


def read(store: Path, keep: Callable[[Cell], bool] = lambda _: True) -> dict[Cell, list[Row]]:
    """Every launch of the cells that ``keep`` accepts, oldest first; cells in order.

    Raises
    ------
    HistoryError
        As :func:`append`; and when there is no store.
    """
    with _opened(store, write=False) as database:
        values, facts = _by_key(database, "figures", "metric"), _by_key(database, "annotations", "name")
        rows: dict[Cell, list[Row]] = {}
        found = database.execute(
            "SELECT key, run, host, started_s, verdict, scenario, stack, load, profile, marks FROM launches "
            "ORDER BY scenario, stack, load, profile, marks, started_s, key"
        ).fetchall()
    for key, run, host, started_s, verdict, *names in found:
        cell = Cell(*names)
        if keep(cell):
            row = Row(run, host, cell, started_s, verdict, values.get(key, {}), facts.get(key, {}))
            rows.setdefault(cell, []).append(row)
    return rows


def set_baseline(store: Path, name: str, judgements: Iterable[Judgement]) -> int:
    """Call these runs, appended where they are not yet there, by a name; what had it before loses it."""
    rows = [row_of(judgement) for judgement in judgements]
    append_rows(store, rows)
    with _opened(store, write=True) as database:
        database.execute("DELETE FROM baselines WHERE name = ?", [name])
        _insert(database, "baselines (name, key)", [(name, key) for key in sorted({row.key for row in rows})])
    return len(rows)


def baselines(store: Path) -> dict[str, frozenset[str]]:
    """Names of baselines to the keys of their runs."""
    with _opened(store, write=False) as database:
        found: dict[str, set[str]] = {}
        for name, key in database.execute("SELECT name, key FROM baselines ORDER BY name").fetchall():
            found.setdefault(name, set()).add(key)
    return {name: frozenset(keys) for name, keys in found.items()}


def migrate(database: Connection, upto: int = len(MIGRATIONS)) -> None:
    """Bring an open store to version ``upto``, inside the caller's transaction."""
    database.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    for version in range(version_of(database), upto):
        database.execute(MIGRATIONS[version])
        database.execute("DELETE FROM schema_version")
        database.execute("INSERT INTO schema_version VALUES (?)", [version + 1])


def version_of(database: Connection) -> int:
    """0 of a store that is new."""
    found = database.execute("SELECT count(*) FROM information_schema.tables WHERE table_name = 'schema_version'")
    if not (found.fetchone() or (0,))[0]:
        return 0
    row = database.execute("SELECT max(version) FROM schema_version").fetchone()
    return int(row[0]) if row and row[0] is not None else 0


@contextmanager
def _opened(store: Path, *, write: bool) -> Iterator[Connection]:
    """Open the store at the newest version, alone where it is written to; all changes are kept, or none."""
    if not write and not store.exists():
        raise HistoryError(
            f"there is no history at {store} yet; make one with: harness history add RUN --store {store}"
        )
    if store.exists() and not store.is_file():
        raise HistoryError(f"{store} is no file, so it cannot be a history")
    with _locked(store, write=write):
        try:
            if not write and _older(store):
                raise HistoryError(f"{store} is of an older version; harness history add brings it up to date")
            with duckdb.connect(str(store), read_only=not write) as database:
                if version_of(database) > len(MIGRATIONS):
                    raise HistoryError(f"{store} was written by a newer harness, and this one cannot read it")
                database.execute("BEGIN")
                if write:
                    migrate(database)
                yield database
                database.execute("COMMIT")
        except duckdb.Error as error:
            raise HistoryError(
                f"{store} cannot be used as a history: {_first_line(error)}; restore it from a copy, or move it away"
            ) from error


def _older(store: Path) -> bool:
    with duckdb.connect(str(store), read_only=True) as database:
        return version_of(database) < len(MIGRATIONS)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".!")


@contextmanager
def _locked(store: Path, *, write: bool) -> Iterator[None]:
    path = store.with_name(store.name + ".lock")
    try:
        if write:
            store.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise HistoryError(f"cannot open {path}: {error.strerror}") from error
    with file:  # closing it gives the lock back, also after a kill
        until = time.monotonic() + WAIT_S
        while True:
            try:
                fcntl.flock(file, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise HistoryError(
                        f"another process has used {store} for {WAIT_S:g} s; try again when it is done"
                    ) from error
            time.sleep(0.05)
        yield


def _insert(database: Connection, into: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert many rows at once, as a column each: a statement a row takes a hundred times as long."""
    if rows:
        columns = pa.table({f"c{place}": list(column) for place, column in enumerate(zip(*rows, strict=True))})
        database.register("new_rows", columns)
        database.execute(f"INSERT INTO {into} SELECT * FROM new_rows")
        database.unregister("new_rows")


def _by_key(database: Connection, table: str, name: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for key, label, value in database.execute(f"SELECT key, {name}, value FROM {table}").fetchall():
        found.setdefault(key, {})[label] = value
    return found
