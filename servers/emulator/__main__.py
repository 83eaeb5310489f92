"""The door: ``python -m servers.emulator``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

from harness.errors import ExitCode, HarnessError, UsageError
from servers.emulator.app import App
from servers.emulator.config import Fixed, build_source, fixed_source, read_cell
from servers.emulator.faults import FAULTS, FaultPlan
from servers.emulator.http import Connection
from servers.emulator.timeline import Timeline
from servers.emulator.truth import FLUSH_S, TruthLog

PR_SET_PDEATHSIG = 1
BACKLOG = 4096
COLLECT_S = 1.0
"""The collector runs by the clock, on young objects, in place of in the middle of a burst of tokens."""


def arguments() -> argparse.ArgumentParser:
    faults = "; ".join(f"{name}: {text}" for name, (text, _) in FAULTS.items())
    parser = argparse.ArgumentParser(prog="python -m servers.emulator", description="Emulate an LLM server on a GPU.")
    parser.add_argument("--stack-json", type=Path, help="a stack, or an object of stack, gpu and scenario")
    parser.add_argument("--fixed", help="ttft_s=0.1,itl_s=0.02,tokens=32 in place of a stack")
    parser.add_argument("--scenario", help="whose claim is replayed")
    parser.add_argument("--calibration", choices=("roofline", "claims"), help="default: what the stack says")
    parser.add_argument("--model", help="served name; default: the stack's, or 'emulated'")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--truth-log", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", default="", help=faults)
    parser.add_argument("--watch-stdin", action="store_true", help="end at the end of stdin, not when the parent dies")
    return parser


def main() -> int:
    options = arguments().parse_args()
    try:
        asyncio.run(serve(options))
    except (HarnessError, OSError) as error:
        print(f"emulator: {error}", file=sys.stderr)
        return int(error.exit_code) if isinstance(error, HarnessError) else int(ExitCode.SERVER)
    return 0


async def serve(options: argparse.Namespace) -> None:
    """Serve until a signal, the end of stdin or the death of the parent."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if options.watch_stdin:
        watch_stdin(loop, stop)
    else:
        die_with_parent()
    allow_many_files()

    timeline = Timeline(loop)
    app, about = build(options, timeline)
    server = await loop.create_server(lambda: Connection(app), options.host, options.port, backlog=BACKLOG)
    port: int = server.sockets[0].getsockname()[1]
    work_regularly(app, timeline)
    delay_s = app.start_delay_s
    if delay_s:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), delay_s)
    app.ready = True
    if not stop.is_set():
        print(json.dumps({"ready": True, "port": port, "model": app.model, "version": "emulator"}), flush=True)
        print(f"emulator: {about}, on {options.host}:{port}, pid {os.getpid()}", file=sys.stderr, flush=True)
    collect_regularly(timeline)
    try:
        await stop.wait()
    finally:
        server.close()
        app.stop()
        text = f"emulator: stopped after {app.requests} requests, {app.generated_tokens} tokens"
        print(text, file=sys.stderr, flush=True)


def build(options: argparse.Namespace, timeline: Timeline) -> tuple[App, str]:
    """Build the application and a line about it from the command line."""
    faults = FaultPlan.parse(options.faults, options.seed)
    if (options.stack_json is None) == (options.fixed is None):
        raise UsageError("give either --stack-json or --fixed")
    if options.fixed is not None:
        fixed = Fixed.parse(options.fixed)
        model = options.model or "emulated"
        truth = TruthLog(options.truth_log, {"seed": options.seed, "model": model, "fixed": options.fixed})
        about = f"fixed times {options.fixed}"
        return App(model, fixed_source(fixed, timeline), truth, faults, options.seed, fixed.tokens), about
    cell = read_cell(options.stack_json, options.scenario)
    # An API has no roofline: its claim is replayed, whatever was asked for.
    calibration = "claims" if cell.stack.is_api else options.calibration or cell.calibration
    source = build_source(cell, calibration, timeline, options.seed)
    model = options.model or cell.model
    name = cell.stack.name
    truth = TruthLog(
        options.truth_log, {"seed": options.seed, "model": model, "stack": name, "calibration": calibration}
    )
    return App(model, source, truth, faults, options.seed), f"{name}, calibration {calibration}"


def work_regularly(app: App, timeline: Timeline) -> None:
    def work(planned_s: float) -> None:
        app.work()
        timeline.at(max(time.monotonic(), planned_s) + FLUSH_S, work)

    timeline.at(time.monotonic() + FLUSH_S, work)


def collect_regularly(timeline: Timeline) -> None:
    gc.collect()
    gc.freeze()
    gc.disable()

    def collect(planned_s: float) -> None:
        gc.collect(1)
        timeline.at(planned_s + COLLECT_S, collect)

    timeline.at(time.monotonic() + COLLECT_S, collect)


def die_with_parent() -> None:
    """Ask Linux for SIGTERM when the thread that started us ends; elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    descriptor = sys.stdin.fileno()
    os.set_blocking(descriptor, False)

    def read() -> None:
        try:
            ended = not os.read(descriptor, 4096)
        except BlockingIOError:
            return
        if ended:
            loop.remove_reader(descriptor)
            stop.set()

    loop.add_reader(descriptor, read)


def allow_many_files() -> None:
    """One connection is one file; the soft limit is often 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
