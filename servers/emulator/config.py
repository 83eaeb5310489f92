"""From command line and files to a source of token times."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.catalog import Catalog, load_catalog
from harness.errors import UsageError
from harness.roofline import Machine, kv_capacity_tokens, step_time_s
from harness.spec import Emulation, Gpu, Scenario, Stack
from servers.emulator.claims import Pace, claim_model
from servers.emulator.engine import Engine
from servers.emulator.prefix_cache import PrefixCache
from servers.emulator.sources import EngineSource, PacedSource, Source
from servers.emulator.timeline import Timeline

Calibration = Literal["roofline", "claims"]


@dataclass(frozen=True, slots=True)
class Fixed:
    """``--fixed``: known times, no engine."""

    ttft_s: float
    itl_s: float
    tokens: int | None
    """None: as many as the request asks for."""

    @classmethod
    def parse(cls, text: str) -> Fixed:
        """Read ``ttft_s=0.1,itl_s=0.02,tokens=32``; what is left out is 0, tokens the request's own.

        Raises
        ------
        UsageError
            For an unknown key or no number.
        """
        values = {"ttft_s": 0.0, "itl_s": 0.0, "tokens": 0.0}
        for part in filter(None, text.split(",")):
            key, _, value = part.partition("=")
            if key.strip() not in values:
                raise UsageError(f"--fixed has no '{key.strip()}'; known: {', '.join(values)}")
            try:
                values[key.strip()] = float(value)
            except ValueError:
                raise UsageError(f"--fixed {key.strip()}: '{value}' is no number") from None
        if min(values.values()) < 0:
            raise UsageError("--fixed: no value may be below 0")
        return cls(values["ttft_s"], values["itl_s"], int(values["tokens"]) or None)


@dataclass(frozen=True, slots=True)
class Cell:
    """What is emulated: a stack on its GPU, in a scenario where a claim is replayed."""

    stack: Stack
    gpu: Gpu | None
    scenario: Scenario | None

    @property
    def model(self) -> str:
        """The served name."""
        shape = self.stack.model
        return self.stack.launch.served_model or (self.stack.name if shape is None else shape.name)

    @property
    def calibration(self) -> Calibration:
        if self.gpu is None or self.stack.model is None:
            return "claims"
        return (self.stack.emulation or Emulation()).calibration


def read_cell(path: Path, scenario: str | None) -> Cell:
    """Read a stack's JSON, or ``{"stack": ..., "gpu": ..., "scenario": ...}``; the built-in catalog fills in.

    Raises
    ------
    UsageError
        When the file cannot be read or names what nobody knows.
    """
    try:
        found: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the stack from {path}: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no JSON object")
    parts = found if "stack" in found else {"stack": found}
    try:
        stack = Stack.model_validate_json(json.dumps(parts["stack"]))
        gpu = None if not parts.get("gpu") else Gpu.model_validate_json(json.dumps(parts["gpu"]))
        stated = None if not parts.get("scenario") else Scenario.model_validate_json(json.dumps(parts["scenario"]))
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    if gpu is None and stack.hardware is not None:
        gpu = _gpu(load_catalog(), stack.hardware.gpu)
    if stated is None and scenario is not None:
        # A scenario is needed for its claim only; a user's own one may be unknown here.
        stated = load_catalog().scenarios.get(scenario)
    return Cell(stack, gpu, stated)


def _gpu(catalog: Catalog, name: str) -> Gpu:
    if name not in catalog.gpus:
        raise UsageError(f"the built-in catalog has no GPU '{name}'; put its data beside the stack, under 'gpu'")
    return catalog.gpus[name]


def build_source(cell: Cell, calibration: Calibration, timeline: Timeline, seed: int) -> Source:
    """Build what times the tokens.

    Raises
    ------
    UsageError
        When the calibration needs what the cell does not have.
    """
    emulation = cell.stack.emulation or Emulation()
    if calibration == "claims":
        if cell.scenario is None:
            raise UsageError("replaying a claim needs --scenario, or a scenario beside the stack")
        claim = cell.stack.claims.get(cell.scenario.name)
        if claim is None:
            raise UsageError(f"stack '{cell.stack.name}' claims nothing for scenario '{cell.scenario.name}'")
        try:
            return PacedSource.of_claim(timeline, claim_model(cell.stack, cell.scenario, claim, emulation.spread), seed)
        except ValueError as error:
            raise UsageError(str(error)) from error
    if cell.gpu is None or cell.stack.model is None:
        raise UsageError(f"stack '{cell.stack.name}' has no GPU or no model shape, so no roofline; replay its claims")
    machine = Machine(cell.stack.model, cell.gpu, cell.stack.tensor_parallel, emulation.efficiency)

    def step_time(batch: int, kv_tokens: int, prefill_tokens: int) -> float:
        return step_time_s(machine, batch, kv_tokens, prefill_tokens)

    capacity = kv_capacity_tokens(machine)
    engines = [Engine(step_time, capacity, emulation.max_batch) for _ in range(cell.stack.replicas)]
    cache = PrefixCache(capacity * len(engines)) if emulation.prefix_cache else None
    return EngineSource(timeline, engines, cache)


def fixed_source(fixed: Fixed, timeline: Timeline) -> Source:
    pace = Pace(fixed.ttft_s, fixed.itl_s)
    return PacedSource(timeline, lambda _answer: pace)
