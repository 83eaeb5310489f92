"""``python -m harness.watch RUN_DIR``: writes ``live.json`` until it is told to end. Started by :mod:`.process`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from harness.errors import HarnessError
from harness.manifest import Manifest
from harness.runlog import MANIFEST, RunReader
from harness.snapshot import EVERY_S, write_snapshot
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
    pending_file,
)
from harness.watch.deciding import decide, pending_of
from harness.watch.samples import MOST_SAMPLES, SampleTail
from harness.watch.view import Counts, SoFar, judged_so_far, snapshot

NICE = 10
POLL_S = 0.1
"""How long a look waits to be seen, at most."""
JUDGING_SHARE = 0.03
"""Of the time that this process judges for the view: after a judging of 0.1 s it waits 3 s for the next."""


class Watch:
    """What is known of one run at this moment."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._samples = SampleTail(run_dir)
        self._reader = LineReader(run_dir / FOLDER / NEWS, LoadNews)
        self._news = LoadNews()
        self._asked = LineReader(run_dir / FOLDER / ASKED, LookAsked)
        self._answers = run_dir / FOLDER / ANSWERS
        self._manifest: Manifest | None = None
        self._manifest_written = 0
        self._so_far = SoFar()
        self._judge_next_s = 0.0

    def look_around(self) -> None:
        """Read what is new, and write a snapshot of it; before the manifest is there, nothing."""
        self._samples.read()
        for news in self._reader.read():
            self._news = news
        manifest = self._newest_manifest()
        if manifest is None:
            return
        now_s = time.time()
        if manifest.load.started_s is not None and time.monotonic() >= self._judge_next_s:
            self._judge(manifest, now_s - manifest.load.started_s)
        counts = Counts(self._samples.seen, self._samples.failed)
        write_snapshot(self._run_dir, snapshot(manifest, self._news, counts, self._so_far, now_s))

    def answer(self) -> None:
        """Answer what the load asked since the last time."""
        for asked in self._asked.read():
            append(self._answers, self._decided(asked))

    def _decided(self, asked: LookAsked) -> LookAnswer:
        self._samples.read()
        manifest, complete = self._newest_manifest(), self._samples.seen >= asked.samples
        if manifest is None or not complete or not self._samples.whole:
            return LookAnswer(number=asked.number)
        try:
            pending = pending_of(pending_file(self._run_dir, asked.number))
        except (OSError, pa.ArrowException):  # a full disk
            return LookAnswer(number=asked.number)
        return decide(manifest, self._samples.table(*pending), asked)

    def _judge(self, manifest: Manifest, elapsed_s: float) -> None:
        if not self._samples.whole:
            told = f"judged no further before the end: there are more than {MOST_SAMPLES:,} requests"
            self._so_far = SoFar(judged=self._so_far.judged, sentence=told)
            return
        began_s = time.thread_time()
        self._so_far = judged_so_far(manifest, self._samples.table(), elapsed_s)
        self._judge_next_s = time.monotonic() + (time.thread_time() - began_s) / JUDGING_SHARE

    def _newest_manifest(self) -> Manifest | None:
        """Read it again only when it was written again: when the clock started, and at the end."""
        try:
            written = (self._run_dir / MANIFEST).stat().st_mtime_ns
            if written != self._manifest_written:
                self._manifest, self._manifest_written = RunReader(self._run_dir).manifest, written
        except (OSError, HarnessError):
            return self._manifest
        return self._manifest


def main() -> int:
    os.nice(NICE)
    pa.set_cpu_count(1)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    watch = Watch(Path(sys.argv[1]))
    look_next_s = 0.0
    while not stop.is_set():
        watch.answer()
        if time.monotonic() < look_next_s:
            stop.wait(POLL_S)
            continue
        look_next_s = time.monotonic() + EVERY_S
        with suppress(HarnessError):  # the disk is full, or the folder is gone: there may be room again
            watch.look_around()
    return 0


if __name__ == "__main__":
    sys.exit(main())
