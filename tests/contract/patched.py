"""Runs tests in a process that gevent has patched, as Locust's are: ``python -m tests.contract.patched RESULTS``.

gRPC works under gevent only there, and one process cannot be both. The names of the tests come on stdin; what
became of each goes to the file RESULTS, from which ``conftest.py`` reports it as if it had run here.
"""

import gevent.monkey

gevent.monkey.patch_all()

import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402

from harness.clients import prepare  # noqa: E402


class Recorder:
    """Keeps the outcome of each test, the worst of its phases, and why."""

    def __init__(self) -> None:
        self.results: dict[str, tuple[str, str]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            reason = report.longrepr[2] if report.skipped else report.longreprtext
            self.results[report.nodeid] = (report.outcome, str(reason))


if __name__ == "__main__":
    prepare("triton-grpc")
    recorder = Recorder()
    pytest.main(["-p", "no:cacheprovider", "-q", *sys.stdin.read().splitlines()], plugins=[recorder])
    Path(sys.argv[1]).write_text(json.dumps(recorder.results), encoding="utf-8")
