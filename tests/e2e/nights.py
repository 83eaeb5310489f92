"""Nights of real cells against emulated stacks, kept short."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.catalog import load_catalog
from harness.nightly.record import CellRecord, Night
from harness.nightly.store import read_night
from tests.e2e.processes import HARNESS, events

STACKS = ("vllm-7b-int8-a100", "vllm-13b-a100", "trtllm-13b-2xa100")
SHORT = {"users": 3, "think_time_s": 0.2, "output_tokens": 8, "run_time_s": 3}


def short_scenario(name: str, sla: str = "p95(e2e) < 1 s") -> dict[str, Any]:
    """A scenario of the catalog with a limit of a second, so that its load ends a second after its time."""
    found: dict[str, Any] = json.loads(load_catalog().scenario(name).model_dump_json(exclude_none=True))
    return found | {"name": f"{name}-short", "sla": [sla], "stacks": list(STACKS), "variants": [], "real": []}


def night_file(
    folder: Path,
    matrix: list[dict[str, Any]],
    variants: Mapping[str, Mapping[str, Any]],
    catalog: Iterable[Mapping[str, Any]] = (),
    **changes: Any,
) -> Path:
    """Write a night's file and its catalog; runs go to ``folder/runs``."""
    own = folder / "catalog"
    own.mkdir(parents=True, exist_ok=True)
    for spec in (*map(short_scenario, ("chatbot", "content", "translation")), *catalog):
        (own / f"{spec['name']}.yaml").write_text(yaml.safe_dump(dict(spec)), encoding="utf-8")
    document = {
        "kind": "nightly",
        "name": "test",
        "runs": str(folder / "runs"),
        "catalog": ["catalog"],
        "matrix": matrix,
        "variants": {name: dict(each) for name, each in variants.items()},
        "min_free_gib": 0,
        "retry_wait_s": 0,
        **changes,
    }
    path = folder / "night.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def command(path: Path, *options: str) -> list[str | Path]:
    return [*HARNESS, "nightly", path, *options]


def folder_of(path: Path) -> Path:
    return (path.parent / "runs" / "latest").resolve()


def night_of(path: Path) -> Night:
    return read_night(folder_of(path))


def cell(night: Night, variant: str) -> CellRecord:
    (found,) = [each for each in night.cells if each.variant == variant]
    return found


def progress(path: Path) -> list[dict[str, Any]]:
    """Every event of every attempt so far; those of attempts that were moved are among them."""
    files = sorted((path.parent / "runs").glob("*/*/*/progress.jsonl"))
    return [event for file in files for event in events(file)]
