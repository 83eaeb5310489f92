"""``harness``: the command line. Prints and exits; everything else is elsewhere.

The commands' files import what they need inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from harness.errors import ExitCode, HarnessError

try:
    import typer

    from harness.commands import (
        audit,
        capacity,
        catalog,
        compare,
        export,
        gate,
        history,
        installing,
        judging,
        nightly,
        opening,
        quality,
        run,
        serving,
    )
except KeyboardInterrupt:  # the longest import; Ctrl-C ends it without a stack trace, as it does later
    sys.exit(ExitCode.INTERRUPTED)

app = typer.Typer(
    name="harness",
    help="Which serving stack meets a scenario's SLA at this many users, at what cost, and does it still?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

COMMANDS: dict[str, Callable[..., None]] = {
    "run": run.run,
    "capacity": capacity.capacity,
    "judge": judging.judge,
    "report": judging.report,
    "open": opening.open_,
    "compare": compare.compare,
    "nightly": nightly.nightly,
    "gate": gate.gate,
    "export": export.export,
    "score": quality.score,
    "serve": serving.serve,
    "install": installing.install,
    "models": installing.models,
    "list": catalog.list_,
    "plan": catalog.plan,
    "audit": audit.audit,
    "validate": catalog.validate,
    "doctor": installing.doctor,
    "trend": history.trend,
    "regress": history.regress,
}

for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(history.app, name="history")


def main() -> int:
    """Run the command line; every expected error is one sentence and its exit code."""
    # A scheduler's TERM ends everything in the same order as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except HarnessError as error:
        sys.stderr.write(f"harness: {error}\n")
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
    return ExitCode.PASS


if __name__ == "__main__":
    sys.exit(main())
