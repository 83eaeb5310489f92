"""Starting the harness as a user does, watching it, and waiting for conditions with a deadline."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import urlencode

import psutil
import pyarrow as pa
import pytest

from harness.judge import read_judgement
from harness.judgement import Judgement, Verdict
from harness.manifest import Manifest
from harness.runlog import RunReader

ROOT = Path(__file__).parents[2]
HARNESS = (sys.executable, "-m", "harness.cli")
LOCUST = (sys.executable, "-m", "locust")
LONGEST_S = 90.0
"""No command of these tests takes longer, whatever else the machine does."""
SIDE_BY_SIDE = 2 if "PYTEST_XDIST_WORKER" in os.environ else 3
"""Independent runs at a time, which wait more than they compute; fewer beside the tests of another process."""

ATTEMPTS = 3
STARVED = (
    "the load generator was the bottleneck",
    "the load generator's own error of",
    "requests and think times account for",
)
"""How the harness says that its own client had too little of this machine."""

T = TypeVar("T")


class Ended(NamedTuple):
    """What a finished command left."""

    code: int
    out: str
    err: str


class Started:
    """A command under way; its output is in files, so that no pipe can fill up."""

    def __init__(self, command: Sequence[str | Path], folder: Path, variables: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._out, self._err = folder / "stdout.txt", folder / "stderr.txt"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment(variables),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return self._err.read_text(encoding="utf-8")

    def alive(self) -> bool:
        return self.process.poll() is None

    def until(self, condition: Callable[[], T], what: str, timeout_s: float = LONGEST_S) -> T:
        """Wait for a condition, and no longer than this command runs."""
        return wait_until(condition, f"{what}; stderr so far:\n{self.err}", timeout_s, alive=self.alive)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, timeout_s: float = LONGEST_S) -> Ended:
        """Wait for its own end."""
        self.process.wait(timeout_s)
        return Ended(self.process.returncode, self.out, self.err)

    def kill(self) -> None:
        """End it and all of its session, should a test have failed to."""
        if self.alive():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.process.wait(10)


def wait_until(
    condition: Callable[[], T], what: str, timeout_s: float = 30.0, *, alive: Callable[[], bool] = lambda: True
) -> T:
    """Poll until ``condition`` gives something true, and return it."""
    deadline = time.monotonic() + timeout_s
    while True:
        lives = alive()
        found = condition()
        if found:
            return found
        assert lives, f"it ended without: {what}"
        assert time.monotonic() < deadline, f"after {timeout_s:g} s still not: {what}"
        time.sleep(0.02)


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's environment without the keys of real services and Locust's own settings."""
    mine = {
        name: value for name, value in os.environ.items() if not name.endswith("_API_KEY") and name[:7] != "LOCUST_"
    }
    return mine | {"COLUMNS": "200", "NO_COLOR": "1"} | dict(variables or {})


@contextmanager
def started(
    command: Sequence[str | Path], folder: Path, variables: Mapping[str, str] | None = None
) -> Iterator[Started]:
    process = Started(command, folder, variables)
    try:
        yield process
    finally:
        process.kill()


@contextmanager
def server_started(command: Sequence[str | Path], folder: Path) -> Iterator[str]:
    """The URL of a server that says its port as JSON on its first line."""
    with started(command, folder) as server:
        line = server.until(lambda: server.out.partition("\n")[1] and server.out.partition("\n")[0], "ready")
        yield f"http://127.0.0.1:{json.loads(line)['port']}"


def run(command: Sequence[str | Path], variables: Mapping[str, str] | None = None) -> Ended:
    """Run a command to its end."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=environment(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def harness(*arguments: str | Path, variables: Mapping[str, str] | None = None) -> Ended:
    return run([*HARNESS, *arguments], variables)


class Together(Generic[T]):
    """Plays independent cases side by side, because they mostly wait; each test then looks at its own.

    Made by a module's fixture, for the tests that were selected: see :func:`play_selected`.
    """

    def __init__(self, plays: Mapping[str, Callable[[Path], T]], folder: Path, names: Iterable[str]) -> None:
        self._pool = ThreadPoolExecutor(SIDE_BY_SIDE)
        self._futures = {name: self._pool.submit(plays[name], folder / name) for name in dict.fromkeys(names)}

    def __getitem__(self, name: str) -> T:
        return self._futures[name].result(3 * LONGEST_S)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def play_selected(
    request: pytest.FixtureRequest, plays: Mapping[str, Callable[[Path], T]], folder: Path, parameter: str = "played"
) -> Iterator[Together[T]]:
    """Start the cases that the selected tests of this module name in their (indirect) parameter."""
    names = [
        item.callspec.params[parameter]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec") and parameter in item.callspec.params
    ]
    together = Together(plays, folder, names)
    try:
        yield together
    finally:
        together.close()


# What a run leaves -----------------------------------------------------------------------------


def events(progress_file: Path) -> list[dict[str, Any]]:
    """The progress so far."""
    try:
        text = progress_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1]]


def in_phase(progress_file: Path, phase: str) -> bool:
    """Whether a run is in a phase right now."""
    return any(event["phase"] == phase for event in events(progress_file)[-1:])


def manifest_of(run_dir: Path) -> Manifest:
    return RunReader(run_dir).manifest


def samples_of(run_dir: Path) -> pa.Table:
    return RunReader(run_dir).samples()


def judgement_of(run_dir: Path) -> Judgement:
    return read_judgement(run_dir)


def unstarved(play: Callable[[Path], Judgement], folder: Path) -> tuple[Path, Judgement]:
    """Repeat a run whose client was starved, which the harness itself says by INVALID, at most three times.

    Any other reason for INVALID is a failure at once.
    """
    for attempt in range(ATTEMPTS):
        run_dir = folder / str(attempt)
        judgement = play(run_dir)
        if judgement.verdict is not Verdict.INVALID:
            return run_dir, judgement
        assert any(words in judgement.sentence for words in STARVED), judgement.sentence
    pytest.fail(f"the client was starved {ATTEMPTS} times: {judgement.sentence}")


# Processes -------------------------------------------------------------------------------------


def commands(*words: str | Path) -> dict[int, str]:
    """Command lines, by process, that hold all of these words; this process is left out."""
    found = {}
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or ())
        if all(str(word) in line for word in words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found[process.pid] = line
    found.pop(os.getpid(), None)
    return found


def emulators(run_dir: Path) -> list[int]:
    """Emulators of a run, without their guards."""
    return [pid for pid, line in commands("servers.emulator", run_dir).items() if "guard.py" not in line]


def assert_nothing_left(text: str | Path, timeout_s: float = 5.0) -> None:
    """No process is left, after a moment, whose command line mentions a text."""
    deadline = time.monotonic() + timeout_s
    while left := commands(text):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.05)


def assert_no_trace(*texts: str) -> None:
    for text in texts:
        assert "Traceback" not in text, text
        assert "Exception ignored" not in text, text
        assert "Warning:" not in text, text


def listening(pid: int) -> set[tuple[str, int]]:
    """Addresses that a process and its children listen on."""
    root = psutil.Process(pid)
    return {
        (connection.laddr.ip, connection.laddr.port)
        for process in (root, *root.children(recursive=True))
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def two_processes() -> tuple[str, ...]:
    """Locust's own port for workers is one for the whole machine."""
    port = str(free_port())
    return ("--processes", "2", "--master-port", port, "--master-bind-port", port)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError:
        return False


def post(url: str, **form: int) -> None:
    with urllib.request.urlopen(url, urlencode(form).encode(), timeout=30) as answer:
        assert answer.status == 200
        assert b'"success": true' in answer.read()
