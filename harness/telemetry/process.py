"""Starts the recorder of telemetry beside a run, and ends it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from harness.cell import Cell
from harness.telemetry_log import TELEMETRY_LIVE
from servers.base import RunningServer
from servers.process import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
LOG = "telemetry.log"
GRACE_S = 3.0


class Recording:
    """The recorder of one run. That it cannot start, or dies, harms nothing but the telemetry."""

    def __init__(self, cell: Cell, server: RunningServer) -> None:
        self._log = cell.run_dir / LOG
        self._process: ServerProcess | None = None
        command = [sys.executable, "-m", "harness.telemetry", *arguments(cell, server, os.getpid())]
        with suppress(OSError):
            # -m looks in the working directory, so that a checkout that is not installed runs too.
            self._process = ServerProcess(command, log_file=self._log, directory=ROOT, grace_s=GRACE_S)

    def close(self) -> None:
        """End it in order; more calls change nothing."""
        if self._process is None:
            return
        self._process.stop()
        self._process = None
        with suppress(OSError):
            if not self._log.stat().st_size:
                self._log.unlink()


def arguments(cell: Cell, server: RunningServer, load_pid: int) -> list[str]:
    """Say on a command line what is to be recorded; secrets are named, never written."""
    facts, connection = server.facts(), cell.connection
    out = (cell.run_dir / TELEMETRY_LIVE).resolve()
    words = [f"--out={out}", f"--load-pid={load_pid}"]
    words += [f"--server-pid={pid}" for pid in server.pids]
    metrics_urls = [facts.metrics_url, *(replica.metrics_url for replica in facts.replicas)]
    metrics_urls = [url for url in metrics_urls if url]
    guessed = not metrics_urls and facts.launcher == "attach"
    if guessed:
        metrics_urls = [urljoin(facts.url, "/metrics")]
    if metrics_urls:
        words += [f"--metrics-url={url}" for url in metrics_urls]
        words += ["--guessed"] if guessed else []
        if all(_origin(url) == _origin(facts.url) for url in metrics_urls):  # a key is for the server it was given for
            key = cell.stack.launch.api_key_env or connection.api_key_env
            words += [f"--api-key-env={key}"] if key else []
            words += [f"--header={name}: {value}" for name, value in connection.headers.items()]
        words += [f"--ca-file={Path(connection.ca_file).resolve()}"] if connection.ca_file else []
    # An emulator leaves the GPUs idle, and those of another machine cannot be seen.
    if not facts.emulated and cell.stack.launch.ssh_host is None and _is_local(facts.url):
        words.append("--gpus")
    return words


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"
