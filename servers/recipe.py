"""How to start one server, as a launcher says it and a runtime may wrap it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Calibration = Literal["", "roofline", "claims"]
STOP_GRACE_S = 5.0


def no_words(_lines: Sequence[str]) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to start one server.

    With ``port`` None the server announces itself: once it listens, the command prints one line
    ``{"ready": true, "port": P}`` on standard output, with ``version`` and ``model`` where it knows them. It chooses
    its port itself, so that none can be lost between choosing and binding. A server of somebody else's making
    announces nothing: it was told to listen on ``port`` of 127.0.0.1 (:func:`servers.base.port_for`).
    """

    command: tuple[str, ...]
    port: int | None = None
    version: str = ""
    """Of a server that does not announce it."""
    metrics_path: str = ""
    """Where it counts in Prometheus's format: a path on its own port, or a whole URL."""
    ports: tuple[int, ...] = ()
    """Where it listens besides ``port``, such as for metrics: published and forwarded with it, number by number."""
    variables: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    mounts: tuple[Path, ...] = ()
    """Files and directories that the server reads, such as weights: a container sees them under the same path, and
    may not write. With ``ssh_host`` they are paths of that machine."""
    generated: tuple[Path, ...] = ()
    """The same for what a launcher wrote for this start on this machine; it is sent along to another."""
    details: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    emulated: bool = False
    calibration: Calibration = ""
    grace_s: float = STOP_GRACE_S
    """Between TERM and KILL when the server is stopped in order."""
    here: bool = True
    """Its processes are children of ours, and so can be measured on this machine."""
    explain: Callable[[Sequence[str]], str] = no_words
    """What a runtime reads from the last lines of the log of a start that failed: one sentence, or nothing."""
    image: str = ""
    """Of its container; empty: as the launch recipe names it."""
