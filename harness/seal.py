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
from harness.runlog import SERVER_LOG, seal

SERVER_LOG_LIVE = "server.log.live"
"""The log while the server writes to it; copied to ``server.log`` at the seal, so that its digest holds."""


def about_this_host(manifest: Manifest) -> Manifest:
    """Fill in versions, host and GPUs."""
    return manifest.model_copy(
        update={
            "harness_version": _version("llm-sla-harness"),
            "git": _git(),
            "python": platform.python_version(),
            "locust": _version("locust"),
            "host": socket.gethostname(),
            "cores": psutil.cpu_count() or 0,
            "gpus": _gpus(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": manifest.command or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        }
    )


def seal_run(directory: Path, manifest: Manifest, server_log: Path) -> Manifest:
    """Copy the server's log and seal; what cannot be written is said, and what is there stays readable.

    ``server_log`` lies in the first run's directory when one server serves several (web UI).
    """
    if server_log.exists():
        try:
            shutil.copyfile(server_log, directory / SERVER_LOG)
        except OSError as error:
            raise RunDirectoryError(f"cannot copy the server's log in {directory}: {error}") from error
    return seal(directory, manifest)


@cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


@cache
def _git() -> str:
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
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
        names = [
            pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index))
            for index in range(pynvml.nvmlDeviceGetCount())
        ]
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return ()
    return tuple(names)
