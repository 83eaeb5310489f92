"""``python -m harness.telemetry --out FILE ...``: records until it is told to end. Started by :mod:`.process`."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import threading
from pathlib import Path

from harness.telemetry import Order, record


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--load-pid", type=int)
    parser.add_argument("--server-pid", type=int, action="append", default=[])
    parser.add_argument("--metrics-url", action="append", default=[], help="several of one stack are added up")
    parser.add_argument("--guessed", action="store_true")
    parser.add_argument("--api-key-env", default="", help="environment variable that holds the key")
    parser.add_argument("--header", action="append", default=[], help="'Name: value'; ${VAR} is filled in")
    parser.add_argument("--ca-file", default=None)
    parser.add_argument("--gpus", action="store_true")
    options = parser.parse_args()

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    order = Order(
        out=options.out,
        load_pid=options.load_pid,
        server_pids=tuple(options.server_pid),
        without=(os.getppid(),),  # the guard of this process, a child of the load generator
        metrics_urls=tuple(options.metrics_url),
        guessed=options.guessed,
        headers=_headers(options.api_key_env, options.header),
        ca_file=options.ca_file,
        gpus=options.gpus,
    )
    record(order, stop)
    return 0


def _headers(key_variable: str, templates: list[str]) -> dict[str, str]:
    """What may be secret comes from the environment; a variable that is not set leaves its header out."""
    found = {}
    key = os.environ.get(key_variable, "").strip() if key_variable else ""
    if key:
        found["Authorization"] = f"Bearer {key}"
    for template in templates:
        name, _, value = template.partition(":")
        if all(variable in os.environ for variable in re.findall(r"\$\{(\w+)\}", value)):
            found[name.strip()] = re.sub(r"\$\{(\w+)\}", lambda match: os.environ[match[1]], value).strip()
    return found


if __name__ == "__main__":
    sys.exit(main())
