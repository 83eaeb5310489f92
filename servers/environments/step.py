"""What making anything for an engine is built of: where it goes, room for it, one maker at a time, and steps."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.errors import ExitCode, HarnessError
from servers.process import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
HOME_VARIABLE = "LLM_HARNESS_HOME"
Progress = Callable[[str], None]


class EnvironmentFailedError(HarnessError):
    """An environment or a model that could not be made (no network, a wrong digest, a full disk)."""

    exit_code = ExitCode.SERVER


def home(variables: Mapping[str, str] = os.environ) -> Path:
    """Where ``.engines`` and ``.models`` lie."""
    return Path(variables.get(HOME_VARIABLE) or ROOT).expanduser().resolve()


def require_room(directory: Path, name: str, size_mb: float, download_mb: float, needed_mb: float) -> str:
    """Refuse what does not fit on the disk; otherwise say what it takes.

    Raises
    ------
    EnvironmentFailedError
    """
    there = next(path for path in (directory, *directory.parents) if path.exists())
    free_mb = shutil.disk_usage(there).free / 1e6
    if needed_mb > free_mb:
        raise EnvironmentFailedError(
            f"{name} needs {needed_mb:,.0f} MB of disk while it is made, and {there} has {free_mb:,.0f} MB free: "
            f"make room, or set {HOME_VARIABLE} to a directory on another disk"
        )
    takes = f"takes {size_mb:,.0f} MB on disk" if size_mb else "takes an unknown size on disk"
    fetches = f", fetches {download_mb:,.0f} MB" if download_mb else ""
    return f"{takes}{fetches}; {free_mb:,.0f} MB are free at {there}"


def directory_mb(path: Path) -> float:
    """What a file or a directory takes, 10^6 bytes; links are not followed."""
    if not path.is_dir():
        return path.stat().st_size / 1e6 if path.exists() else 0.0
    return sum(each.lstat().st_size for each in path.rglob("*") if not each.is_dir()) / 1e6


_SAID_WHY = "error: "
"""How a script begins its last line when it can say in one sentence why it failed."""


def run(command: Sequence[str], on_line: Progress | None = None, variables: Mapping[str, str] | None = None) -> None:
    """Run a step to its end. It and all it started end with this process, also when that is killed.

    Parameters
    ----------
    on_line
        Is given what the step says, line by line.
    variables
        Added to its environment.

    Raises
    ------
    EnvironmentFailedError
        With the step's own sentence, where its last line is ``error: SENTENCE``, else with the last lines it said.
    """
    whole = [*command, *(["--only-binary", ":all:"] if "--require-hashes" in command else [])]
    with tempfile.TemporaryDirectory(prefix="harness-step-") as folder:
        log = Path(folder) / "log"
        process = ServerProcess(whole, log_file=log, variables=variables)
        try:
            with log.open(encoding="utf-8", errors="replace") as said:
                partial = ""
                while True:
                    code = process.poll()
                    *lines, partial = (partial + said.read()).split("\n")
                    if on_line is not None:
                        for line in lines:
                            on_line(line)
                    if code is not None:
                        break
                    time.sleep(0.1)
        finally:
            process.stop()
        if code != 0:
            last = process.tail(12)
            if last and last[-1].startswith(_SAID_WHY):
                raise EnvironmentFailedError(last[-1].removeprefix(_SAID_WHY))
            tail = "\n".join(f"  {line}" for line in last)
            raise EnvironmentFailedError(f"'{' '.join(command[:5])} ...' ended with code {code}\n{tail}")


@contextmanager
def locked(directory: Path, name: str) -> Iterator[None]:
    """Let one process at a time make one thing; the kernel gives the lock back when its holder dies."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / f"{name}.lock").open("w")
    except OSError as error:
        raise EnvironmentFailedError(f"cannot write in {directory}: {error.strerror}; set {HOME_VARIABLE}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
