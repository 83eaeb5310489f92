"""The process between the guard and Triton: it ends the server with its models' processes, and as the server ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from servers_support import until

from servers import triton_main
from servers.triton_main import LOST, STUB, above, stubs_of

SERVER = """
import signal, subprocess, sys, time
def end(number, frame):
    print("told", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
stub = subprocess.Popen(sys.argv[1:])  # never waited for, as Triton does not
print(stub.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A program of a stub's name that waits."""
    path = tmp_path / STUB
    path.symlink_to("/bin/sleep")
    return path


@pytest.fixture
def watched(tmp_path: Path, stub: Path) -> Iterator[subprocess.Popen[str]]:
    (tmp_path / "server.py").write_text(SERVER)
    command = [sys.executable, triton_main.__file__, sys.executable, str(tmp_path / "server.py"), str(stub), "600"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0)
    yield process
    process.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the stub holds the pipes open
    process.communicate(timeout=10)


def stub_of(process: subprocess.Popen[str]) -> int:
    """The stub's process, once it runs under its name."""
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    until(lambda: any(found.pid == pid for found in stubs_of(process.pid)))
    return pid


def test_a_killed_stub_ends_the_server(watched: subprocess.Popen[str]) -> None:
    pid = stub_of(watched)
    assert [(found.pid, found.status) for found in stubs_of(watched.pid)] == [(pid, None)]
    time_before = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    out, err = watched.communicate(timeout=30)
    assert watched.returncode == LOST
    assert time.monotonic() - time_before > triton_main.LOOK_S  # not at its first sight: Triton reaps its own
    assert "was killed by SIGKILL (out of memory?); Triton goes on without it" in err
    assert out == ""  # it was not told, but killed: it would wait for its requests


def test_a_stub_that_ends_by_itself_says_its_code(watched: subprocess.Popen[str]) -> None:
    os.kill(stub_of(watched), signal.SIGTERM)
    _, err = watched.communicate(timeout=30)
    assert watched.returncode == LOST
    assert "was killed by SIGTERM; Triton" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_it_is_told_reaches_the_server(watched: subprocess.Popen[str], number: signal.Signals) -> None:
    pid = stub_of(watched)
    os.kill(watched.pid, number)
    watched.wait(30)
    os.kill(pid, signal.SIGKILL)
    out, err = watched.communicate(timeout=30)
    assert "the process of model" not in err
    if number == signal.SIGTERM:
        assert out == "told\n"
        assert watched.returncode == 0
    else:
        assert watched.returncode == -signal.SIGINT


@pytest.mark.parametrize("code", ["sys.exit(3)", "os.kill(os.getpid(), 6)", "os.kill(os.getpid(), 9)"])
def test_it_ends_as_the_server_ends(code: str) -> None:
    command = [sys.executable, "-c", f"import os, resource, sys; resource.setrlimit(4, (0, 0)); {code}"]
    alone = subprocess.run(command, check=False)
    watched = subprocess.run([sys.executable, triton_main.__file__, *command], check=False)
    assert watched.returncode == alone.returncode != 0


def test_ancestors() -> None:
    parents = {5: 4, 4: 3, 3: 1, 1: 0, 9: 1}
    assert above(5, parents) == [4, 3, 1]
    assert above(9, parents) == [1]
    assert above(7, parents) == []
    assert above(2, {2: 2}) == [2]
