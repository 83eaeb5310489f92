"""A night of fake cells: the runner itself, its children, its files; only the load is made up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import fake_cell
import yaml

from harness.judge import judge, write_judgement
from harness.nightly.plan import Plan, plan_night
from harness.nightly.record import CellRecord, Night
from harness.nightly.spec import Nightly, load_nightly
from tests import runs

FAKE = (sys.executable, "-I", "-S", fake_cell.__file__)
SEEDS = {name: seed for seed, name in fake_cell.PLAYS.items()}


def make_runs(folder: Path) -> None:
    """The runs that fake cells leave: real ones, sealed and judged."""
    for name in ("passes", "fails", "invalid", "cut-off"):
        slow = 3.0 if name == "fails" else 0.4
        loop = runs.Loop(users=5, answer=lambda rng, now, slow=slow: slow + 0.2 * rng.random())
        cut = {"ended_by": "interrupted", "complete": False} if name == "cut-off" else {}
        facts = runs.load(users_asked=5, users_reached=5, **cut)
        changes: dict[str, Any] = {"run": name, "started": "2026-11-22T02:00:00+00:00"}
        if name == "invalid":
            changes["problems"] = ("made up by a test",)
        runs.write_run(folder / name, loop.samples(), runs.scenario("p95(e2e) < 2 s", users=5), facts, **changes)
        write_judgement(folder / name, judge(folder / name))


def config(folder: Path, *variants: str, **changes: Any) -> Path:
    document: dict[str, Any] = {
        "kind": "nightly",
        "name": "test",
        "runs": str(folder / "runs"),
        "matrix": [{"scenarios": ["chatbot"], "stacks": ["vllm-7b-int8-a100"], "variants": list(variants)}],
        "variants": {name: {"seed": SEEDS[name]} for name in variants},
        "min_free_gib": 0,
        "retry_wait_s": 0,
        **changes,
    }
    path = folder / "night.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def planned(folder: Path, *variants: str, **changes: Any) -> tuple[Nightly, Plan]:
    path = config(folder, *variants, **changes)
    spec = load_nightly(path)
    return spec, plan_night(spec, folder)


def cell(night: Night, variant: str) -> CellRecord:
    (found,) = [each for each in night.cells if each.variant == variant]
    return found
