"""The door: ``python -m servers.environments``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from harness.errors import ExitCode, HarnessError, UsageError
from servers.environments import ENVIRONMENTS, environment, make, problems


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m servers.environments", description="Make an engine's environment.")
    parser.add_argument("engine", help=", ".join(ENVIRONMENTS))
    parser.add_argument("--check", action="store_true", help="change nothing; say what is missing and exit with 1")
    options = parser.parse_args(arguments)
    try:
        wanted = environment(options.engine)
        if options.check:
            missing = problems(wanted, digests=True)
            for problem in missing:
                print(f"{wanted.name}: {problem}; run: {wanted.command}")
            if not missing:
                print(f"{wanted.name}: complete")
            return 1 if missing else 0
        make(wanted, lambda line: print(line, flush=True))
    except UsageError as error:
        print(error, file=sys.stderr)
        return ExitCode.USAGE
    except HarnessError as error:
        print(error, file=sys.stderr)
        return ExitCode.SERVER
    return 0


if __name__ == "__main__":
    sys.exit(main())
