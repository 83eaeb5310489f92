"""Runs ``docker run`` and sees to it that the container ends: ``container_main.py ENGINE CIDFILE STOP_S -- RUN``.

Started by :mod:`servers.guard`, on this machine or on another, by any Python from 3.7 on; it imports nothing of the
harness. It holds the container's standard input open, which ends with it however it is killed. Told to end by TERM
or INT, it has the engine stop the container; when the command is over, it has the container removed, should the
command have been killed before it did so itself. It ends with the server's exit code, or its signal.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

LOOK_S = 0.2
AGAIN_S = 1.0
"""Between two requests to stop: the first one may come before the container does."""
REMOVE_TIMEOUT_S = 5.0


def main(arguments: list[str]) -> int:
    engine, cid_file, stop_s, command = arguments[0], arguments[1], arguments[2], arguments[4:]
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: told.append(number))
    try:
        # A session of its own: TERM of the guard is for this program, which stops the container once and in order.
        run = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error.strerror}\n".encode())
        return 127
    stopped_at = -AGAIN_S
    while run.poll() is None:
        if told and time.monotonic() - stopped_at >= AGAIN_S:
            container = _container(cid_file)
            if container is not None:
                _engine(engine, "stop", "-t", stop_s, container, timeout_s=float(stop_s) + REMOVE_TIMEOUT_S)
            stopped_at = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(LOOK_S)
    container = _container(cid_file)
    if container is not None:
        _engine(engine, "rm", "--force", container, timeout_s=REMOVE_TIMEOUT_S)
        with contextlib.suppress(OSError):
            Path(cid_file).unlink()
    return _end_as(run.returncode)


def _container(cid_file: str) -> str | None:
    try:
        return Path(cid_file).read_text().strip() or None
    except OSError:
        return None


def _engine(*words: str, timeout_s: float) -> None:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        quiet = subprocess.DEVNULL
        subprocess.run(words, stdin=quiet, stdout=quiet, stderr=quiet, timeout=timeout_s, check=False)


def _end_as(code: int) -> int:
    """128 + N is an engine's way to say that signal N ended the server."""
    number = -code if code < 0 else code - 128
    if not 0 < number < signal.NSIG:
        return code
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return code if code >= 0 else 128 + number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
