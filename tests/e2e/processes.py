"""Starting the harness as a user does, watching it, and waiting for conditions with a deadline."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

ROOT = Path(__file__).parents[2]
HARNESS = (sys.executable, "-m", "harness.cli")
LOCUST = (sys.executable, "-m", "locust")
VERDICTS = {"PASS": 0, "FAIL": 99, "INCONCLUSIVE": 98, "INVALID": 97}
LONGEST_S = 90.0

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = 30.0, every_s: float = 0.02) -> T:
    """Poll until ``condition`` gives something true, and return it."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"after {timeout_s:g} s still not: {what}"
        time.sleep(every_s)


@dataclass(frozen=True)
class Ended:
    """What a finished command left."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


class Started:
    """A command under way; its output is in files, so that no pipe can fill up."""

    def __init__(self, command: Sequence[str], folder: Path, variables: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._out, self._err = folder / "stdout.txt", folder / "stderr.txt"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command,
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

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, timeout_s: float = LONGEST_S) -> Ended:
        """Wait for its own end."""
        self.process.wait(timeout_s)
        return Ended(self.process.returncode, self.out, self.err)

    def kill(self) -> None:
        """End it and all of its session, should a test have failed to."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(10)


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's environment without keys of real services, and with warnings as errors."""
    mine = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    return mine | {"COLUMNS": "200", "NO_COLOR": "1"} | dict(variables or {})


@contextmanager
def started(command: Sequence[str], folder: Path, variables: Mapping[str, str] | None = None) -> Iterator[Started]:
    process = Started(command, folder, variables)
    try:
        yield process
    finally:
        process.kill()


def run(command: Sequence[str], variables: Mapping[str, str] | None = None, timeout_s: float = LONGEST_S) -> Ended:
    """Run a command to its end."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def harness(*arguments: str | Path, variables: Mapping[str, str] | None = None) -> Ended:
    return run([*HARNESS, *map(str, arguments)], variables)


def events(run_dir: Path) -> list[dict[str, Any]]:
    """The progress file's lines so far."""
    try:
        text = (run_dir / "progress.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1]]


def phase(run_dir: Path) -> str:
    found = events(run_dir)
    return str(found[-1]["phase"]) if found else ""


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def strays(text: str) -> list[str]:
    """Command lines, of processes that are not this one, that mention a text."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or ())
        if text in line and process.pid != os.getpid() and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(f"{process.pid} {line}")
    return found


def assert_nothing_left(text: str | Path, timeout_s: float = 5.0) -> None:
    """No process is left, after a moment, whose command line mentions a text."""
    deadline = time.monotonic() + timeout_s
    while strays(str(text)):
        assert time.monotonic() < deadline, f"left behind: {strays(str(text))}"
        time.sleep(0.05)


def assert_clean(text: str) -> None:
    """No stack trace, and no word of Python's about an exception."""
    assert "Traceback" not in text, text
    assert not re.search(r"^\w+(Error|Exception):", text, re.MULTILINE), text


def listening(pid: int) -> set[tuple[str, int]]:
    """Addresses that a process and its children listen on."""
    family = [psutil.Process(pid)]
    family += family[0].children(recursive=True)
    return {
        (connection.laddr.ip, connection.laddr.port)
        for process in family
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
