"""Scores a recorded run: after its end, in processes of their own, on a seeded sample that is spread over its time."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.errors import RunDirectoryError, ScoringError
from harness.quality_file import SCHEMA, ScoringFacts, read_quality, write_quality
from harness.quality_join import why_not
from harness.runlog import OUTPUTS, RunReader, file_digest

MOST = 10_000
"""Answers that are scored of one run."""
STRATA = 50
"""Stretches of a run with equally many answers; each gives its share of the sample."""
_FEWEST_OF_A_PROCESS = 250
"""Answers for which a second process is worth its start."""


def ensure_scored(run_dir: Path, *, again: bool = False, most: int = MOST) -> ScoringFacts | None:
    """Score a run unless that was done with the same outputs; None where there is nothing to score.

    Raises
    ------
    RunDirectoryError
        When the directory is not a run, or is damaged.
    """
    reader = RunReader(run_dir)
    manifest = reader.manifest
    if why_not(manifest) or not (run_dir / OUTPUTS).exists():
        return None
    digest = file_digest(run_dir / OUTPUTS)
    if not again:
        try:
            known = read_quality(run_dir)
        except RunDirectoryError:  # of another version: made anew
            known = None
        if known is not None and known[1].outputs_digest == digest:
            return known[1]
    outputs = [output for output in reader.outputs() if {"request", "text", "expected"} <= output.keys()]
    seed = manifest.seeds.get("outputs", 0)
    chosen = spread_over_time(outputs, _sent_s(reader.samples(), outputs), most, seed)
    scores, told = score_all(chosen)
    facts = ScoringFacts(outputs_digest=digest, kept=len(outputs), scored=len(chosen), seed=seed, **told)
    write_quality(run_dir, _table(chosen, scores), facts)
    return facts


def spread_over_time(
    outputs: Sequence[dict[str, Any]], sent_s: Sequence[float], most: int, seed: int
) -> list[dict[str, Any]]:
    """At most ``most`` of them, in their order: from each stretch of time alike, chosen by chance within it."""
    if len(outputs) <= most:
        return list(outputs)
    rng = random.Random(f"quality/{seed}")
    order = np.argsort(np.nan_to_num(np.asarray(sent_s)), kind="stable")
    chosen: list[int] = []
    strata = min(STRATA, most)
    for stratum, places in enumerate(np.array_split(order, strata)):
        wanted = most * (stratum + 1) // strata - most * stratum // strata
        chosen += rng.sample([int(each) for each in places], wanted)
    return [outputs[each] for each in sorted(chosen)]


def score_all(
    outputs: Sequence[dict[str, Any]], processes: int | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Scores of each answer, and ``corpus`` figures with their ``signatures``."""
    if not outputs:
        return [], {}
    count = processes or min(len(os.sched_getaffinity(0)), 8)
    count = max(1, min(count, -(-len(outputs) // _FEWEST_OF_A_PROCESS)))
    parts = [outputs[start::count] for start in range(count)]
    with ThreadPoolExecutor(count) as pool:
        corpus = pool.submit(_work, "corpus", outputs)
        scored = list(pool.map(lambda part: _work("scores", part), parts))
        found: list[dict[str, Any]] = [{}] * len(outputs)
        for start, part in enumerate(scored):
            found[start::count] = part
        return found, corpus.result()


def _work(what: str, outputs: Sequence[dict[str, Any]]) -> Any:
    command = [sys.executable, "-m", "harness.quality_worker_main", what]
    text = "".join(json.dumps(output) + "\n" for output in outputs)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise ScoringError(f"scoring ended with exit code {done.returncode}: {said[-1] if said else 'without a word'}")
    return json.loads(done.stdout)


def names_of(output: dict[str, Any]) -> tuple[int, int, int]:
    """Worker, user and sequence of a line of ``outputs.jsonl``."""
    worker, user, sequence = output["request"].rsplit("/", 3)[1:]
    return int(worker), int(user), int(sequence)


def _sent_s(samples: pa.Table, outputs: Sequence[dict[str, Any]]) -> list[float]:
    wanted = {names_of(output) for output in outputs}
    columns = ((samples.column(name).to_pylist()) for name in ("worker", "user", "sequence", "sent_s"))
    sent = {names: at_s for *names_, at_s in zip(*columns, strict=True) if (names := tuple(names_)) in wanted}
    return [sent.get(names_of(output), 0.0) for output in outputs]


def _table(outputs: Sequence[dict[str, Any]], scores: Sequence[dict[str, Any]]) -> pa.Table:
    rows = []
    for output, scored in zip(outputs, scores, strict=True):
        worker, user, sequence = names_of(output)
        about = {"worker": worker, "user": user, "sequence": sequence, "prompt_id": output["prompt_id"]}
        rows.append({**about, "split": output["expected"].get("split", ""), **scored})
    return pa.Table.from_pylist(rows, schema=SCHEMA)
