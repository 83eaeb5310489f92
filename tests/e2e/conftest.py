"""Fixtures of the end-to-end tests: servers, and a look for orphans after every test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import assert_nothing_left, server_started


@pytest.fixture(autouse=True)
def _no_orphans(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test started with a file of its own folder is gone afterwards."""
    folder: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is not None:
        assert_nothing_left(folder)


@pytest.fixture(scope="session")
def quick_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an OpenAI server that answers 8 tokens in 34 ms; its model is called ``emulated``."""
    folder = tmp_path_factory.mktemp("quick-server")
    command = [sys.executable, "-m", "servers.emulator", "--fixed", "ttft_s=0.02,itl_s=0.002,tokens=8"]
    with server_started(command, folder) as url:
        yield url
