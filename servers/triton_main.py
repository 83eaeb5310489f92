"""Runs ``tritonserver`` and ends it when one of its models' processes is gone: ``triton_main.py COMMAND ...``.

Each Python model runs in a stub process. When one dies (killed for its memory, crashed in a native library), Triton
stays alive, calls the model ready, refuses new requests and never ends those under way. Here that is the server's
end, said in the log, so that whoever waits for an answer gets one. Nothing but the standard library of Python 3.8:
NVIDIA's container runs this file with its own ``python3``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

STUB = "triton_python_backend_stub"
LOOK_S = 0.5
LOOKS = 3
"""A stub that Triton ends itself, after it completed a model's configuration, is reaped before as many looks."""
LOST = 70
"""Exit code when a model's process is gone."""


class Stub(NamedTuple):
    """A model's process; ``status`` is that of ``waitpid`` once it ended and was not reaped, None before."""

    pid: int
    model: str
    status: int | None


def main(command: list[str]) -> int:
    server = subprocess.Popen(command)
    told: list[int] = []

    def forward(number: int, _frame: object) -> None:
        # A container's runtime tells its first process only. A guard tells the whole group, and Triton minds once.
        told.append(number)
        server.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    models: dict[int, str] = {}
    looks: dict[int, int] = {}
    while True:
        try:
            return end_as(server.wait(LOOK_S))
        except subprocess.TimeoutExpired:
            pass
        stubs = stubs_of(server.pid)
        models.update({stub.pid: stub.model for stub in stubs if stub.status is None})
        looks = {stub.pid: looks.get(stub.pid, 0) + 1 for stub in stubs if stub.status is not None}
        lost = next((stub for stub in stubs if looks.get(stub.pid, 0) >= LOOKS), None)
        if lost is not None and lost.status is not None and not told:
            say(models.get(lost.pid, "?"), lost.status)
            server.kill()
            server.wait()
            return LOST


def stubs_of(server: int) -> list[Stub]:
    """The stubs below a process (MPI may stand between), the ended ones with their status."""
    parents, stubs = {}, []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # "pid (name) state ppid ... exit_code"; the kernel cuts a name after 15 characters.
            head, _, tail = (entry / "stat").read_text(errors="replace").rpartition(")")
            fields = tail.split()
            pid = int(entry.name)
            parents[pid] = int(fields[1])
            if head.partition("(")[2] != STUB[:15]:
                continue
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        # .../REPOSITORY/MODEL/VERSION/model.py is its first argument
        model = Path(os.fsdecode(command[1])).parent.parent.name if len(command) > 1 else ""
        stubs.append(Stub(pid, model, int(fields[-1]) if fields[0] in "ZX" else None))
    return [stub for stub in stubs if server in above(stub.pid, parents)]


def above(pid: int, parents: dict[int, int]) -> list[int]:
    """A process's ancestors."""
    found: list[int] = []
    while (pid := parents.get(pid, 0)) and pid not in found:
        found.append(pid)
    return found


def say(model: str, status: int) -> None:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        how = f"was killed by {signal.Signals(number).name}" + (" (out of memory?)" if number == signal.SIGKILL else "")
    else:
        how = f"ended with exit code {os.WEXITSTATUS(status)}"
    sys.stderr.write(
        f"the process of model '{model}' {how}; Triton goes on without it and would keep its requests waiting, "
        "so the server is ended\n"
    )
    sys.stderr.flush()


def end_as(code: int) -> int:
    """End the way the server ended, so that whoever watches sees its signal or its code."""
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
