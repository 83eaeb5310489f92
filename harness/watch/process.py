"""Starts the process that watches a run, and ends it."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from harness.watch.channel import FOLDER, NEWS, LineWriter, LoadNews, clear
from servers.process import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
LOG = "watch.log"
GRACE_S = 2.0


class Watching:
    """The watching process of one run. That it cannot start, or dies, harms nothing but what it would have said."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._log = run_dir / LOG
        self._news = LineWriter(run_dir / FOLDER / NEWS)
        self._process: ServerProcess | None = None
        command = [sys.executable, "-m", "harness.watch", str(run_dir.resolve())]
        with suppress(OSError):
            # -m looks in the working directory, so that a checkout that is not installed runs too.
            self._process = ServerProcess(command, log_file=self._log, directory=ROOT, grace_s=GRACE_S)

    def tell(self, news: LoadNews) -> None:
        self._news.write(news)

    def close(self) -> None:
        """End it in order and leave nothing of it behind; more calls change nothing."""
        if self._process is not None:
            self._process.stop()
            self._process = None
        self._news.close()
        clear(self._run_dir)
        with suppress(OSError):
            if not self._log.stat().st_size:
                self._log.unlink()
