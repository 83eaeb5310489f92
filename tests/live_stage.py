"""The live page's routes on a Flask app, with a stand-in for the process that leads a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from harness.catalog import load_catalog
from harness.cell import Cell
from harness.judge import write_judgement
from harness.judgement import Judgement
from harness.matrix import Options, build_cells
from harness.snapshot import Snapshot, write_snapshot
from reports.written import write_reports

with pytest.MonkeyPatch.context() as _patch:
    # The package imports Locust, which would patch this process and with it every other test.
    _patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from harness.loadgen.web import add_live_page

STACK = "vllm-7b-int8-a100"


class Stage:
    """What a test lets happen; the pages show it as they would a real run."""

    def __init__(self, folder: Path, *, base: str = "", guard: Any = lambda view: view) -> None:
        options = Options(scenarios=("chatbot",), stacks=(STACK,), run_dir=folder / "run")
        self.cell: Cell = build_cells(load_catalog(), options)[0]
        self.cell.run_dir.mkdir(parents=True)
        self.phase = ""
        self._begun: list[Any] = []
        self.app = Flask(__name__)
        self.app.add_url_rule("/stats/requests", view_func=lambda: {"stats": [], "extended_stats": [{"key": "mine"}]})
        self.environment = SimpleNamespace(
            parsed_options=SimpleNamespace(web_base_path=base),
            process_exit_code=None,
            events=SimpleNamespace(test_start=SimpleNamespace(add_listener=self._begun.append)),
        )
        self.web_ui = SimpleNamespace(
            app=self.app,
            auth_required_if_enabled=guard,
            template_args={"extended_tabs": [{"title": "Mine", "key": "mine"}]},
            tls_cert=None,
            host="127.0.0.1",
            port=0,
        )
        add_live_page(self.environment, self.web_ui, self)  # type: ignore[arg-type]

    @property
    def shown(self) -> tuple[Cell, str]:
        return self.cell, self.phase

    def show(self, snapshot: Snapshot, phase: str = "load") -> None:
        """As a run that has begun, in a phase, with what its watcher wrote."""
        write_snapshot(self.cell.run_dir, snapshot)
        self._in(phase)

    def end(self, judgement: Judgement) -> None:
        write_judgement(self.cell.run_dir, judgement)
        write_reports(self.cell.run_dir / "report.html", [judgement])
        self._in("done")

    def _in(self, phase: str) -> None:
        self.phase = phase
        for listener in self._begun:
            listener()
