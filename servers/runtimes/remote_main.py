"""The far end of an ssh connection: runs one server there, which ends when the connection does.

Its source is the first thing that :mod:`servers.runtimes.ssh_main` sends, to ``python3 -c`` of the other machine (3.7
or newer), so it imports nothing of the harness. On standard input follow one line of JSON (the order), a tar archive
of ``archive`` bytes, and then single bytes for as long as the server is wanted::

    "."  still here, every few seconds     "s"  end it in order     "i"  INT to it

End of input, or silence for a minute, as when a network is cut without a word: the harness is gone. The server itself
runs under ``guard.py``, which came in the archive; that file says how a family of processes is ended.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import IO, Any

SAYS = "llm-harness:"
"""Before a sentence of this program, so that the harness knows it from the server's own lines."""
SILENCE_S = 60.0
LOOK_S = 0.2
CANNOT_START = 75
ALIVE = b"."


class _RefusalError(Exception):
    """A reason not to start, in one sentence."""


def main(source: IO[bytes]) -> int:
    order = json.loads(source.readline())
    folder = Path(order["folder"])
    (folder / "work").mkdir(0o700, parents=True)
    folder.chmod(0o700)  # parents of mkdir get the default
    try:
        _unpack(source, order["archive"], folder)
        _check(order)
        return _exit_code(_watch(_start(order)))
    except _RefusalError as refusal:
        os.write(2, f"{SAYS} {refusal}\n".encode())
        return CANNOT_START
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(source: IO[bytes], size: int, folder: Path) -> None:
    archive = folder / "sent.tar"
    with archive.open("wb") as file:
        while size:
            part = source.read(min(size, 1 << 16))
            if not part:
                raise _RefusalError("the connection ended too early")
            file.write(part)
            size -= len(part)
    with tarfile.open(archive) as files:
        checked: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        files.extractall(folder, **checked)
    archive.unlink()


def _check(order: dict[str, Any]) -> None:
    for port in order["ports"]:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError as error:
                reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
                raise _RefusalError(f"port {port} {reason}") from error
    directory = order["directory"]
    if directory and not Path(directory).is_dir():
        raise _RefusalError(f"the directory {directory} is not there")
    for program in order["programs"]:
        if shutil.which(program, path={**os.environ, **order["variables"]}.get("PATH")) is None:
            raise _RefusalError(f"there is no program {program} that can be run")
    for path in order["needed"]:
        if not Path(path).exists():
            raise _RefusalError(f"{path} is not there")


def _start(order: dict[str, Any]) -> subprocess.Popen[bytes]:
    guard = Path(order["folder"]) / "guard.py"
    command = [sys.executable, "-I", "-S", str(guard), str(os.getpid()), str(order["grace_s"]), "--", *order["command"]]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        cwd=order["directory"] or None,
        env={**os.environ, **order["variables"]},
        start_new_session=True,
    )


def _watch(guard: subprocess.Popen[bytes]) -> int:
    """Hand orders on until the guard has ended, which it does when its own input is closed."""
    assert guard.stdin is not None
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: told.append(number))
    heard_at, wanted = time.monotonic(), True
    while guard.poll() is None:
        orders = _heard() if wanted else b""
        if orders is None or (wanted and (told or time.monotonic() - heard_at > SILENCE_S)):
            wanted = False
            guard.stdin.close()
        elif orders:
            heard_at = time.monotonic()
            if orders.strip(ALIVE):
                with contextlib.suppress(BrokenPipeError):  # it may end in this moment
                    os.write(guard.stdin.fileno(), orders.replace(ALIVE, b""))
        if not wanted:
            time.sleep(LOOK_S / 4)
    return int(guard.returncode)


def _heard() -> bytes | None:
    """What came within a moment; None when the connection is over."""
    return (os.read(0, 64) or None) if select.select([0], [], [], LOOK_S)[0] else b""


def _exit_code(code: int) -> int:
    """128 + N for signal N, since ssh says of a signal only that there was one."""
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(open(0, "rb", 0, closefd=False)))  # noqa: SIM115
