"""The family of errors a user can meet, and the exit codes of every door.

HarnessError
├── UsageError           2   a wrong option, an unknown name
│   └── SpecError        2   one or more mistakes in YAML, all reported at once
├── RunDirectoryError    2   a run directory that cannot be read or written
├── ScoringError         2   answers that could not be scored
├── HistoryError         2   a history store that cannot be read or written
├── ServerError          3   a server that did not stand up
└── LoadError            4   the load generator itself failed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """What a process of the harness ends with; 97 to 99 are verdicts, not crashes."""

    PASS = 0
    USAGE = 2
    SERVER = 3
    LOAD = 4
    INVALID = 97
    INCONCLUSIVE = 98
    FAIL = 99
    INTERRUPTED = 130


class HarnessError(Exception):
    """Its text is one plain sentence for the user; doors print it without a stack trace."""

    exit_code = ExitCode.USAGE


class UsageError(HarnessError):
    """A wrong option or an unknown name."""


class SpecError(UsageError):
    """Mistakes in specification files.

    Parameters
    ----------
    problems
        One line each, ``file:line: what is wrong, allowed values``.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class RunDirectoryError(HarnessError):
    """A run directory that cannot be read or written (no space, not a run, wrong format)."""


class ScoringError(HarnessError):
    """A process that scores answers crashed."""


class HistoryError(HarnessError):
    """A history store that cannot be read or written (locked, damaged, newer), or a run without a place in it."""


class ServerError(HarnessError):
    """A server that did not stand up; the text ends with the last lines of its log."""

    exit_code = ExitCode.SERVER


class LoadError(HarnessError):
    """The load generator crashed or could not start."""

    exit_code = ExitCode.LOAD


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Build the error for a name that is not in the catalog, with the nearest known one."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
    return UsageError(f"unknown {kind} '{name}'; {hint}")
