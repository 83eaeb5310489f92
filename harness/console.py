"""What the command line shows: verdicts, tables, JSON."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.catalog import Catalog
from harness.cell import Overrides, build_cell, require_real
from harness.connection import Connection
from harness.errors import ExitCode, ServerError
from harness.judgement import Judgement


def write_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def print_judgements(judgements: list[Judgement], *, as_json: bool, report: Path | None) -> int:
    """Print verdicts; return the worst one's exit code."""
    from reports.terminal import print_verdicts

    if as_json:
        documents = [judgement.model_dump(mode="json") for judgement in judgements]
        write_json(documents[0] if len(documents) == 1 else documents)
    else:
        out = Console()
        print_verdicts(out, judgements)
        if report is not None:
            out.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)
    codes = {judgement.verdict.exit_code for judgement in judgements}
    return next(
        code for code in (ExitCode.FAIL, ExitCode.INVALID, ExitCode.INCONCLUSIVE, ExitCode.PASS) if code in codes
    )


def print_catalog(catalog: Catalog, *, as_json: bool) -> None:
    if as_json:
        write_json(
            {
                "scenarios": [scenario.model_dump(mode="json") for scenario in catalog.scenarios.values()],
                "stacks": [stack.model_dump(mode="json") for stack in catalog.stacks.values()],
                "gpus": [gpu.model_dump(mode="json") for gpu in catalog.gpus.values()],
                "profiles": [profile.model_dump(mode="json") for profile in catalog.profiles.values()],
                "experiments": [each.model_dump(mode="json") for each in catalog.experiments.values()],
            }
        )
        return
    out = Console()
    scenarios = _table("Scenarios", "name", "users", "think time", "SLA", "stacks")
    for scenario in catalog.scenarios.values():
        checks = ", ".join(check.text for check in scenario.sla)
        names = ", ".join((*scenario.stacks, *scenario.real))
        scenarios.add_row(scenario.name, str(scenario.users), f"{scenario.think_time.mean_s:g} s", checks, names)
    stacks = _table("Stacks", "name", "engine", "what", "claims")
    for stack in catalog.stacks.values():
        stacks.add_row(stack.name, stack.engine, stack.title, ", ".join(stack.claims) or "-")
    gpus = _table("GPUs", "name", "memory", "bandwidth", "fp16", "what")
    for gpu in catalog.gpus.values():
        gpus.add_row(
            gpu.name,
            f"{gpu.memory_gib:g} GiB",
            f"{gpu.bandwidth_gbps:g} GB/s",
            f"{gpu.fp16_tflops:g} TFLOP/s",
            gpu.title,
        )
    profiles = _table("Profiles", "name", "what")
    for profile in catalog.profiles.values():
        profiles.add_row(profile.name, profile.title)
    experiments = _table("Experiments", "name", "scenario", "arms", "question")
    for experiment in catalog.experiments.values():
        told = ", ".join(arm.title for arm in experiment.arms)
        experiments.add_row(experiment.name, experiment.scenario, told, experiment.question)
    for table in (scenarios, stacks, gpus, profiles, experiments):
        out.print(table)


def print_plan(rows: Sequence[Any], *, as_json: bool) -> None:
    """Print plan rows: claim beside floor, capacity and what is expected."""
    if as_json:
        write_json([row.model_dump(mode="json") for row in rows])
        return
    out = Console()
    table = _table("Plan", "scenario", "stack", "claim", "floor", "feasible", "predicted", "expected", "passes from Z")
    for row in rows:
        feasible = "-" if row.feasible is None else "yes" if row.feasible else f"no, {row.factor:.1f} times under"
        table.add_row(
            row.scenario,
            row.stack,
            _seconds(row.claim_s),
            _seconds(row.floor_s),
            feasible,
            _seconds(row.predicted),
            row.expected,
            _seconds(row.passing_think_s),
        )
    out.print(table)
    for row in rows:
        for reason in row.reasons:
            out.print(
                f"{row.scenario}, {row.stack}: {reason}", style="dim", markup=False, highlight=False, soft_wrap=True
            )
    for flag in dict.fromkeys(row.price_flag for row in rows if row.price_flag):
        out.print(flag, style="yellow", markup=False, highlight=False, soft_wrap=True)


def serve_until_interrupted(
    catalog: Catalog,
    name: str,
    scenario_name: str,
    port: int | None,
    calibration: str | None,
    faults: str,
    real: bool = False,
    allow_other_gpu: bool = False,
) -> int:
    """Start one stack's server and wait for Ctrl-C, SIGTERM or its own end."""
    from servers import launcher_for
    from servers.preflight import Placement, preflight

    require_real(real, allow_other_gpu)
    stack, scenario = catalog.stack(name), catalog.scenario(scenario_name)
    overrides = Overrides.model_validate({"calibration": calibration})
    err = Console(stderr=True)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with tempfile.TemporaryDirectory(prefix="harness-serve-") as folder:
        directory = Path(folder)
        connection = Connection(protocol=stack.protocol)
        profile, emulate = catalog.profile("quick"), False if real else None
        cell = build_cell(catalog, scenario, stack, profile, overrides, connection, run_dir=directory, emulate=emulate)
        placed = Placement(gpu=cell.gpu)
        if cell.needs_gpus and cell.gpu is not None:
            placed = preflight(stack, cell.scenario, cell.gpu, catalog.gpus.values(), allow_other=allow_other_gpu)
        log = directory / "server.log"
        server = launcher_for(stack, cell.emulated).launch(
            stack,
            scenario,
            log_file=log,
            work_dir=directory,
            users=scenario.users,
            port=port,
            gpu=placed.gpu,
            gpus=placed.indices,
            calibration=cell.calibration or None,
            faults=faults or None,
            progress=lambda note: err.print(note, style="dim", markup=False),
        )
        with server:
            kind = " (EMULATED)" if cell.emulated else f" (OTHER GPU: {placed.other})" if placed.other else ""
            sys.stdout.write(f"{stack.name}{kind} serves model {server.model} at {server.url}; Ctrl-C ends it\n")
            sys.stdout.flush()
            try:
                while not ended.wait(0.2):
                    if server.poll() is not None:
                        tail = "\n".join(f"  {line}" for line in server.facts().log_tail)
                        raise ServerError(f"{stack.name} ended by itself with code {server.poll()}:\n{tail}")
            except KeyboardInterrupt:
                pass
    return ExitCode.PASS


def print_doctor(*, as_json: bool) -> int:
    from servers.doctor import examine

    findings = examine()
    if as_json:
        write_json([finding.model_dump(mode="json") for finding in findings])
    else:
        table = _table("This machine", "what", "state", "found", "how to get it")
        for finding in findings:
            table.add_row(finding.name, finding.state, finding.found, finding.remedy)
        Console().print(table)
    return ExitCode.PASS


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
