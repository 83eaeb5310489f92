"""Runs one server so that no process of it can outlive the harness, not even one killed with SIGKILL.

Started by :mod:`servers.process` as a plain script (``python -I -S guard.py PARENT GRACE_S -- COMMAND ...``) in a
session of its own. Standard input is a pipe whose other end only the harness holds::

    harness ──pipe── guard ── server ── its own children
       │                │        └ PR_SET_PDEATHSIG: dies if the guard is killed
       │                └ subreaper: adopts whatever the server orphans, even what left its session
       └ "i": INT to the server; "s", or TERM to the guard: TERM to its session, wait GRACE_S, KILL to every
         descendant; end of file: the harness is gone, the same with half a second

PR_SET_PDEATHSIG alone would not do: it fires when the starting *thread* ends, does not reach grandchildren, and is
lost on a set-uid exec. The guard is one thread, imports only the standard library, and ends with the server's own
exit code or signal. Guards nest: TERM stays in the session, so that a load generator that is told to end still has
its server; should it be killed instead, that server's guard sees the end of file. On another machine the same
file runs under whatever ``python3`` is there (:mod:`servers.runtimes.ssh`).
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ORPHAN_GRACE_S = 0.5
"""Between TERM and KILL when the harness is gone; the machine should be free within two seconds."""
LEFTOVER_GRACE_S = 0.2
"""What a server left behind may take to notice; KILL follows."""
KILL_TIMEOUT_S = 5.0
LOOK_S = 0.2
CANNOT_RUN = 127
HANDLED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STOP = b"s"
INTERRUPT = b"i"


def main(arguments: list[str]) -> int:
    parent, grace_s, command = int(arguments[0]), float(arguments[1]), arguments[3:]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    told: list[int] = []
    # Handlers, not SIG_IGN, which the server would inherit through exec.
    for number in HANDLED:
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))

    server = _start(command, libc)
    server_status: int | None = None
    children, orphan, kill_at = True, False, math.inf
    while children:
        ended, children = _reap()
        server_status = ended.get(server, server_status)
        orders = b"" if orphan else _orders(parent)
        now = time.monotonic()
        if orders is None:
            orphan = True
            kill_at = min(kill_at, now + min(grace_s, ORPHAN_GRACE_S))
            os.killpg(0, signal.SIGTERM)
        elif (STOP in orders or told) and kill_at == math.inf:
            kill_at = now + grace_s
            os.killpg(0, signal.SIGTERM)
        elif INTERRUPT in orders and server_status is None:
            os.kill(server, signal.SIGINT)
        if server_status is not None:  # what it left behind serves nobody
            kill_at = min(kill_at, now + LEFTOVER_GRACE_S)
        if now >= kill_at:
            _kill_descendants()
            if now >= kill_at + KILL_TIMEOUT_S:
                break
        if children:
            pause = min(LOOK_S, max(0.01, kill_at - now))
            if wake in select.select([wake] if orphan else [0, wake], [], [], pause)[0]:
                os.read(wake, 4096)
    return _end_as(server_status)


def _start(command: list[str], libc: ctypes.CDLL) -> int:
    guard = os.getpid()
    # Held back over the fork: the guard's handlers, still the child's, would swallow a signal this early.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return child
    signal.set_wakeup_fd(-1)
    for number in HANDLED:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        if os.getppid() == guard:  # it may have died between fork and prctl
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(CANNOT_RUN)


def _orders(parent: int) -> bytes | None:
    """What the harness wrote since the last look; None when it is gone."""
    if select.select([0], [], [], 0)[0]:
        return os.read(0, 64) or None
    # A forked copy of the harness may still hold the pipe.
    return b"" if os.getppid() == parent else None


def _reap() -> tuple[dict[int, int], bool]:
    """Collect what ended; False once nothing is left, orphans included, since they are ours by now."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended, False
        if pid == 0:
            return ended, True
        ended[pid] = status


def _kill_descendants() -> None:
    parents: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                stat = os.open(f"{entry.path}/stat", os.O_RDONLY)
            except OSError:
                continue
            try:
                # "pid (name) state ppid ...", and the name may hold anything
                parents[int(entry.name)] = int(os.read(stat, 4096).rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                continue
            finally:
                os.close(stat)
    family = {os.getpid()}
    grew = True
    while grew:
        found = {pid for pid, parent in parents.items() if parent in family} - family
        family |= found
        grew = bool(found)
    for pid in family - {os.getpid()}:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue


def _end_as(status: int | None) -> int:
    """End the way the server ended, so that the harness sees its signal or its code."""
    if status is None:
        return CANNOT_RUN
    # os.waitstatus_to_exitcode came with 3.9, and another machine's python3 may be older
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.set_wakeup_fd(-1)
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
