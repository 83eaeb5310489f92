"""Fixtures of several unit tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture(scope="session")
def fake_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs that the fake cells of a night leave; see ``fake_cell.py``."""
    import fake_cell
    from nightly_support import make_runs

    folder = tmp_path_factory.mktemp("fake-runs")
    make_runs(folder)
    os.environ[fake_cell.RUNS] = str(folder)
    yield folder
    del os.environ[fake_cell.RUNS]
