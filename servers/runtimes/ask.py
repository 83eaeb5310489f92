"""Short questions to a program, on this machine or on another: what it said, and how it ended."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

NOT_THERE = 127
"""A shell's exit code for a program that it does not find."""
TOO_LATE = 124
"""What ``timeout`` ends with when the time is over."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended; ``out`` and ``err`` without the last line break."""

    code: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """The last line that it said, which is where programs say why."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1][:300] if lines else f"exit code {self.code}"


Ask = Callable[[Sequence[str]], Answer]
"""Runs one command to its end. It raises nothing for a program that is missing, fails or hangs."""


def ask_here(words: Sequence[str], timeout_s: float = 20.0) -> Answer:
    """Ask on this machine."""
    try:
        done = subprocess.run(
            [*words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(TOO_LATE, "", f"no answer in {timeout_s:g} s")
    except OSError as error:
        return Answer(NOT_THERE, "", f"{words[0]}: {error.strerror}")
    return Answer(done.returncode, done.stdout.rstrip("\n"), done.stderr.rstrip("\n"))
