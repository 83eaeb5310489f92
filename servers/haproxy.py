"""HAProxy: its configuration, its counters, and how it is asked and told things while it runs."""

from __future__ import annotations

import csv
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from harness.errors import ServerError
from harness.records import BalancerCounters

SYSTEM_DIRECTORIES = ("/usr/sbin", "/usr/local/sbin")
"""Where distributions put it; a user's PATH often lacks them."""
BACKEND = "replicas"
SOCKET = "haproxy.sock"
DRAIN_S = 5
"""What answers still under way get at the stop, before they are cut off."""
ANSWER_S = 5.0
FEWEST_CONNECTIONS = 4096
SPARE_FILES = 256
MOST_THREADS = 4
_TEMPLATE = Path(__file__).with_name("haproxy.cfg.j2")
_COLUMNS = {
    "sessions": "stot",
    "most_at_once": "smax",
    "retries": "wretr",
    "redispatches": "wredis",
    "connection_errors": "econ",
    "response_errors": "eresp",
    "cut_off": "srv_abrt",
    "failed_checks": "chkfail",
    "times_down": "chkdown",
    "down_s": "downtime",
    "status": "status",
}
"""Field of :class:`~harness.records.BalancerCounters` to column of ``show stat``."""


@dataclass(frozen=True, slots=True)
class Backend:
    name: str
    address: str
    """``host:port``."""


def find_haproxy(path: str | None = None) -> str:
    """The program, looked for in PATH and where distributions put it.

    Raises
    ------
    ServerError
        When it is not installed.
    """
    path = os.environ.get("PATH", os.defpath) if path is None else path
    found = shutil.which("haproxy", path=os.pathsep.join((path, *SYSTEM_DIRECTORIES)))
    if found is None:
        raise ServerError(
            "several replicas need HAProxy in front of them, and it is not installed: apt-get install haproxy"
        )
    return found


def version_of(program: str) -> str:
    """``HAProxy 2.6.12``.

    Raises
    ------
    ServerError
        When the program does not run.
    """
    try:
        done = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerError(f"{program} does not run: {error}") from error
    found = re.search(r"version (\d+(?:\.\d+)*)", done.stdout)
    return f"HAProxy {found[1]}" if found else "HAProxy"


def configuration(
    servers: Sequence[Backend], port: int, health: str, *, users: int, threads: int, files: int | None = None
) -> str:
    """Render ``haproxy.cfg``.

    Parameters
    ----------
    health
        Path that answers 200 while a replica can serve; empty: an accepted connection is all that is asked for.
    users
        Connections that will be open at once.
    files
        Descriptors that a process may have; None: this machine's limit. HAProxy refuses to start without enough.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1] if files is None else files
    affordable = FEWEST_CONNECTIONS if hard == resource.RLIM_INFINITY else (hard - SPARE_FILES) // 2
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        servers=servers,
        port=port,
        health=health,
        maxconn=max(2 * users, min(FEWEST_CONNECTIONS, affordable)),
        threads=max(1, min(MOST_THREADS, threads)),
        socket=SOCKET,
        drain_s=DRAIN_S,
    )


def counters(table: str) -> dict[str, BalancerCounters]:
    """Read the answer to ``show stat``: replica to what was counted of it."""
    rows = csv.DictReader(table.removeprefix("# ").splitlines())
    return {
        row["svname"]: BalancerCounters.model_validate(
            {field: row[column] or 0 for field, column in _COLUMNS.items() if row.get(column) is not None}
        )
        for row in rows
        if row.get("pxname") == BACKEND and row.get("svname") not in ("BACKEND", None)
    }


class Control:
    """Talks to a running HAProxy over the socket in its working directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def counters(self) -> dict[str, BalancerCounters]:
        """By name of the replica; nothing when HAProxy is gone."""
        try:
            return counters(self._ask("show stat"))
        except OSError:
            return {}

    def forget(self) -> None:
        """Start counting at zero."""
        self._ask("clear counters all")

    def drain(self) -> None:
        """Take no more connections and end with the last answer, or after :data:`DRAIN_S`; returns at once."""
        try:
            found = re.search(r"^Pid: (\d+)", self._ask("show info"), re.MULTILINE)
            if found:
                os.kill(int(found[1]), signal.SIGUSR1)
        except OSError:  # it is gone already
            return

    def close(self) -> None:
        """Remove what a HAProxy that has ended leaves."""
        (self._directory / SOCKET).unlink(missing_ok=True)

    def _ask(self, command: str) -> str:
        # A socket's path has at most 107 characters, and a run directory may have more.
        directory = os.open(self._directory, os.O_PATH | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
                link.settimeout(ANSWER_S)
                link.connect(f"/proc/self/fd/{directory}/{SOCKET}")
                link.sendall(f"{command}\n".encode())
                return b"".join(_until_closed(link)).decode("utf-8", "replace")
        finally:
            os.close(directory)


def _until_closed(link: socket.socket) -> Iterable[bytes]:
    while data := link.recv(65536):
        yield data
