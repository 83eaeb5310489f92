"""A server's process: started under :mod:`servers.guard`, its log in a file, torn down with all it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

from harness.lifecycle import describe_exit as describe_exit
from servers import guard
from servers.recipe import STOP_GRACE_S

GUARD = Path(guard.__file__)
TAIL_LINES = 40
TAIL_BYTES = 64 * 1024
LINE_CHARACTERS = 400


class ServerProcess:
    """One running command and everything it starts.

    It may be started from any thread, and in an interpreter patched by gevent: the guard watches the process.
    Interrupts of the terminal do not reach it, so Ctrl-C is the harness's to handle.

    Parameters
    ----------
    command
        The program and its arguments.
    log_file
        Where its standard error goes, appended.
    stdout_file
        Where its standard output goes; None: with the standard error.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log_file: Path,
        stdout_file: Path | None = None,
        directory: Path | None = None,
        variables: Mapping[str, str] | None = None,
        grace_s: float = STOP_GRACE_S,
    ) -> None:
        self.command = tuple(command)
        self.log_file = log_file
        self.grace_s = grace_s
        self._exit_code: int | None = None
        self._asked_to_end = False
        guarded = [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), str(grace_s), "--", *command]
        orders, self._orders = os.pipe()
        try:
            with log_file.open("ab") as log:
                self._log_start = log.tell()
                output: IO[bytes] = log if stdout_file is None else stdout_file.open("wb")
                try:
                    self._guard = subprocess.Popen(
                        guarded,
                        stdin=orders,
                        stdout=output,
                        stderr=log,
                        cwd=directory,
                        env=None if variables is None else {**os.environ, **variables},
                        start_new_session=True,
                    )
                finally:
                    if output is not log:
                        output.close()
        except BaseException:
            os.close(self._orders)  # a guard that was started all the same sees the end of file
            raise
        finally:
            os.close(orders)

    @property
    def pid(self) -> int:
        """Root of the process tree: the guard, whose only child is the server."""
        return self._guard.pid

    @property
    def log_size(self) -> int:
        """Bytes of the log so far, whoever wrote them."""
        try:
            return self.log_file.stat().st_size
        except OSError:
            return 0

    @property
    def died(self) -> bool:
        """It ended, and nobody had asked it to."""
        return self.poll() is not None and not self._asked_to_end

    def poll(self) -> int | None:
        """The exit code (negative: the signal that killed it), None while it runs."""
        if self._exit_code is None:
            code = self._guard.poll()
            if code is not None:
                self._ended(code)
        return self._exit_code

    def interrupt(self) -> None:
        """Ask it to end by itself, as Ctrl-C would, and do not wait."""
        self._order(guard.INTERRUPT)

    def tell_to_end(self) -> None:
        """Tell it to end, from any thread, and do not wait; :meth:`stop` does."""
        self._asked_to_end = True
        self._guard.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """End it and all it started: TERM, then KILL after ``grace_s``; more calls change nothing."""
        if self.poll() is None:
            self._order(guard.STOP)
            try:
                code = self._guard.wait(self.grace_s + guard.KILL_TIMEOUT_S + 1.0)
            except BaseException as error:  # a second Ctrl-C, or a guard that hangs
                self._guard.kill()
                self._ended(self._guard.wait())
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
            else:
                self._ended(code)
        assert self._exit_code is not None
        return self._exit_code

    def tail(self, lines: int = TAIL_LINES) -> tuple[str, ...]:
        """The last lines of the log since this start."""
        return tail(self.log_file, lines=lines, start=self._log_start)

    def _order(self, order: bytes) -> None:
        if self.poll() is None:
            self._asked_to_end = True
            with contextlib.suppress(BrokenPipeError):  # it may end in this moment
                os.write(self._orders, order)

    def _ended(self, code: int) -> None:
        if self._exit_code is None:
            self._exit_code = code
            os.close(self._orders)
            if code == -signal.SIGKILL:
                # Should it be the guard that was killed, then its server died of it, but not the server's children.
                with contextlib.suppress(OSError):
                    os.killpg(self.pid, signal.SIGKILL)


def tail(path: Path, *, lines: int = TAIL_LINES, start: int = 0) -> tuple[str, ...]:
    """The last lines of a file after ``start``, reading a bounded part of it; none if it is not there."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            begin = max(start, end - TAIL_BYTES)
            file.seek(begin)
            text = file.read(TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return ()
    found = text.splitlines()
    if begin > start and len(found) > 1:
        found = found[1:]  # cut in the middle
    shown = [line.rstrip()[:LINE_CHARACTERS] for line in found if line.strip()]
    return tuple(shown[-lines:])


def without(secrets: Iterable[str], lines: Iterable[str]) -> tuple[str, ...]:
    """Blank out every secret."""
    shown = tuple(lines)
    for secret in secrets:
        if secret:
            shown = tuple(line.replace(secret, "***") for line in shown)
    return shown
