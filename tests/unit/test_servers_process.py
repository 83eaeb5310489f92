"""Processes end with their parent, whatever they do, and whatever happens to the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from servers_support import Mark, script, until

from servers.process import TAIL_LINES, ServerProcess, describe_exit, tail, without

ROOT = Path(__file__).resolve().parents[2]
SLEEPER = "import sys, time\nprint('up', file=sys.stderr, flush=True)\ntime.sleep(600)\n"
STUBBORN = "import signal\nfor n in (15, 2, 1): signal.signal(n, signal.SIG_IGN)\n" + SLEEPER
# A child in the same session, and one that left it by the double fork of a daemon.
FAMILY = """
import os, subprocess, sys, time
command = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)", sys.argv[1]]
subprocess.Popen(command)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(command[0], command)
    os._exit(0)
print("up", file=sys.stderr, flush=True)
time.sleep(600)
"""


def start(tmp_path: Path, text: str, mark: Mark, grace_s: float = 5.0) -> ServerProcess:
    return ServerProcess(script(tmp_path, text, mark.text), log_file=tmp_path / "server.log", grace_s=grace_s)


def is_up(process: ServerProcess) -> bool:
    return "up" in process.tail()


def test_log_and_exit_code(tmp_path: Path, mark: Mark) -> None:
    process = start(
        tmp_path, "import sys\nprint('to stdout')\nprint('to stderr', file=sys.stderr)\nsys.exit(7)\n", mark
    )
    until(lambda: process.poll() is not None)
    assert process.poll() == 7
    assert process.died
    assert sorted(process.tail()) == ["to stderr", "to stdout"]
    assert process.stop() == 7
    assert process.died, "a stop after the death does not hide it"


def test_the_servers_signal_is_seen(tmp_path: Path, mark: Mark) -> None:
    process = start(tmp_path, "import os\nos.kill(os.getpid(), 11)\n", mark)
    until(lambda: process.poll() is not None)
    assert process.poll() == -signal.SIGSEGV


def test_stdout_goes_to_its_own_file(tmp_path: Path, mark: Mark) -> None:
    said = tmp_path / "said"
    command = script(tmp_path, "import sys\nprint('to stdout')\nprint('to stderr', file=sys.stderr)\n", mark.text)
    process = ServerProcess(command, log_file=tmp_path / "server.log", stdout_file=said, variables={"A": "b"})
    until(lambda: process.poll() is not None)
    assert said.read_text() == "to stdout\n"
    assert process.tail() == ("to stderr",)


def test_stop_ends_in_order(tmp_path: Path, mark: Mark) -> None:
    process = start(tmp_path, SLEEPER, mark)
    until(lambda: is_up(process))
    assert process.poll() is None
    assert process.stop() == -signal.SIGTERM
    assert not process.died
    assert process.stop() == -signal.SIGTERM


def test_stop_kills_what_ignores_term(tmp_path: Path, mark: Mark) -> None:
    process = start(tmp_path, STUBBORN, mark, grace_s=0.3)
    until(lambda: is_up(process))
    began = time.monotonic()
    assert process.stop() == -signal.SIGKILL
    assert time.monotonic() - began < 3
    assert mark.gone()


def test_stop_ends_grandchildren_too(tmp_path: Path, mark: Mark) -> None:
    process = start(tmp_path, FAMILY, mark)
    until(lambda: is_up(process) and len(mark.pids()) >= 4)
    process.stop()
    assert mark.gone()


def test_grandchildren_do_not_outlive_a_server_that_died(tmp_path: Path, mark: Mark) -> None:
    process = start(tmp_path, FAMILY.replace("time.sleep(600)\n", "sys.exit(3)\n")[:-1], mark)
    until(lambda: process.poll() is not None)
    assert process.poll() == 3
    assert mark.gone()


def test_interrupt_reaches_the_server_only(tmp_path: Path, mark: Mark) -> None:
    text = f"import signal, sys\nsignal.signal(2, lambda *_: sys.exit(5))\n{SLEEPER}"
    process = start(tmp_path, text, mark)
    until(lambda: is_up(process))
    process.interrupt()
    until(lambda: process.poll() is not None)
    assert process.poll() == 5
    assert not process.died
    process.interrupt()


@pytest.mark.parametrize("order", [ServerProcess.interrupt, ServerProcess.tell_to_end, ServerProcess.stop])
def test_an_order_before_the_server_runs_is_not_lost(
    tmp_path: Path, mark: Mark, order: Callable[[ServerProcess], object]
) -> None:
    """The guard reads it right after the fork; several times, since a lost one needs the child to be late."""
    for _ in range(5):
        process = start(tmp_path, SLEEPER, mark)
        order(process)
        until(lambda process=process: process.poll() is not None)
        assert process.poll() != -signal.SIGKILL


@pytest.mark.parametrize("text", [SLEEPER, STUBBORN, FAMILY], ids=["plain", "stubborn", "family"])
@pytest.mark.parametrize("guards", [1, 2])
def test_kill_9_of_the_parent_leaves_nothing(tmp_path: Path, mark: Mark, text: str, guards: int) -> None:
    """Within two seconds; with two guards, the parent's parent is killed, as when ``harness run`` is."""
    command = script(tmp_path, text, mark.text)
    for level in range(guards):
        parent = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from servers.process import ServerProcess
process = ServerProcess({command!r}, log_file=Path({str(tmp_path / f"server-{level}.log")!r}))
time.sleep(600)
"""
        command = script(tmp_path, parent, mark.text)
    top = subprocess.Popen(command)
    try:
        until(lambda: "up" in tail(tmp_path / "server-0.log"))
    finally:
        top.kill()
        top.wait()
    until(mark.gone, 2.0)


def test_kill_9_of_a_parent_that_waits_for_an_orderly_end(tmp_path: Path, mark: Mark) -> None:
    parent = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from servers.process import ServerProcess
command = {script(tmp_path, STUBBORN, mark.text)!r}
process = ServerProcess(command, log_file=Path({str(tmp_path / "server.log")!r}), grace_s=600)
while "up" not in process.tail():
    time.sleep(0.01)
print("stopping")
process.stop()
"""
    top = subprocess.Popen(script(tmp_path, parent), stdout=subprocess.PIPE, text=True)
    assert top.stdout is not None
    with top.stdout:
        assert top.stdout.readline() == "stopping\n"
    top.kill()
    top.wait()
    until(mark.gone, 2.0)


def test_term_to_the_guard_ends_in_order(tmp_path: Path, mark: Mark) -> None:
    process = start(tmp_path, SLEEPER, mark)
    until(lambda: is_up(process))
    os.kill(process.pid, signal.SIGTERM)
    until(lambda: process.poll() is not None)
    assert process.poll() == -signal.SIGTERM


def test_kill_9_of_the_guard_leaves_nothing(tmp_path: Path, mark: Mark) -> None:
    text = FAMILY.replace("    os.setsid()\n", "")  # what left its session is beyond reach once the guard is gone
    process = start(tmp_path, text, mark)
    until(lambda: is_up(process) and len(mark.pids()) >= 4)
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: process.poll() is not None)
    assert process.poll() == -signal.SIGKILL
    assert process.died
    until(mark.gone, 2.0)


def test_a_forked_copy_of_the_parent_does_not_keep_the_server(tmp_path: Path, mark: Mark) -> None:
    """The copy holds the pipe, so there is no end of file; the guard sees its parent change."""
    parent = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from servers.process import ServerProcess
process = ServerProcess({script(tmp_path, SLEEPER, mark.text)!r}, log_file=Path({str(tmp_path / "server.log")!r}))
if os.fork() == 0:
    sys.stdout.write(str(os.getpid()) + "\\n")
    sys.stdout.flush()
time.sleep(600)
"""
    top = subprocess.Popen(script(tmp_path, parent), stdout=subprocess.PIPE, text=True)
    assert top.stdout is not None
    copy = int(top.stdout.readline())
    try:
        until(lambda: "up" in tail(tmp_path / "server.log"))
        top.kill()
        top.wait()
        until(mark.gone, 2.0)
    finally:
        os.kill(copy, signal.SIGKILL)
        top.stdout.close()


def test_the_server_outlives_the_thread_that_started_it(tmp_path: Path, mark: Mark) -> None:
    made: list[ServerProcess] = []
    thread = threading.Thread(target=lambda: made.append(start(tmp_path, SLEEPER, mark)))
    thread.start()
    thread.join()
    until(lambda: is_up(made[0]))
    with pytest.raises(AssertionError):
        until(lambda: made[0].poll() is not None, 0.5)
    made[0].stop()


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    process = ServerProcess([str(tmp_path / "no-such-program")], log_file=tmp_path / "server.log")
    until(lambda: process.poll() is not None)
    assert process.poll() == 127
    assert process.tail() == (f"cannot run {tmp_path / 'no-such-program'}: No such file or directory",)


def test_in_an_interpreter_patched_by_gevent(tmp_path: Path, mark: Mark) -> None:
    parent = f"""
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from servers.process import ServerProcess
ticks = []
def tick():
    while True:
        ticks.append(time.monotonic())
        gevent.sleep(0.01)
gevent.spawn(tick)
log = Path({str(tmp_path / "server.log")!r})
process = ServerProcess({script(tmp_path, STUBBORN, mark.text)!r}, log_file=log, grace_s=0.5)
while "up" not in process.tail():
    time.sleep(0.01)
assert process.poll() is None
seen = len(ticks)
assert process.stop() == -9
assert len(ticks) > seen + 10, "stop() held up the other greenlets"
quick = ServerProcess([sys.executable, "-c", "raise SystemExit(4)"], log_file=log)
while quick.poll() is None:
    time.sleep(0.01)
assert quick.poll() == 4 and quick.died
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:.*fork:DeprecationWarning", *script(tmp_path, parent)[1:]],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert mark.gone()


def test_tail_is_bounded(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(
        b"first\n" + b"x" * 300_000 + b"\n\n" + b"\xff odd\n" + b"".join(b"line %d\n" % i for i in range(100))
    )
    lines = tail(log)
    assert len(lines) == TAIL_LINES
    assert lines[-1] == "line 99"
    assert max(map(len, tail(log, lines=200))) <= 400
    assert tail(log, lines=1, start=log.stat().st_size) == ()
    assert tail(tmp_path / "nothing") == ()


def test_tail_starts_where_this_start_began(tmp_path: Path, mark: Mark) -> None:
    (tmp_path / "server.log").write_text("from the start before\n")
    process = start(tmp_path, "print('now')\n", mark)
    until(lambda: process.poll() is not None)
    assert process.tail() == ("now",)


def test_without_secrets() -> None:
    assert without(["secret", ""], ["a secret key", "b"]) == ("a *** key", "b")


def test_describe_exit() -> None:
    assert describe_exit(3) == "ended with exit code 3"
    assert describe_exit(-signal.SIGSEGV) == "was killed by SIGSEGV"
    assert describe_exit(-signal.SIGKILL) == "was killed by SIGKILL (out of memory?)"
    assert describe_exit(-200) == "was killed by signal 200"
