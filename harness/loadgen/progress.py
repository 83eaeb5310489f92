"""What a run is doing right now, for whoever watches it: one JSON line an event, in a file or nowhere."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import IO


class Progress:
    """Phases are ``server``, ``certify``, ``spawn``, ``warm-up``, ``load``, ``tail``, ``drain``, ``seal``, ``judge``
    and ``done``.
    """

    def __init__(self, path: Path | None) -> None:
        self._file: IO[str] | None = path.open("a", encoding="utf-8") if path else None
        self.phase = ""

    def tell(self, phase: str, note: str = "", **numbers: float | int | str | None) -> None:
        """Write one line. On a full disk nobody is told, but the run still ends: its seal says what is wrong."""
        self.phase = phase
        if self._file is not None:
            event = {"at_s": time.time(), "pid": os.getpid(), "phase": phase, "note": note, **numbers}
            with contextlib.suppress(OSError):
                self._file.write(json.dumps(event) + "\n")
                self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
