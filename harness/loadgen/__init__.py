"""The only Locust code: a locustfile is a user class and one call of :func:`install`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from locust import events
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

from harness.errors import ExitCode, HarnessError

try:  # these take most of the time to start, in which Ctrl-C is to show no stack trace either
    from harness.loadgen.leader import Leader, end_forked_workers
    from harness.loadgen.limits import await_master, master_of
    from harness.loadgen.options import add_options
    from harness.loadgen.users import ScenarioUser
    from harness.loadgen.web import add_live_page
    from harness.loadgen.worker import WorkerSide
except KeyboardInterrupt:
    sys.exit(ExitCode.INTERRUPTED)

__all__ = ["ScenarioUser", "install"]


def install(scenario: str) -> None:
    """Hook the harness into Locust: options, server, run, verdict and exit code of ``scenario``."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    leader_pid = os.getpid()  # --processes forks later
    master = master_of(sys.argv[1:], os.environ)
    if master is not None:  # Locust connects before it fires any event
        try:
            await_master(*master)
        except HarnessError as error:
            sys.stderr.write(f"harness: {error}\n")
            sys.exit(error.exit_code)

    @events.init_command_line_parser.add_listener
    def _options(parser: Any, **_: Any) -> None:
        add_options(parser, scenario)

    @events.init.add_listener
    def _init(environment: Any, runner: Any, web_ui: Any = None, **_: Any) -> None:
        if isinstance(runner, LocalRunner | WorkerRunner):
            worker = WorkerSide(environment, runner)
            if isinstance(runner, WorkerRunner):
                worker.shield_from_interrupt()
                if environment.parsed_options.processes:
                    worker.end_with(leader_pid)
        if isinstance(runner, LocalRunner | MasterRunner):
            try:
                leader = Leader(environment, runner, web_ui, scenario)
                if web_ui is not None:
                    add_live_page(environment, web_ui, leader)
            except BaseException as error:
                end_forked_workers()
                if not isinstance(error, HarnessError):
                    raise
                sys.stderr.write(f"harness: {error}\n")
                sys.exit(error.exit_code)


def _leave(*_: Any) -> None:
    """End without a stack trace; in force until the leader or Locust takes the signals over."""
    sys.exit(ExitCode.INTERRUPTED)
