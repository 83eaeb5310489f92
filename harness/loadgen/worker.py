"""The worker's ear: what the coordinator's messages do on a load-generating process."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import gevent

from harness.cell import Cell
from harness.certificate import Shape
from harness.errors import ExitCode
from harness.loadgen import messages, recorder
from harness.loadgen.clock import ClockAsker
from harness.loadgen.rehearsal import rehearse
from harness.loadgen.session import Session
from harness.loadgen.users import ScenarioUser

if TYPE_CHECKING:
    from locust.env import Environment
    from locust.runners import Runner

_PR_SET_PDEATHSIG = 1
_ORPHAN_S = 60.0
"""A worker that was interrupted ends at the latest after this time, whatever its master does."""


class WorkerSide:
    """Listens on one process; the process may lead the run as well (LocalRunner)."""

    def __init__(self, environment: Environment, runner: Runner) -> None:
        self._environment = environment
        self._runner: Any = runner
        self._session: Session | None = None
        options: Any = environment.parsed_options
        # Read now: with the first users Locust sends the master's options, which would take this one's place.
        self._region = str(options.region) if options is not None else ""
        self._clock = ClockAsker(runner)
        recorder.warm_up()
        runner.register_message(messages.CERTIFY, self._on_certify)
        runner.register_message(messages.CELL, self._on_cell)
        runner.register_message(messages.START, self._on_start)
        runner.register_message(messages.SURVEY, self._on_survey)
        runner.register_message(messages.STOP, self._on_stop)

    def shield_from_interrupt(self) -> None:
        """Leave Ctrl-C of the terminal, which reaches the whole process group, to the master.

        It stops this worker in order. Should it be gone, the worker ends by itself; a second Ctrl-C
        ends it at once.
        """
        interrupts = 0

        def on_interrupt() -> None:
            nonlocal interrupts
            interrupts += 1
            if interrupts > 1 or self._session is None:
                os._exit(130)
            gevent.spawn_later(_ORPHAN_S, os._exit, 130)

        gevent.signal_handler(signal.SIGINT, on_interrupt)

    def end_with(self, leader_pid: int) -> None:
        """Do not outlive the process that forked this one: Locust itself would go on for a minute."""
        if sys.platform == "linux":
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != leader_pid:  # it has ended already
                os._exit(ExitCode.INTERRUPTED)

    def _on_certify(self, environment: Environment, msg: Any, **_: Any) -> None:
        cell = Cell.model_validate_json(msg.data["cell"])
        shape = Shape.model_validate_json(msg.data["shape"])

        def certify() -> None:
            certificate = rehearse(environment, cell, shape, self._runner.worker_index)
            self._runner.send_message(messages.CERTIFIED, {"certificate": certificate.model_dump_json()})

        # A greenlet of its own: messages of others, the interrupt's among them, must get through meanwhile.
        gevent.spawn(certify)

    def _on_cell(self, environment: Environment, msg: Any, **_: Any) -> None:
        cell = Cell.model_validate_json(msg.data["cell"])
        cell = cell.model_copy(update={"region": self._region or cell.region})
        self._session = Session(environment, cell, self._runner.worker_index, msg.data.get("allowance_usd"))
        ScenarioUser.session = self._session
        self._session.hello()
        # A greenlet of its own: the answers arrive in this one.
        gevent.spawn(self._session.compare_clocks, self._clock)

    def _on_start(self, msg: Any, **_: Any) -> None:
        if self._session is not None:
            self._session.started(msg.data["warm_up_s"])
            self._session.start_arrivals(msg.data["zeros"])

    def _on_survey(self, msg: Any, **_: Any) -> None:
        if self._session is not None:
            self._session.survey(msg.data["survey"])

    def _on_stop(self, msg: Any, **_: Any) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            # A greenlet of its own: a LocalRunner delivers messages in the sender's.
            gevent.spawn(session.end, msg.data["drain_s"])
