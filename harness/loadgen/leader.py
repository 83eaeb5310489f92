"""The process that leads: stands up the server, conducts runs, seals, has them judged, sets the exit code."""

from __future__ import annotations

import signal
import subprocess
import sys
import traceback
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
import psutil
from gevent.event import Event

from harness.catalog import load_catalog
from harness.cell import Cell, new_run_id
from harness.certify import excesses
from harness.dataset import read_workload
from harness.errors import ExitCode, HarnessError, LoadError
from harness.estimate import agree_to_cost
from harness.loadgen import messages
from harness.loadgen.certifier import Certifier
from harness.loadgen.clock import answer_clocks
from harness.loadgen.coordinator import Run
from harness.loadgen.limits import check_limits
from harness.loadgen.open_loop import schedule_of
from harness.loadgen.options import RUNS, cell_from
from harness.loadgen.progress import Progress
from harness.loadgen.target import target_of
from harness.records import ServerFacts
from harness.runlog import RunWriter
from harness.seal import SERVER_LOG_LIVE, live_logs, seal_run
from harness.telemetry.process import Recording
from harness.watch.process import Watching
from servers import launcher_for
from servers.delay_proxy import distant
from servers.preflight import preflight

if TYPE_CHECKING:
    from locust.env import Environment
    from locust.runners import Runner

_VERDICT_CODES = (ExitCode.PASS, ExitCode.FAIL, ExitCode.INCONCLUSIVE, ExitCode.INVALID)


class Leader:
    """Lives as long as the Locust process. With the web UI it conducts one run after another."""

    def __init__(self, environment: Environment, runner: Runner, web_ui: Any, scenario: str) -> None:
        self._environment = environment
        self._runner = runner
        self._web_ui = web_ui
        options: Any = environment.parsed_options
        self._standalone = not options.cell
        self._cell = cell_from(options, scenario)
        self._first = True
        check_limits(self._cell.in_flight_expected, options.processes or 1)
        # Everything that can be wrong is found before a server starts.
        target_of(self._cell.connection.model_copy(update={"url": self._cell.connection.url or "http://127.0.0.1"}))
        read_workload(self._cell.scenario.workload)
        self._open = self._cell.scenario.arrivals is not None
        if self._open:
            schedule_of(self._cell)
        if self._standalone:
            self._agree_to_cost(options)
        self._progress = Progress(Path(options.progress_file) if options.progress_file else None)
        # In an open loop a user of Locust's is one worker's whole load; the web form's number changes nothing.
        workers = max(options.processes or 1, options.expect_workers or 1)
        options.num_users = workers if self._open else self._cell.scenario.users
        options.spawn_rate = options.num_users if self._open else options.spawn_rate
        options.spawn_rate = options.spawn_rate or self._cell.scenario.users / self._cell.timing.spawn_s
        options.run_time = None  # the run's end is ours
        self._run: Run | None = None
        self._recording: Recording | None = None
        self._watching: Watching | None = None
        self._concluded = Event()
        self._concluded.set()
        self._resources = ExitStack()
        self._interrupts = 0
        self._begun = False
        gevent.signal_handler(signal.SIGINT, self._on_interrupt)
        self._early_terminate = gevent.signal_handler(signal.SIGTERM, self._on_interrupt)
        self._start_server()
        self._certifier = Certifier(runner, share=not self._standalone)
        answer_clocks(runner)
        if web_ui is not None:
            self._begin()
        runner.register_message(messages.HELLO, self._forward("on_hello"))
        runner.register_message(messages.SAMPLES, self._forward("on_samples"))
        runner.register_message(messages.SURVEY_REPLY, self._forward("on_survey_reply"))
        runner.register_message(messages.HEALTH, self._forward("on_health"))
        runner.register_message(messages.CAP, self._forward("on_cap"))
        runner.register_message(messages.END, self._forward("on_end"))
        environment.events.test_start.add_listener(self._on_test_start)
        environment.events.spawning_complete.add_listener(self._on_spawning_complete)
        environment.events.test_stopping.add_listener(self._on_test_stopping)
        environment.events.quitting.add_listener(self._on_quitting)

    @property
    def shown(self) -> tuple[Cell, str]:
        """The newest run's cell and phase, for whoever shows it; the next one's without a phase before the first."""
        return (self._cell, "") if self._run is None else (self._run.cell, self._progress.phase)

    # Server ----------------------------------------------------------------------------------

    def _agree_to_cost(self, options: Any) -> None:
        def ask(told: str) -> bool:
            sys.stderr.write(f"{told}. Start? [y/N]: ")
            sys.stderr.flush()
            return sys.stdin.readline().strip().lower() in ("y", "yes")

        asked = ask if sys.stdin.isatty() and sys.stderr.isatty() else None
        told = agree_to_cost([self._cell], max_cost_usd=options.max_cost, yes=options.yes, ask=asked)
        if told and options.yes:
            sys.stderr.write(f"harness: {told}\n")

    def _start_server(self) -> None:
        cell = self._cell
        self._progress.tell("server", note=cell.stack.title)
        self._server_log = cell.run_dir / SERVER_LOG_LIVE
        RunWriter(cell.run_dir)  # before anything is written: it may hold a run, or be impossible to make
        cell = self._cell = self._on_gpus(cell)
        self._server = self._resources.enter_context(
            launcher_for(cell.stack, cell.emulated).launch(
                cell.stack,
                cell.scenario,
                log_file=self._server_log,
                work_dir=cell.run_dir,
                users=cell.in_flight_expected,
                gpu=cell.gpu,
                gpus=tuple(each.index for each in cell.gpu_facts),
                connection=cell.connection,
                calibration=cell.calibration or None,
                seed=cell.seeds()["emulator"],
                faults=cell.faults or None,
                progress=lambda note: self._progress.tell("server", note=note),
            )
        )
        url = self._server.url
        if cell.network:
            url = self._resources.enter_context(distant(url, cell.network, cell.run_dir))
        connection = cell.connection.model_copy(update={"url": url, "model": self._server.model})
        self._cell = cell.model_copy(update={"connection": connection})

    @staticmethod
    def _on_gpus(cell: Cell) -> Cell:
        """Look at the GPUs that the server is to use, and note what they are."""
        if not cell.needs_gpus or cell.gpu is None:
            return cell
        known = load_catalog().gpus.values()
        placed = preflight(cell.stack, cell.scenario, cell.gpu, known, allow_other=cell.allow_other_gpu)
        return cell.model_copy(update={"gpu": placed.gpu, "other_gpu": placed.other, "gpu_facts": placed.gpus})

    def _server_facts(self) -> ServerFacts:
        return self._server.facts()

    def _server_died(self) -> bool:
        return self._server.poll() is not None

    # Locust's events -------------------------------------------------------------------------

    def _begin(self) -> None:
        """From here on there is a run, or a web UI, to be ended in order, and SIGTERM is Locust's."""
        self._begun = True
        self._early_terminate.cancel()

    def _on_test_start(self, **_: Any) -> None:
        self._begin()
        cell = self._cell
        users = self._runner.target_user_count or cell.scenario.users
        if users != cell.scenario.users and not self._open:  # changed in the web form
            cell = cell.model_copy(update={"scenario": cell.scenario.model_copy(update={"users": users})})
        if not self._first:
            run = new_run_id(cell.scenario.name, cell.stack.name)
            cell = cell.model_copy(update={"run": run, "run_dir": RUNS / run})
        self._first = False
        self._concluded.clear()
        try:
            self._watching = self._resources.enter_context(closing(Watching(cell.run_dir)))
            self._run = Run(
                self._environment,
                cell,
                self._progress,
                self._watching,
                server_facts=self._server_facts,
                server_died=self._server_died,
            )
            self._certify(self._run)
            self._recording = self._resources.enter_context(closing(Recording(cell, self._server)))
            self._run.begin()
        except HarnessError as error:
            self._fail(error)
            return
        except Exception as error:  # which Locust would swallow, to wait for ever with users that have nothing to do
            traceback.print_exc()
            self._fail(LoadError(f"the load generator crashed: {error!r}"))
            return
        gevent.spawn(self._conclude, self._run)

    def _on_spawning_complete(self, **_: Any) -> None:
        if self._run is not None:
            self._run.spawning_complete()

    def _on_test_stopping(self, **_: Any) -> None:
        self._end_run("stopped")

    def _on_quitting(self, **_: Any) -> None:
        self._end_run("interrupted")
        if self._environment.process_exit_code is None and self._web_ui is None:
            self._environment.process_exit_code = ExitCode.INTERRUPTED  # no run, no verdict: never 0
        self._resources.close()
        for log in live_logs(self._server_log):
            log.unlink(missing_ok=True)
        self._progress.close()

    def _on_interrupt(self) -> None:
        """First Ctrl-C: end in order, with a verdict on what there is. Second: at once."""
        self._interrupts += 1
        if not self._begun:
            sys.stderr.write("harness: interrupted before the load began\n")
            end_forked_workers()
            gevent.get_hub().handle_system_error(SystemExit, SystemExit(ExitCode.INTERRUPTED))
            return
        if self._interrupts > 1:
            self._resources.close()
            gevent.get_hub().handle_system_error(SystemExit, SystemExit(ExitCode.INTERRUPTED))
            return
        self._end_run("interrupted")
        gevent.get_hub().handle_system_error(KeyboardInterrupt, KeyboardInterrupt())

    def _end_run(self, reason: str) -> None:
        if self._run is not None and not self._concluded.is_set():
            self._run.interrupt(reason)
            self._concluded.wait()

    # The end ---------------------------------------------------------------------------------

    def _conclude(self, run: Run) -> None:
        """Seal, judge and leave; the same for every way a run can end."""
        run.done.wait()
        for beside in (self._watching, self._recording):
            if beside is not None:
                beside.close()
        code: int = ExitCode.LOAD
        try:
            # Before anything else: a server that ends after the load has ended is no result of it.
            manifest = run.manifest.model_copy(update={"server": self._server.conclude()})
            rate = run.seen_rate.peak_per_s
            self._certifier.after(run.cell, run.certificate, rate, lambda: self._interrupts > 1)
            if self._web_ui is None:
                self._resources.close()
            self._progress.tell("seal")
            seal_run(run.cell.run_dir, manifest, self._server_log)
            code = self._judge(run.cell)
        except HarnessError as error:
            self._say(error)
            code = error.exit_code
        finally:
            self._environment.process_exit_code = code
            self._progress.tell("done", exit_code=code)
            self._concluded.set()
            # Whatever went wrong above: else Locust would wait for ever.
            if self._web_ui is None:
                self._runner.quit()
            elif self._runner.state in ("running", "spawning"):
                self._runner.stop()

    def _certify(self, run: Run) -> None:
        """Certify the client before the run's first user; what would make the run INVALID is said at once."""
        self._progress.tell("certify")
        run.certificate = self._certifier.before(run.cell, lambda: run.interrupted)
        for text in excesses(run.certificate, run.cell.scenario.sla):
            if not run.interrupted:
                sys.stderr.write(f"harness: this run will be INVALID: {text}\n")

    def _judge(self, cell: Cell) -> int:
        """Judge in a process of its own: nothing of it may run beside load, or in a patched interpreter."""
        self._progress.tell("judge")
        command = [sys.executable, "-m", "harness.cli", "judge", str(cell.run_dir)]
        if self._standalone:
            command.append("--report")
        code = subprocess.run(command, check=False).returncode
        if code not in _VERDICT_CODES:
            raise LoadError(f"judging {cell.run_dir} ended with exit code {code}; try: harness judge {cell.run_dir}")
        return code

    def _fail(self, error: HarnessError) -> None:
        self._say(error)
        self._environment.process_exit_code = error.exit_code
        self._run = None
        self._concluded.set()
        if self._web_ui is None:
            gevent.spawn(self._runner.quit)

    def _say(self, error: HarnessError) -> None:
        with suppress(OSError):  # the log may lie on the disk that is full
            sys.stderr.write(f"harness: {error}\n")

    def _forward(self, method: str) -> Any:
        def listener(msg: Any, **_: Any) -> None:
            if self._run is not None:
                getattr(self._run, method)(msg.data)

        return listener


def end_forked_workers() -> None:
    """Kill what ``--processes`` forked: Locust forgets them when it ends before the load began."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it may end in this moment
            if child.cmdline() == psutil.Process().cmdline():
                child.kill()
