"""The harness's own options of ``locust -f ...``; Locust's keep their meaning."""

from __future__ import annotations

import argparse
import sys
import typing
from pathlib import Path
from typing import Any

from harness.arrivals import PATTERNS_HELP
from harness.catalog import load_catalog
from harness.cell import Cell, Overrides, attached_stack, build_cell, new_run_id, require_real
from harness.connection import Connection, parse_body, parse_headers, parse_metrics_url
from harness.errors import UsageError, unknown_name
from harness.spec import Protocol, Split, Stack
from harness.stopping import stopping_from
from servers.emulator.faults import FaultPlan
from servers.ports import free_ports

RUNS = Path("runs")


def add_options(parser: argparse.ArgumentParser, scenario: str) -> None:
    """Register the options, and listen on 127.0.0.1 unless told otherwise (Locust listens everywhere).

    ``--profile`` is Locust's own option, which groups test runs by a name; ours are ``quick`` and ``full``.
    Options of an argument group stay out of Locust's web form.
    """
    parser.set_defaults(web_host="127.0.0.1", master_bind_host="127.0.0.1", profile="quick")
    if any(argument.startswith("--processes") for argument in sys.argv):
        # Locust forks its workers after parsing, so a port chosen here is known to all of them, and two runs
        # on one host do not meet on Locust's fixed one.
        port = free_ports(1)[0]
        parser.set_defaults(master_port=port, master_bind_port=port)
    group = parser.add_argument_group(
        f"harness ({scenario})",
        "Users, spawn rate and run time default to the scenario's. With --host, load goes to a server that is there; "
        "with --stack, the catalog's stack is started first. --profile quick (the default) or full says how long.",
    )
    group.add_argument("--stack", default="", help="a stack of the catalog to start and load")
    group.add_argument("--model", default="", help="model name to ask for (default: the first one served)")
    group.add_argument("--protocol", default="openai-chat", help="protocol of --host")
    group.add_argument("--metrics-url", default="", help="where --host counts (default: its /metrics)")
    group.add_argument("--no-stream", action="store_true", help="ask for whole answers: only their end is timed")
    group.add_argument("--think-time", type=float, default=None, help="mean think time, seconds")
    group.add_argument("--rate", type=float, default=None, help="requests/s of an open loop, instead of users")
    group.add_argument("--arrivals", default=None, help=f"how an open loop's requests arrive: {PATTERNS_HELP}")
    group.add_argument("--output-tokens", type=int, default=None, help="output length to ask for")
    group.add_argument("--dataset", default=None, help="JSONL of your own prompts")
    group.add_argument(
        "--split", choices=typing.get_args(Split), default=None, help="part of the prompts: train, held-out, all"
    )
    group.add_argument("--input-tokens", type=int, default=None, help="synthetic prompts of this length")
    group.add_argument("--calibration", default=None, help="roofline or claims, for an emulated stack")
    group.add_argument("--real", action="store_true", help="start a stack on GPUs or an API for real, not emulated")
    group.add_argument(
        "--allow-other-gpu", action="store_true", help="run a --real stack on other GPUs than its own; marks the run"
    )
    group.add_argument("--header", action="append", default=[], help="'Name: value'; ${VAR} is filled in")
    group.add_argument("--extra-body", default="{}", help="JSON object merged into each request's body")
    group.add_argument("--ca-file", default=None, help="PEM file of your own certificate authority")
    group.add_argument("--api-key-env", default="OPENAI_API_KEY", help="environment variable that holds the key")
    group.add_argument("--request-timeout", type=float, default=60.0, help="seconds for one request")
    group.add_argument("--max-retries", type=int, default=0, help="retries; their seconds count")
    group.add_argument("--until-decided", action="store_true", help="end the run as soon as every check is decided")
    group.add_argument("--min-time", type=float, default=None, help="seconds before which --until-decided ends nothing")
    group.add_argument(
        "--abort-on", action="append", default=[], help="end a hopeless run: 'error_rate > 20%%'; may be repeated"
    )
    group.add_argument("--run-dir", default=None, help="where to write the run (default: runs/...)")
    group.add_argument("--max-cost", type=float, default=None, help="USD at which a stack with a token price stops")
    group.add_argument("--yes", action="store_true", help="agree to the estimated cost without being asked")
    group.add_argument("--region", default="", help="a tag written into every sample")
    group.add_argument("--seed", type=int, default=1, help="seed of prompts and think times")
    group.add_argument("--faults", default="", help="faults an emulated stack makes, for tests")
    group.add_argument("--cell", default=None, help=argparse.SUPPRESS)
    group.add_argument("--progress-file", default=None, help=argparse.SUPPRESS)


def cell_from(options: argparse.Namespace, scenario_name: str) -> Cell:
    """Resolve the options into a cell.

    Raises
    ------
    HarnessError
        For unknown names and impossible values.
    """
    if options.cell:
        return Cell.model_validate_json(Path(options.cell).read_text(encoding="utf-8"))
    if not options.request_timeout > 0:
        raise UsageError(f"--request-timeout must be above 0 s, not {options.request_timeout:g}")
    if options.max_retries < 0:
        raise UsageError(f"--max-retries must not be negative, not {options.max_retries}")
    require_real(options.real, options.allow_other_gpu)
    if options.metrics_url and options.stack:
        raise UsageError("--metrics-url is about a server at --host; one that is started here says where it counts")
    FaultPlan.parse(options.faults)
    catalog = load_catalog()
    scenario = catalog.scenario(scenario_name)
    stack = _stack(options)
    run = new_run_id(scenario.name, stack.name)
    overrides = Overrides(
        users=options.num_users,
        think_time_s=options.think_time,
        rate_rps=options.rate,
        arrivals=options.arrivals,
        output_tokens=options.output_tokens,
        run_time_s=None if options.run_time is None else float(options.run_time),
        dataset=options.dataset,
        split=options.split,
        input_tokens=options.input_tokens,
        calibration=_calibration(options.calibration),
    )
    connection = Connection(
        protocol=options.protocol if options.host and not options.stack else stack.protocol,
        url=options.host or "",
        metrics_url=parse_metrics_url(options.metrics_url),
        model=options.model,
        api_key_env=options.api_key_env if not options.stack else "",
        headers=parse_headers(options.header),
        extra_body=parse_body(options.extra_body),
        ca_file=options.ca_file,
        stream=not options.no_stream,
        request_timeout_s=options.request_timeout,
        max_retries=options.max_retries,
    )
    return build_cell(
        catalog,
        scenario,
        stack,
        catalog.profile(options.profile),
        overrides,
        connection,
        run_dir=Path(options.run_dir) if options.run_dir else RUNS / run,
        run=run,
        region=options.region,
        seed=options.seed,
        faults=options.faults,
        emulate=False if options.real else None,
        allow_other_gpu=options.allow_other_gpu,
        max_cost_usd=options.max_cost,
        stopping=stopping_from(
            until_decided=options.until_decided, min_time_s=options.min_time, abort_on=options.abort_on
        ),
    )


def _stack(options: argparse.Namespace) -> Stack:
    if options.stack:
        if options.host:
            raise UsageError("give --host for a server that is there, or --stack for one to start, not both")
        return load_catalog().stack(options.stack)
    if not options.host:
        raise UsageError("give --host URL of a server to load, or --stack NAME of the catalog's (see: harness list)")
    if options.protocol not in typing.get_args(Protocol):
        raise unknown_name("protocol", options.protocol, typing.get_args(Protocol))
    return attached_stack(options.model, options.protocol)


def _calibration(name: str | None) -> Any:
    if name not in (None, "roofline", "claims"):
        raise unknown_name("calibration", str(name), ("roofline", "claims"))
    return name
