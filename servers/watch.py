"""Whether a server is still the one that became ready: something may have started it again in between."""

from __future__ import annotations

import contextlib
import re
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from harness.lifecycle import memory_line
from servers.process import LINE_CHARACTERS, ServerProcess, without

_START_TIME = re.compile(rb"^process_start_time_seconds(?:\{[^}]*\})? ([0-9.eE+]+)\s*$", re.MULTILINE)
SCRAPE_S = 2.0
LONGEST_READ = 16 * 2**20
"""Bytes of a log that are searched, from its end."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who serves a port: the processes that listen there, and when their metrics say that they started.

    Processes are seen where they are descendants of ours; a start time where the server gives its metrics in
    Prometheus's format, which is all that is known of one in a container.
    """

    listeners: frozenset[tuple[int, float]] = frozenset()
    """Process id and its time of creation."""
    started_s: float | None = None

    def is_gone(self, now: Identity) -> bool:
        """Nothing of ours listens any more."""
        return bool(self.listeners) and not now.listeners

    def is_another(self, now: Identity) -> bool:
        """Another process serves in the place of this one."""
        if self.listeners and now.listeners and not self.listeners & now.listeners:
            return True
        return self.started_s is not None and now.started_s is not None and abs(now.started_s - self.started_s) > 1.0


class Watch:
    """Remembers a server as it was when it became ready, to be compared with what serves later."""

    def __init__(self, process: ServerProcess, pid: int | None, url: str, metrics_url: str) -> None:
        self._process = process
        self._where = (pid, url, metrics_url)
        self._log_at_ready = process.log_size
        self._ready_as = identity(*self._where)

    def look(self, secrets: Iterable[str] = ()) -> dict[str, object]:
        """What has befallen it since: fields of :class:`~harness.records.ServerFacts`."""
        said = without(secrets, (memory_error(self._process.log_file, self._log_at_ready),))
        found: dict[str, object] = {"out_of_memory": said[0][:LINE_CHARACTERS]}
        if self._process.poll() is None:
            now = identity(*self._where)
            found["restarted"] = self._ready_as.is_another(now)
            if self._ready_as.is_gone(now):
                found["died"] = True
        return found


def identity(pid: int | None, url: str, metrics_url: str) -> Identity:
    """Look who serves ``url`` among the descendants of ``pid``."""
    port = urlsplit(url).port
    listeners = frozenset(_listeners(pid, port)) if pid is not None and port is not None else frozenset()
    return Identity(listeners, _start_time(metrics_url) if metrics_url else None)


def memory_error(log_file: Path, start: int) -> str:
    """The first line after ``start`` that says that memory ran out; empty if none does, or the log is not there."""
    try:
        with log_file.open("rb") as file:
            file.seek(max(start, file.seek(0, 2) - LONGEST_READ))
            return memory_line(line.decode("utf-8", "replace") for line in file)
    except OSError:
        return ""


def _listeners(pid: int, port: int) -> Iterator[tuple[int, float]]:
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it may end in this moment, or be another user's
                sockets = process.net_connections(kind="tcp")
                if any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in sockets):
                    yield process.pid, process.create_time()


def _start_time(metrics_url: str) -> float | None:
    try:
        with urllib.request.urlopen(metrics_url, timeout=SCRAPE_S) as answer:
            found = _START_TIME.search(answer.read())
    except (OSError, ValueError):
        return None
    return float(found[1]) if found else None
