"""From run directories to launches: what a comparison needs of each run, read from its judgement and its samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa

from harness.comparison import ArmResult, Launch, Part
from harness.errors import RunDirectoryError
from harness.judge import judge, read_judgement
from harness.judgement import Distribution, Judgement, Mark, Verdict
from harness.manifest import Manifest
from harness.metrics import (
    STREAMED,
    BoolArray,
    FloatArray,
    Requests,
    Window,
    judged_rows,
    observe,
    read_requests,
)
from harness.objective import Objective
from harness.runlog import JUDGEMENT, RunReader, run_directories
from harness.sla import good_and_bad, measured
from harness.statistics import nearest_rank

BLOCKS = 10
ROUND = "round-"
"""How launches made in turn are named: ``A/round-1`` and ``B/round-1`` belong together."""
_PERCENTILES = {"p50": 50, "p95": 95, "p99": 99}
_HIT_SHARE = 0.5
"""Of a prompt's tokens: with this many from the cache, a request counts as a hit."""


def read_arms(labels: Sequence[str], folders: Sequence[Path]) -> tuple[list[ArmResult], bool]:
    """Read each arm's launches, and say whether they were made in turn: each arm then has the same rounds.

    Raises
    ------
    RunDirectoryError
        When a folder holds no run, or a damaged one.
    """
    arms = []
    for label, folder in zip(labels, folders, strict=True):
        directories = run_directories(folder)
        launches = tuple(read_launch(directory, round_=_round(directory)) for directory in directories)
        arms.append(ArmResult(label=label, launches=launches))
    rounds = [sorted(x.round or 0 for x in arm.launches) for arm in arms]
    in_turn = rounds[0] != [0] and 0 not in rounds[0] and all(each == rounds[0] for each in rounds)
    return arms, in_turn and len(rounds[0]) > 1


def _round(directory: Path) -> int | None:
    number = directory.name.removeprefix(ROUND)
    return int(number) if directory.name.startswith(ROUND) and number.isdecimal() else None


def read_launch(directory: Path, *, round_: int | None = None) -> Launch:
    """Read one run; it is judged if it was not yet.

    Raises
    ------
    RunDirectoryError
        When the directory is not a run, or is damaged.
    """
    reader = RunReader(directory)
    manifest = reader.manifest
    judgement = read_judgement(directory) if (directory / JUDGEMENT).exists() else judge(directory)
    launch = Launch(
        run=judgement.run,
        directory=str(directory),
        scenario=judgement.scenario,
        scenario_title=judgement.scenario_title,
        stack=judgement.stack,
        stack_title=judgement.stack_title,
        verdict=judgement.verdict,
        marks=judgement.marks,
        started=manifest.started,
        round=round_,
        emulated=manifest.server.emulated or Mark.EMULATED in judgement.marks,
        streamed=manifest.stream,
        requests=judgement.load.judged,
        window_s=judgement.load.window_s,
        left_out=_left_out(judgement),
        conditions=conditions(manifest),
        headline=headline_of(manifest.scenario.sla),
    )
    if judgement.window is None or launch.left_out:
        return launch
    table = reader.samples()
    requests = read_requests(table, manifest.workers, manifest.load)
    rows = judged_rows(requests, Window(*judgement.window))
    return launch.model_copy(
        update={
            "values": _values(manifest, judgement, requests, rows),
            "blocks": _blocks(manifest, requests, rows, Window(*judgement.window)),
            "parts": _parts(manifest, table, requests, rows),
        }
    )


def _left_out(judgement: Judgement) -> str:
    if judgement.verdict is Verdict.INVALID:
        return f"it is INVALID: {judgement.reasons[0]}" if judgement.reasons else "it is INVALID"
    if judgement.window is None or not judgement.load.judged:
        return f"it has no judged request ({judgement.reasons[0] if judgement.reasons else judgement.sentence})"
    if Mark.CUT_OFF in judgement.marks:
        return f"it was cut off ({judgement.ended_by or 'killed'})"
    return ""


def conditions(manifest: Manifest) -> dict[str, str]:
    """What two arms must share for their difference to be theirs, in words."""
    scenario, load = manifest.scenario, manifest.load
    workload = scenario.workload
    arrivals = scenario.arrivals
    prompts = workload.model_dump_json(exclude={"output_tokens", "output_length", "templates", "output_share"})
    return {
        "users": str(load.users_asked) if arrivals is None else "an open loop",
        "arrivals": "a closed loop" if arrivals is None else arrivals.text,
        "think times": f"{scenario.think_time.mean_s:g} s" if arrivals is None else "",
        "answer lengths": f"{workload.output_tokens} {workload.output_length}",
        "templates": workload.templates or "none",
        "prompts": f"{workload.kind} {sha256(prompts.encode()).hexdigest()[:8]}",
        "ways of answering": "streamed" if manifest.stream else "whole",
        "SLAs": ", ".join(check.text for check in scenario.sla),
        "networks": manifest.overrides.get("network", "none"),
        "seeds": str(manifest.seeds.get("data", "")),
        "hosts": manifest.host,
        "versions of the harness": manifest.harness_version,
    }


def headline_of(objectives: Sequence[Objective]) -> tuple[str, ...]:
    """The compared metric nearest to each check: p90 and below the median is p50's neighbour, p99.9 is p99's."""
    found = []
    for objective in objectives:
        if objective.metric == "error_rate":
            found.append("error_rate")
        elif not objective.is_latency:
            found.append(f"{objective.metric}_rps")
        else:
            allowed = objective.allowed_rate
            asked = 100 * (1 - allowed) if allowed is not None else 99 if objective.aggregate == "max" else 50
            nearest = min(_PERCENTILES, key=lambda name: abs(_PERCENTILES[name] - asked))
            found.append(f"{objective.metric}_{nearest}")
    return tuple(dict.fromkeys(found))


def _values(manifest: Manifest, judgement: Judgement, requests: Requests, rows: BoolArray) -> dict[str, float]:
    found: dict[str, float] = {}
    spreads = {spread.metric: spread for spread in judgement.distributions}
    for metric, spread in spreads.items():
        found |= {f"{metric}_{name}": value for name, value in _percentiles(spread).items()}
    seen = spreads.get("ttft" if manifest.stream else "e2e")
    if seen is not None:
        found |= {f"perceived_{name}": value for name, value in _percentiles(seen).items()}
    ok, failed = int((requests.ok & rows).sum()), int((requests.failed & rows).sum())
    if ok + failed:
        found["error_rate"] = failed / (ok + failed)
    optional = {
        "slo_attainment": judgement.slo_attainment,
        "throughput_rps": judgement.load.throughput_rps,
        "goodput_rps": judgement.goodput_rps,
    }
    if judgement.cost is not None and judgement.cost.usd_per_query is not None:
        good = judgement.cost.usd_per_1000_good
        optional["usd_per_1000_good"] = math.inf if good is None else good
    energy = judgement.telemetry.energy if judgement.telemetry is not None else None
    if energy is not None:
        optional["request_j"] = energy.per_request_j
    return found | {name: value for name, value in optional.items() if value is not None}


def _percentiles(spread: Distribution) -> dict[str, float]:
    found = {name: getattr(spread, name) for name in _PERCENTILES}
    return {name: value for name, value in found.items() if value is not None}


def _blocks(manifest: Manifest, requests: Requests, rows: BoolArray, window: Window) -> dict[str, tuple[float, ...]]:
    """Each metric over equal parts of the window, by the time of issue; what a block lacks makes the metric absent."""
    edges = np.linspace(window.low_s, window.high_s, BLOCKS + 1)
    kept = measured(manifest.scenario.sla, streamed=manifest.stream)
    good, bad = good_and_bad(kept, requests)
    collected: dict[str, list[float]] = {}
    for low, high in itertools.pairwise(edges):
        inside = rows & (requests.issued_s >= low) & (requests.issued_s < high)
        ended = (requests.end_s >= low) & (requests.end_s < high)
        block = {
            "throughput_rps": float((requests.ok & ended).sum()) / (high - low),
            "goodput_rps": float((good & ended).sum()) / (high - low),
        }
        known, failed = int(((good | bad) & inside).sum()), int((requests.failed & inside).sum())
        finished = failed + int((requests.ok & inside).sum())
        if known:
            block["slo_attainment"] = int((good & inside).sum()) / known
        if finished:
            block["error_rate"] = failed / finished
        for metric in ("e2e", "response_time", "ttft", "tpot", "itl"):
            if metric in STREAMED and not manifest.stream:
                continue
            observed = observe(requests, inside, metric)
            if observed.known:
                block |= {
                    f"{metric}_{name}": observed.at_rank(nearest_rank(observed.known, percent))
                    for name, percent in _PERCENTILES.items()
                }
        seen = "ttft" if manifest.stream else "e2e"
        block |= {
            name.replace(seen, "perceived", 1): value for name, value in block.items() if name.startswith(f"{seen}_")
        }
        for name, value in block.items():
            collected.setdefault(name, []).append(value)
    return {name: tuple(values) for name, values in collected.items() if len(values) == BLOCKS}


def _parts(manifest: Manifest, table: pa.Table, requests: Requests, rows: BoolArray) -> tuple[Part, ...]:
    """Split the answered requests by what the server had in its cache, and by whether their prompt had come before."""
    answered = requests.ok & rows
    cached = np.asarray(table.column("cached_tokens").to_numpy(), dtype=np.float64)
    prompt = np.asarray(table.column("prompt_tokens").to_numpy(), dtype=np.float64)
    found = []
    if (cached[answered] > 0).any():
        hit = cached >= _HIT_SHARE * np.maximum(prompt, 1)
        found += [_part("cache hits", requests, answered & hit), _part("cache misses", requests, answered & ~hit)]
    if manifest.scenario.workload.repeat is not None:
        again = _seen_before(table, requests)
        found += [_part("prompts seen before", requests, answered & again)]
        found += [_part("prompts seen first", requests, answered & ~again)]
    return tuple(found)


def _seen_before(table: pa.Table, requests: Requests) -> BoolArray:
    """Whether a request's prompt was sent earlier in the run, warm-up included."""
    codes = table.column("prompt_id").combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.argsort(requests.begin_s, kind="stable")
    _, first = np.unique(codes[order], return_index=True)
    again = np.ones(len(codes), dtype=bool)
    again[order[first]] = False
    return again


def _part(name: str, requests: Requests, rows: BoolArray) -> Part:
    def at(metric: str, percent: int) -> float | None:
        values: FloatArray = np.sort(requests.values[metric][rows])
        values = values[np.isfinite(values)]
        return float(values[nearest_rank(len(values), percent) - 1]) if len(values) else None

    return Part(
        name=name,
        requests=int(rows.sum()),
        ttft_p50_s=at("ttft", 50) if requests.has_token[rows].any() else None,
        e2e_p50_s=at("e2e", 50),
        e2e_p95_s=at("e2e", 95),
    )


def require_folders(paths: Sequence[Path]) -> None:
    """Refuse paths that are no folders, all at once."""
    missing = [str(path) for path in paths if not path.is_dir()]
    if missing:
        raise RunDirectoryError(f"no such folder: {', '.join(missing)}")
