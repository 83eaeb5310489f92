"""The verdict while a run lasts, in Locust's web UI: from our samples, beside Locust's own charts.

It only shows: a watching process judges what is on disk, and the run goes on whoever looks.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, jsonify, request

from harness.errors import ExitCode
from harness.judgement import Judgement
from harness.runlog import JUDGEMENT, REPORT
from harness.snapshot import read_snapshot
from reports import checks, figures
from reports.live_view import LiveState, build, so_far
from reports.rendering import render_page

if TYPE_CHECKING:
    from locust.env import Environment

    from harness.loadgen.leader import Leader

PAGE = "verdict"
TAB = "sla"
_COLUMNS = {"name": "SLA", "verdict": "So far", "value": "Now", "interval": "Between", "broke": "Violations"}
_COLUMNS |= {"needs": "Needed to decide"}
"""Of the tab on Locust's own page."""
_NO_VERDICT = (ExitCode.USAGE, ExitCode.SERVER, ExitCode.LOAD)
_log = logging.getLogger(__name__)


def add_live_page(environment: Environment, web_ui: Any, leader: Leader) -> None:
    """Add ``/verdict``, the sealed reports and a tab to Locust's web UI, behind its login where it has one."""
    options: Any = environment.parsed_options
    base = (getattr(options, "web_base_path", None) or "").rstrip("/")
    board = Board(environment, leader)
    environment.events.test_start.add_listener(board.note)
    web_ui.app.register_blueprint(_blueprint(board, web_ui.auth_required_if_enabled), url_prefix=base or None)
    _extend(web_ui, board, base)
    render_page("live.html.j2", build(board.state()))  # compiles the templates now, and not beside load
    scheme = "https" if web_ui.tls_cert else "http"
    host = web_ui.host if web_ui.host not in ("", "0.0.0.0", "::") else "127.0.0.1"
    _log.info("The verdict while a run lasts: %s://%s:%s%s/%s", scheme, host, web_ui.port, base, PAGE)


class Board:
    """What there is to show: the newest run, and the reports of all runs that this process made."""

    def __init__(self, environment: Environment, leader: Leader) -> None:
        self._environment = environment
        self._leader = leader
        self._runs: dict[str, Path] = {}
        self._judged: tuple[str, Judgement] | None = None

    def note(self, **_: Any) -> None:
        """Remember the run that has begun: its report is served, and no other file is."""
        cell, phase = self._leader.shown
        if phase:
            self._runs[cell.run] = cell.run_dir.resolve()

    def report_of(self, run: str) -> Path | None:
        directory = self._runs.get(run)
        path = None if directory is None else directory / REPORT
        return path if path is not None and path.is_file() else None

    def state(self) -> LiveState:
        self.note()
        cell, phase = self._leader.shown
        code = self._environment.process_exit_code
        failure = ""
        if phase in ("", "done") and code in _NO_VERDICT:
            failure = f"There is no verdict (exit code {code:d}): the terminal says why"
        return LiveState(
            scenario=cell.scenario.name,
            stack=cell.stack.name,
            run=cell.run,
            phase=phase,
            now_s=time.time(),
            tail_s=cell.scenario.longest_limit_s,
            snapshot=read_snapshot(cell.run_dir) if phase else None,
            judgement=self._judgement(cell.run, cell.run_dir) if phase == "done" else None,
            report=f"runs/{cell.run}/{REPORT}" if self.report_of(cell.run) is not None else "",
            failure=failure,
        )

    def _judgement(self, run: str, run_dir: Path) -> Judgement | None:
        if self._judged is None or self._judged[0] != run:
            try:
                found = Judgement.model_validate_json((run_dir / JUDGEMENT).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return None
            self._judged = run, found
        return self._judged[1]


def _blueprint(board: Board, guarded: Any) -> Blueprint:
    pages = Blueprint("sla", __name__)

    @pages.route(f"/{PAGE}")
    @guarded
    def verdict() -> Response:
        text = render_page("live.html.j2", build(board.state()))
        answer = Response(text, mimetype="text/html")
        answer.headers["Content-Security-Policy"] = _policy(text)
        return answer

    @pages.route(f"/{PAGE}.json")
    @guarded
    def verdict_json() -> Response:
        state = board.state()
        page = build(state)
        found = state.judgement or state.snapshot
        return jsonify(
            run=page.run,
            phase=state.phase,
            over=state.phase == "done",
            verdict=None if found is None else found.verdict.value,
            sentence=figures.clean(state.failure or ("" if found is None else found.sentence)),
            report=state.report,
            title=figures.clean(page.title),
            body=render_page("live_body.html.j2", page),
        )

    @pages.route(f"/runs/<run>/{REPORT}")
    @guarded
    def report(run: str) -> Response:
        path = board.report_of(run)
        if path is None:
            return Response("This process has made no such report.", status=404, mimetype="text/plain")
        return Response(path.read_bytes(), mimetype="text/html")

    @pages.after_request
    def careful(answer: Response) -> Response:
        answer.headers["Cache-Control"] = "no-store"
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "no-referrer"
        return answer

    return pages


def _policy(text: str) -> str:
    """Only the page's own script runs, whatever a value may hold."""
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts[-1:]]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _extend(web_ui: Any, board: Board, base: str) -> None:
    """Locust's own page gets a tab with the checks, and a plain link where it offers downloads."""
    added = {
        "extended_tabs": {"title": "SLA verdict", "key": TAB},
        "extended_tables": {
            "key": TAB,
            "structure": [{"key": key, "title": title} for key, title in _COLUMNS.items()],
        },
        "extended_csv_files": {"href": f"./{PAGE}", "title": "Open the verdict's own page"},
    }
    for name, value in added.items():
        web_ui.template_args[name] = [*web_ui.template_args.get(name, ()), value]

    @web_ui.app.after_request
    def with_checks(answer: Response) -> Response:
        if request.path == f"{base}/stats/requests" and answer.is_json and isinstance(answer.json, dict):
            others = [each for each in answer.json.get("extended_stats", ()) if each.get("key") != TAB]
            rows = [*others, {"key": TAB, "data": _rows(board.state())}]
            answer.set_data(json.dumps({**answer.json, "extended_stats": rows}))
        return answer


def _rows(state: LiveState) -> list[dict[str, str]]:
    found = state.judgement or state.snapshot
    words = state.judgement.verdict.value if state.judgement is not None else so_far(state.snapshot)
    rows = [dict.fromkeys(_COLUMNS, "") | {"name": "All of it", "verdict": words, "needs": f"more at /{PAGE}"}]
    for check in () if found is None else found.checks:
        rows.append(
            {
                "name": figures.clean(check.text),
                "verdict": check.verdict.value,
                "value": figures.measured(check.value, check.metric, check.limit),
                "interval": checks.value_bounds(check),
                "broke": checks.violations(check),
                "needs": checks.needed(check),
            }
        )
    return rows
