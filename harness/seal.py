"""What a manifest says of the host, and the sealing of a run directory once nothing writes to it."""

from __future__ import annotations

import platform
import shlex
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

import psutil

from harness.errors import RunDirectoryError
from harness.manifest import Manifest
from harness.runlog import REPLICA_LOGS, SERVER_LOG, seal
from servers.gpus import gpus_here

LIVE = ".live"
SERVER_LOG_LIVE = SERVER_LOG + LIVE
"""The log while the server writes to it; copied to ``server.log`` at the seal, so that its digest holds.
Replicas have ``server-1.log.live`` and so on beside it."""


def about_this_host(manifest: Manifest) -> Manifest:
    """Fill in versions, host and GPUs."""
    return manifest.model_copy(
        update={
            "harness_version": package_version("llm-sla-harness"),
            "git": git_version(),
            "python": platform.python_version(),
            "locust": package_version("locust"),
            "host": socket.gethostname(),
            "cores": psutil.cpu_count() or 0,
            "gpus": _gpus(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": manifest.command or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        }
    )


def seal_run(directory: Path, manifest: Manifest, server_log: Path) -> Manifest:
    """Copy the logs of the server and its replicas, and seal; what cannot be written is said, what is there stays.

    ``server_log`` lies in the first run's directory when one server serves several (web UI).
    """
    for log in live_logs(server_log):
        try:
            shutil.copyfile(log, directory / log.name.removesuffix(LIVE))
        except OSError as error:
            raise RunDirectoryError(f"cannot copy the server's log in {directory}: {error}") from error
    return seal(directory, manifest)


def live_logs(server_log: Path) -> list[Path]:
    """The server's log and its replicas', as far as they exist."""
    beside = server_log.parent.glob(REPLICA_LOGS + LIVE)
    return [log for log in (server_log, *sorted(beside)) if log.exists()]


@cache
def package_version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


@cache
def git_version() -> str:
    """The checkout's commit, with ``-dirty`` when it was changed; empty without git."""
    root = Path(__file__).parent.parent
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@cache
def _gpus() -> tuple[str, ...]:
    return tuple(each.text for each in gpus_here().gpus)
