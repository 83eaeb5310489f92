"""One night at a time in one folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from harness.errors import RunDirectoryError, UsageError

LOCK = ".lock"


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock.

    The kernel drops a ``flock`` with its holder, however that ended: a lock cannot go stale, and the file that stays
    means nothing. No child inherits it (PEP 446). The pid in it is for the message alone.

    Raises
    ------
    UsageError
        When another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise RunDirectoryError(f"cannot write in {folder}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UsageError(f"another night is running in {folder} (pid {holder}); wait for its end") from None
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        with contextlib.suppress(OSError):  # on a full disk it is locked all the same
            file.flush()
        yield
