"""Run directories and sample tables whose true answer is known, made without a server."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.manifest import Manifest
from harness.records import LoadFacts, Outcome, Sample, ServerFacts, TokenSource, WorkerFacts
from harness.runlog import SCHEMA, RunWriter, sample_batch
from harness.spec import Scenario, Stack
from harness.telemetry_log import TELEMETRY_LIVE

WALL = 1_760_000_000.0
"""Wall-clock seconds of the run clock's zero."""
MONOTONIC = 5_000.0
"""Worker 0's monotonic seconds at that moment."""
WORKER = WorkerFacts(worker=0, host="here", pid=1, anchor_wall_s=WALL, anchor_monotonic_s=MONOTONIC, samples_sent=0)


def sample(start: float = 10.0, e2e: float = 1.0, **changes: Any) -> Sample:
    """One ``ok`` answer of 11 tokens in 11 chunks; times are seconds after the run clock's zero."""
    sent, tokens = MONOTONIC + start, changes.get("output_tokens", 11)
    first = sent + 0.1 * e2e
    gap_us = round((e2e * 0.9) / max(tokens - 1, 1) * 1e6)
    facts: dict[str, Any] = {
        "run": "r",
        "worker": 0,
        "region": "",
        "user": 0,
        "sequence": 0,
        "scenario": "test",
        "prompt_id": "p",
        "scheduled_s": sent,
        "sent_s": sent,
        "first_byte_s": first,
        "first_token_s": first,
        "last_token_s": sent + e2e,
        "end_s": sent + e2e,
        "prompt_tokens": 20,
        "output_tokens": tokens,
        "requested_tokens": tokens,
        "token_source": TokenSource.USAGE,
        "chunks": tokens,
        "gaps_us": (gap_us,) * max(tokens - 1, 0),
        "outcome": Outcome.OK,
        "http_status": 200,
        "finish_reason": "stop",
        "retries": 0,
        "retry_s": 0.0,
        "bytes": 100,
        "cached_tokens": 0,
        "error": "",
    }
    return Sample(**{**facts, **changes})


def failed(start: float = 10.0, after: float = 0.1, outcome: Outcome = Outcome.HTTP_ERROR, **changes: Any) -> Sample:
    """A request that ended without an answer."""
    nothing = {"first_token_s": math.nan, "last_token_s": math.nan, "output_tokens": 0, "chunks": 0, "gaps_us": ()}
    return sample(start, after, **{**nothing, "outcome": outcome, "error": str(outcome), **changes})


def unfinished(start: float, age: float, **changes: Any) -> Sample:
    """A request without a token yet, last seen at ``age``."""
    return failed(start, age, Outcome.IN_FLIGHT, **changes)


def table(samples: Iterable[Sample]) -> pa.Table:
    return pa.Table.from_batches([sample_batch(list(samples))], SCHEMA)


def load(**changes: Any) -> LoadFacts:
    """A complete closed loop, judged from 10 s to 100 s."""
    facts: dict[str, Any] = {
        "users_asked": 1,
        "users_reached": 1,
        "started_s": WALL,
        "warm_up_s": 10.0,
        "run_time_s": 100.0,
        "tail_s": 2.0,
        "judged_until_s": WALL + 100.0,
        "stopped_issuing_s": WALL + 102.0,
        "drained_s": WALL + 103.0,
        "ended_by": "run time",
        "complete": True,
    }
    return LoadFacts(**{**facts, **changes})


def scenario(*sla: str, users: int = 1, think_s: float = 1.0, **workload: Any) -> Scenario:
    return Scenario.model_validate(
        {
            "kind": "scenario",
            "name": "test",
            "title": "A test",
            "users": users,
            "think_time": {"distribution": "constant", "mean_s": think_s, "reason": "a test"},
            "sla": sla or ("p95(e2e) < 2 s", "error_rate < 1 %"),
            "sla_reason": "a test",
            "cost_sensitivity": "low",
            "quality_need": "medium",
            "workload": {"kind": "synthetic", "input_tokens": 20, "output_tokens": 11, **workload},
            "stacks": ["stack"],
        }
    )


def stack(**changes: Any) -> Stack:
    facts = {
        "kind": "stack",
        "name": "stack",
        "title": "A stack",
        "engine": "attach",
        "price": {"kind": "none", "reason": "a test"},
    }
    return Stack.model_validate({**facts, **changes})


@dataclass(frozen=True)
class Loop:
    """A simulated closed loop: ``answer(user, sequence, now)`` gives the seconds an answer takes; None fails it."""

    users: int = 20
    think_s: float = 1.0
    answer: Callable[[random.Random, float], float | None] = lambda rng, now: 0.5 + rng.random()
    spawn_s: float = 2.0
    run_s: float = 102.0
    seed: int = 1
    workers: int = 1

    def samples(self) -> list[Sample]:
        rng = random.Random(self.seed)
        found = []
        for user in range(self.users):
            now = rng.uniform(-self.spawn_s, self.think_s)
            sequence = 0
            while now < self.run_s:
                seconds = self.answer(rng, now)
                facts: dict[str, Any] = {"user": user, "sequence": sequence, "prompt_id": f"p{rng.randrange(20)}"}
                facts["worker"] = user % self.workers
                made = failed(now, 0.01, **facts) if seconds is None else sample(now, seconds, **facts)
                found.append(made)
                now += (made.end_s - made.sent_s) + rng.expovariate(1 / self.think_s)
                sequence += 1
        return found


def write_run(directory: Path, samples: list[Sample], spec: Scenario, facts: LoadFacts, **changes: Any) -> Manifest:
    """Write and seal one run directory, with every sample accounted for unless ``changes`` say otherwise."""
    facts = facts.model_copy(update={"samples_written": facts.samples_written or len(samples)})
    if facts.loop == "open" and not facts.arrivals_scheduled:
        facts = facts.model_copy(update={"arrivals_scheduled": len(samples), "arrivals_due": len(samples)})
    manifest: dict[str, Any] = {
        "run": "r",
        "profile": "quick",
        "scenario": spec,
        "stack": stack(),
        "load": facts,
        "workers": (WORKER.model_copy(update={"samples_sent": facts.samples_written}),),
        "server": ServerFacts(launcher="attach", url="http://127.0.0.1:1"),
    }
    seal = changes.pop("seal", True)
    writer = RunWriter(directory)
    writer.open_samples()
    for start in range(0, len(samples), 50):
        writer.append(sample_batch(samples[start : start + 50]))
    built = Manifest(**{**manifest, **changes})
    if seal:
        return writer.seal(built)
    writer.write_manifest(built)
    writer.close()
    return built


def loop_run(directory: Path, loop: Loop, spec: Scenario | None = None, **changes: Any) -> Manifest:
    spec = spec or scenario(users=loop.users, think_s=loop.think_s)
    facts = changes.pop("load", load(users_asked=loop.users, users_reached=loop.users))
    return write_run(directory, loop.samples(), spec, facts, **changes)


def shifted(samples: Iterable[Sample], seconds: float, worker: int) -> list[Sample]:
    """The same moments on the clock of another worker."""
    times = ("scheduled_s", "sent_s", "first_byte_s", "first_token_s", "last_token_s", "end_s")
    return [replace(each, worker=worker, **{name: getattr(each, name) + seconds for name in times}) for each in samples]


def write_telemetry(directory: Path, lines: Iterable[dict[str, Any]], **facts: Any) -> None:
    """Live telemetry of a run that is not sealed yet; ``t`` of a line is seconds after the run clock's zero."""
    known = {"anchor_wall_s": WALL - 5, "anchor_monotonic_s": MONOTONIC - 5, "host": WORKER.host, "ended": True}
    directory.mkdir(parents=True, exist_ok=True)
    shifted_lines = ({**line, "t": MONOTONIC + line["t"]} for line in lines)
    text = "".join(json.dumps(line) + "\n" for line in ({"facts": {**known, **facts}}, *shifted_lines))
    (directory / TELEMETRY_LIVE).write_text(text, encoding="utf-8")


def big_table(rows: int, gaps: int, users: int = 1000, seed: int = 1) -> pa.Table:
    """Many samples, built in columns."""
    rng = np.random.default_rng(seed)
    sent = MONOTONIC + np.sort(rng.uniform(0, 100, rows))
    e2e = rng.lognormal(-1, 0.4, rows)
    constant = {"run": "r", "region": "", "scenario": "test", "token_source": "usage", "finish_reason": "stop"}
    columns: dict[str, Any] = {name: pa.repeat(pa.scalar(text), rows) for name, text in constant.items()}
    columns["prompt_id"] = pa.array(np.char.add("prompt-", rng.integers(0, 500, rows).astype(str)))
    outcome = np.where(rng.random(rows) < 0.003, "timeout", "ok")
    columns["outcome"] = pa.array(outcome)
    columns["error"] = pa.array(np.where(outcome == "ok", "", "no answer"))
    times = {"scheduled_s": sent, "sent_s": sent, "first_byte_s": sent, "first_token_s": sent + 0.1 * e2e}
    columns |= {name: pa.array(values) for name, values in times.items()}
    columns |= {
        "last_token_s": pa.array(sent + e2e),
        "end_s": pa.array(sent + e2e),
        "retry_s": pa.array(np.zeros(rows)),
    }
    columns["user"] = pa.array(rng.integers(0, users, rows, dtype=np.int32))
    for name in ("worker", "sequence", "http_status", "retries", "cached_tokens"):
        columns[name] = pa.array(np.zeros(rows, dtype=np.int32))
    for name in ("prompt_tokens", "output_tokens", "requested_tokens", "chunks"):
        columns[name] = pa.array(np.full(rows, gaps + 1, dtype=np.int32))
    columns["bytes"] = pa.array(np.full(rows, 1000, dtype=np.int64))
    offsets = pa.array(np.arange(0, rows * gaps + 1, gaps, dtype=np.int32))
    values = pa.array(rng.integers(1000, 60_000, rows * gaps, dtype=np.uint32))
    columns["gaps_us"] = pa.ListArray.from_arrays(offsets, values)
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)
