"""A file's tests of gRPC run together in one process that gevent has patched, and are reported here one by one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from gevent.monkey import is_module_patched

from tests.contract.grpc_transcripts import PROTOCOL

ROOT = Path(__file__).parents[2]
Results = dict[str, tuple[str, str]]
_RESULTS: pytest.StashKey[dict[Path, Results]] = pytest.StashKey()
"""By file: files may be spread over processes, and each has what it needs."""


def needs_patches(item: pytest.Item) -> bool:
    """Marked so, or about gRPC: a parameter is the protocol's name or a transcript of it."""
    parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
    named = any(getattr(value, "protocol", value) == PROTOCOL for value in parameters)
    return named or item.get_closest_marker("patched") is not None


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if is_module_patched("threading") or not needs_patches(pyfuncitem):
        return None
    outcome, text = _results(pyfuncitem).get(pyfuncitem.nodeid, ("failed", "it never ran"))
    if outcome == "skipped":
        pytest.skip(text)
    if outcome != "passed":
        pytest.fail(text, pytrace=False)
    return True


def _results(asked: pytest.Item) -> Results:
    by_file = asked.session.stash.setdefault(_RESULTS, {})
    if asked.path not in by_file:
        items = [item for item in asked.session.items if item.path == asked.path and needs_patches(item)]
        by_file[asked.path] = _run([item.nodeid for item in items])
    return by_file[asked.path]


def _run(names: list[str]) -> Results:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        done = subprocess.run(
            [sys.executable, "-m", "tests.contract.patched", str(file)],
            input="\n".join(names), capture_output=True, text=True, cwd=ROOT, timeout=200, check=False,
        )  # fmt: skip
        if not file.is_file():
            pytest.fail(f"the patched process ended with {done.returncode}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        found: Results = json.loads(file.read_text(encoding="utf-8"))
    return found
