"""The near end of an ssh connection: ``python ssh_main.py ORDER_FILE -- SSH ...``.

Started by :mod:`servers.guard`. Sends :mod:`servers.runtimes.remote_main`, the order and the files that belong to it,
then a byte every few seconds. The values of the server's variables come from this process's own environment, so that
they reach neither a file nor an argument list. Told to end, it passes that on; however it is killed, the connection
and with it the server's input end. It ends with the server's exit code, or its signal.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import IO, Any

ALIVE_S = 5.0
LOOK_S = 0.2
SSH_FAILED = 255
"""ssh's own exit code for a connection that was never made, or was lost."""
HERE = Path(__file__).resolve().parent
ALWAYS = {"guard.py": str(HERE.parent / "guard.py")}
ORDERS = {signal.SIGTERM: b"s", signal.SIGHUP: b"s", signal.SIGINT: b"i"}


def main(arguments: list[str]) -> int:
    order_file, command = Path(arguments[0]), arguments[2:]
    order = json.loads(order_file.read_text())
    order_file.unlink()
    told: list[int] = []
    for number in ORDERS:
        signal.signal(number, lambda number, _: told.append(number))
    try:
        ssh = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error.strerror}\n".encode())
        return 127
    assert ssh.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # ssh says why, and ends
        _send(ssh.stdin, order)
        sent_at = time.monotonic()
        while ssh.poll() is None:
            orders = b"".join(dict.fromkeys(ORDERS[signal.Signals(told.pop(0))] for _ in told[:]))
            if orders or time.monotonic() - sent_at >= ALIVE_S:
                ssh.stdin.write(orders or b".")
                ssh.stdin.flush()
                sent_at = time.monotonic()
            with contextlib.suppress(subprocess.TimeoutExpired):
                ssh.wait(LOOK_S)
    return _end_as(ssh.wait())


def _send(remote: IO[bytes], order: dict[str, Any]) -> None:
    program = (HERE / "remote_main.py").read_bytes()
    archive = _archive(order.pop("files"))
    names = order.pop("variable_names")
    order |= {"variables": {name: os.environ[name] for name in names}, "archive": len(archive)}
    remote.write(b"%d\n" % len(program) + program + json.dumps(order).encode() + b"\n" + archive)
    remote.flush()


def _archive(files: dict[str, str]) -> bytes:
    """Names within the far folder to files and directories here."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as archive:
        for name, path in {**ALWAYS, **files}.items():
            archive.add(path, name)
    return buffer.getvalue()


def _end_as(code: int) -> int:
    """128 + N is the far end's way to say that signal N ended the server."""
    number = code - 128
    if code == SSH_FAILED or not 0 < number < signal.NSIG:
        return abs(code)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
