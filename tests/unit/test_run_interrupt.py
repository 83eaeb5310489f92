"""Ctrl-C before a cell has said a word: it ends at once, and nothing is judged."""

from __future__ import annotations

import time
from pathlib import Path

from harness import run as runner
from harness.catalog import load_catalog
from harness.cell import Overrides, build_cell
from harness.connection import Connection
from harness.errors import ExitCode
from harness.run import CellProgress


def test_ctrl_c_in_the_first_moment_of_a_cell(tmp_path: Path) -> None:
    catalog = load_catalog()
    stack = catalog.stack("vllm-7b-int8-a100")
    connection = Connection(protocol=stack.protocol)
    profile, overrides = catalog.profile("quick"), Overrides(users=1)
    cell = build_cell(
        catalog, catalog.scenario("chatbot"), stack, profile, overrides, connection, run_dir=tmp_path / "run"
    )
    states = []

    def ctrl_c(progress: CellProgress) -> None:
        states.append(progress.state)
        if progress.state == "running":
            raise KeyboardInterrupt

    began = time.monotonic()
    (ended,) = runner.run_cells([cell], ctrl_c)
    assert time.monotonic() - began < runner._STOP_GRACE_S / 2, "it was killed, not interrupted"
    assert states == ["running", "failed"]
    assert ended.exit_code == runner.exit_code([ended]) == ExitCode.INTERRUPTED
    assert ended.error == "interrupted before there was anything to judge"
