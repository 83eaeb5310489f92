"""Fixtures of several unit tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from servers_support import Mark


@pytest.fixture
def mark() -> Iterator[Mark]:
    """What a test starts carries this mark, and must have ended by the test's end."""
    mark = Mark()
    yield mark
    left = mark.pids()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "processes were left running"
