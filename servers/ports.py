"""Ports of 127.0.0.1 that nobody listens on."""

from __future__ import annotations

import socket
from contextlib import ExitStack


def free_ports(count: int) -> list[int]:
    """So many, no two the same. Each may be taken again before it is used: nothing holds it."""
    with ExitStack() as held:  # all at once, or the second could be the first again
        trials = [held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) for _ in range(count)]
        for trial in trials:
            trial.bind(("127.0.0.1", 0))
        return [int(trial.getsockname()[1]) for trial in trials]
