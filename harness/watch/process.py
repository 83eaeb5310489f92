"""Starts the process that watches a run, and ends it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.watch.channel import (
    ANSWERS,
    ASKED,
    FOLDER,
    NEWS,
    LineReader,
    LoadNews,
    LookAnswer,
    LookAsked,
    append,
    clear,
    pending_file,
)
from servers.process import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
LOG = "watch.log"
GRACE_S = 2.0


class Watching:
    """The watching process of one run. That it cannot start, or dies, harms nothing but what it would have said."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._log = run_dir / LOG
        self._folder = run_dir / FOLDER
        self._answers = LineReader(self._folder / ANSWERS, LookAnswer)
        self._process: ServerProcess | None = None
        command = [sys.executable, "-m", "harness.watch", str(run_dir.resolve())]
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            # -m looks in the working directory, so that a checkout that is not installed runs too.
            self._process = ServerProcess(command, log_file=self._log, directory=ROOT, grace_s=GRACE_S)

    def tell(self, news: LoadNews) -> None:
        append(self._folder / NEWS, news)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ask(self, asked: LookAsked, pending: Sequence[bytes]) -> None:
        """Ask whether the run may end; ``pending`` are Arrow streams of the requests in flight."""
        with suppress(OSError):  # without that file there is no answer
            pending_file(self._run_dir, asked.number).write_bytes(b"".join(pending))
            append(self._folder / ASKED, asked)

    def answer(self, number: int) -> LookAnswer | None:
        """The answer to one look, once it is there."""
        return next((answer for answer in self._answers.read() if answer.number == number), None)

    def close(self) -> None:
        """End it in order and leave nothing of it behind; more calls change nothing."""
        if self._process is not None:
            self._process.stop()
            self._process = None
        clear(self._run_dir)
        with suppress(OSError):
            if not self._log.stat().st_size:
                self._log.unlink()
