"""From a night's file to its cells: every name and value checked, every mistake told, before anything starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.catalog import Catalog, load_catalog
from harness.cell import Cell
from harness.errors import HarnessError, SpecError
from harness.estimate import agree_to_cost
from harness.matrix import Options, build_cells
from harness.nightly.record import Night, Status
from harness.nightly.spec import Nightly, Variant
from harness.stopping import Stopping, stopping_from

OVERHEAD_S = 25.0
"""Of a cell beside its load: a server that stands up, the client's certificate, sealing, judging, the report."""
REFUSED_S = 3.0
"""A stack whose memory cannot admit one request gets no load."""

_FLAGS = {
    "users": "--users",
    "think_time_s": "--think-time",
    "rate_rps": "--rate",
    "arrivals": "--arrivals",
    "output_tokens": "--output-tokens",
    "input_tokens": "--input-tokens",
    "run_time_s": "--run-time",
    "calibration": "--calibration",
    "faults": "--faults",
    "seed": "--seed",
}


@dataclass(frozen=True)
class PlannedCell:
    key: str
    scenario: str
    stack: str
    variant: str
    arguments: tuple[str, ...]
    """Of ``harness``, without where to write."""
    expected_s: float


@dataclass(frozen=True)
class Plan:
    cells: tuple[PlannedCell, ...]
    catalog: tuple[str, ...]
    """Options that name the user's own catalog."""

    @property
    def digest(self) -> str:
        """What a resumed night must have in common with the one that was cut off."""
        text = json.dumps([[cell.key, *cell.arguments] for cell in sorted(self.cells, key=lambda cell: cell.key)])
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def plan_night(spec: Nightly, folder: Path) -> Plan:
    """Resolve every cell, in the order of the file. ``folder`` is the file's, where its ``catalog`` begins.

    Raises
    ------
    SpecError
        With every cell that cannot be run, and why.
    """
    extra = tuple((folder / name).resolve() for name in spec.catalog)
    missing = [f"catalog: {path}: there is no such file or folder" for path in extra if not path.exists()]
    if missing:
        raise SpecError(missing)
    catalog = load_catalog(extra)
    options = tuple(word for path in extra for word in ("--catalog", str(path)))
    found: dict[str, PlannedCell] = {}
    problems: dict[str, None] = {}
    for block in spec.matrix:
        for scenario in block.scenarios:
            try:
                stacks = block.stacks or catalog.scenario(scenario).stacks
            except HarnessError as error:
                problems[str(error)] = None
                continue
            for stack in stacks:
                for variant in block.variants:
                    try:
                        cell = _planned(catalog, spec, scenario, stack, variant, options)
                    except HarnessError as error:
                        problems[f"{scenario} / {stack} ({variant}): {error}"] = None
                    else:
                        found[cell.key] = cell
    if problems:
        raise SpecError(problems)
    return Plan(tuple(found.values()), options)


def in_order(cells: Sequence[PlannedCell], order: str, last: Night | None) -> list[PlannedCell]:
    """Put cells in the order in which they run; ``last`` is the night before, if there was one."""
    if order == "shortest-first":
        return sorted(cells, key=lambda cell: cell.expected_s)
    if order == "not-passed-first" and last is not None:
        passed = {each.key for each in last.cells if each.status is Status.JUDGED and each.exit_code == 0}
        return sorted(cells, key=lambda cell: cell.key in passed)
    return list(cells)


def _planned(
    catalog: Catalog, spec: Nightly, scenario: str, stack: str, variant: str, catalog_options: tuple[str, ...]
) -> PlannedCell:
    settings = spec.variant(variant)
    stopping = _stopping(settings)
    (cell,) = build_cells(
        catalog,
        Options(
            scenarios=(scenario,),
            stacks=(stack,),
            profile=spec.profile,
            users=settings.users,
            think_time_s=settings.think_time_s,
            rate_rps=settings.rate_rps,
            arrivals=settings.arrivals,
            output_tokens=settings.output_tokens,
            run_time_s=settings.run_time_s,
            input_tokens=settings.input_tokens,
            calibration=settings.calibration,
            real=settings.real,
            allow_other_gpu=settings.allow_other_gpu,
            max_cost_usd=settings.max_cost_usd,
            faults=settings.faults,
            stopping=stopping,
            seed=settings.seed,
        ),
    )
    pays = cell.tariff is not None
    if pays and settings.max_cost_usd is None:
        raise SpecError(["this stack is paid by the token: give its variant max_cost_usd, which nobody will be asked"])
    if pays:
        agree_to_cost([cell], max_cost_usd=settings.max_cost_usd, yes=True, ask=None)
    words = ["run", scenario, "--stack", stack, "--profile", spec.profile, *_settings(settings, pays=pays)]
    return PlannedCell(
        key=f"{scenario}--{stack}--{variant}",
        scenario=scenario,
        stack=stack,
        variant=variant,
        arguments=(*words, *catalog_options, "--json"),
        expected_s=_expected_s(cell),
    )


def _stopping(settings: Variant) -> Stopping:
    return stopping_from(
        until_decided=settings.until_decided, min_time_s=settings.min_time_s, abort_on=settings.abort_on
    )


def _settings(settings: Variant, *, pays: bool) -> list[str]:
    words = []
    for name, flag in _FLAGS.items():
        value = getattr(settings, name)
        if value not in (None, ""):
            words += [flag, str(value)]
    words += _stopping(settings).words()
    words += ["--real"] if settings.real else []
    words += ["--allow-other-gpu"] if settings.allow_other_gpu else []
    # harness run refuses a cap where nothing is paid by the token.
    words += ["--yes", "--max-cost", str(settings.max_cost_usd)] if pays else []
    return words


def _expected_s(cell: Cell) -> float:
    if cell.refusal:
        return REFUSED_S
    return cell.timing.spawn_s + cell.timing.run_time_s + cell.scenario.longest_limit_s + cell.drain_s + OVERHEAD_S
