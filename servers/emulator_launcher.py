"""The emulator: ``python -m servers.emulator`` in the harness's own environment, playing a stack's GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from harness.catalog import load_catalog
from harness.errors import ServerError
from servers.base import LOCALHOST, Launcher, Order, RunningServer, stand_up
from servers.recipe import Calibration, Recipe

ROOT = Path(__file__).resolve().parents[1]
TRUTH_LOG = "truth.jsonl"
"""In the work directory: what the emulator knows it did, for tests of the client."""


class Emulator(Launcher):
    name = "emulator"

    def start(self, order: Order) -> RunningServer:
        stack_file = order.work_dir / "stack.json"
        try:
            stack_file.write_text(json.dumps(_cell(order)))
        except OSError as error:
            raise ServerError(f"cannot write {stack_file}: {error.strerror}") from error
        calibration = order.calibration or _own_calibration(order)
        command = [
            *(sys.executable, "-m", "servers.emulator"),
            *("--stack-json", str(stack_file)),
            *("--scenario", order.scenario.name),
            *("--host", LOCALHOST),
            *("--port", str(order.port or 0)),
            *("--calibration", calibration),
            *("--truth-log", str(order.work_dir / TRUTH_LOG)),
            *("--seed", str(order.seed)),
        ]
        if order.faults:
            command += ["--faults", order.faults]
        recipe = Recipe(
            tuple(command),
            # -m looks in the working directory, so that a checkout that is not installed runs too
            directory=ROOT,
            metrics_path="/metrics",
            details={"seed": order.seed, "faults": order.faults},
            emulated=True,
            calibration=calibration,
        )
        return stand_up(order, self.name, recipe)


def _cell(order: Order) -> dict[str, Any]:
    """What is played. A claim is replayed for the scenario as the catalog states it: by name, where it has one."""
    cell = {"stack": order.stack.model_dump(mode="json")}
    if order.gpu is not None:
        cell["gpu"] = order.gpu.model_dump(mode="json")
    if order.scenario.name not in load_catalog().scenarios:
        cell["scenario"] = order.scenario.model_dump(mode="json")
    return cell


def _own_calibration(order: Order) -> Calibration:
    emulation = order.stack.emulation
    return emulation.calibration if emulation is not None else "roofline"
