"""Servers: one launcher a file, plus what it launches.

A new engine is one file and one line in ``LAUNCHERS``. Every server runs in an environment of its own, under
:mod:`servers.guard`, and is ready once a token came back (:mod:`servers.ready`).
"""

from __future__ import annotations

from harness.errors import UsageError
from harness.spec import Stack
from servers.attach import Attach
from servers.base import Launcher, RunningServer
from servers.emulator_launcher import Emulator
from servers.llamacpp import LlamaCpp

LAUNCHERS: dict[str, Launcher] = {
    "llamacpp": LlamaCpp(),
    "emulator": Emulator(),
    "attach": Attach(),
    "openai": Attach(),
}
"""A stack's ``engine`` to what starts it."""


def launcher_for(stack: Stack, emulate: bool) -> Launcher:
    """The launcher of a stack.

    Raises
    ------
    UsageError
        For an engine that this harness does not start itself.
    """
    if emulate:
        return LAUNCHERS["emulator"]
    if stack.engine not in LAUNCHERS:
        raise UsageError(
            f"stack '{stack.name}' runs on {stack.engine}, which the harness does not start: start it yourself and "
            f"give its URL, or run it on the emulator; started here are {', '.join(LAUNCHERS)}"
        )
    return LAUNCHERS[stack.engine]


__all__ = ["LAUNCHERS", "Launcher", "RunningServer", "launcher_for"]
