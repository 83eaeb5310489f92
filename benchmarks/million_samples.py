"""Judging and reporting a long run: seconds and peak memory for a million samples.

The floor is reading the same Parquet file into memory, in a process of its own. The goals: judging under 10 s
and under 1 GB, the report under 15 s and under 2 MB.

    python -m benchmarks.million_samples [--samples 1000000] [--gaps 20] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from harness.catalog import load_catalog
from harness.cell import Overrides, build_cell
from harness.connection import Connection
from harness.records import WorkerFacts
from harness.runlog import SCHEMA, RunWriter

WALL_S, MONOTONIC_S = 1_760_000_000.0, 5_000.0
BATCH = 50_000
JOBS = {
    "floor: read the file": "import sys, pyarrow.parquet as p; p.read_table(sys.argv[1] + '/samples.parquet')",
    "judge": "import sys; from pathlib import Path; from harness.judge import judge, write_judgement as w; "
    "d = Path(sys.argv[1]); w(d, judge(d))",
    "report": "import sys; from pathlib import Path; from harness.judge import read_judgement as r; "
    "from reports.written import write_reports as w; d = Path(sys.argv[1]); w(d / 'report.html', [r(d)])",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--gaps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "run"
        write_run(directory, options.samples, options.gaps)
        size_mb = (directory / "samples.parquet").stat().st_size / 1e6
        print(f"{options.samples:,} samples with {options.gaps} gaps each, {size_mb:.0f} MB")
        print("| what | CPU s, median (least to most) | peak memory, MB |\n| --- | --- | --- |")
        for name, code in JOBS.items():
            runs = [measure(code, directory) for _ in range(options.rounds)]
            seconds = sorted(run[0] for run in runs)
            middle = statistics.median(seconds)
            memory_mb = max(run[1] for run in runs)
            print(f"| {name} | {middle:.2f} ({seconds[0]:.2f} to {seconds[-1]:.2f}) | {memory_mb:,.0f} |")
        print(f"report: {(directory / 'report.html').stat().st_size / 1e3:,.0f} kB")


def write_run(directory: Path, samples: int, gaps: int) -> None:
    """A closed-loop run of 1,000 users with log-normal latencies, sealed."""
    catalog = load_catalog()
    scenario, stack = catalog.scenario("translation"), catalog.stack("trtllm-13b-int8-2xa100")
    cell = build_cell(
        catalog, scenario, stack, catalog.profile("quick"), Overrides(), Connection(protocol=stack.protocol),
        run_dir=directory,
    )  # fmt: skip
    length_s = samples / 200.0
    rng = np.random.default_rng(1)
    writer = RunWriter(directory)
    writer.open_samples()
    for start in range(0, samples, BATCH):
        writer.append(_batch(rng, np.arange(start, min(samples, start + BATCH)), length_s / samples, gaps))
    manifest = cell.manifest()
    load = manifest.load.model_copy(
        update={
            "users_reached": 1000, "started_s": WALL_S, "warm_up_s": 0.0, "run_time_s": length_s,
            "judged_until_s": WALL_S + length_s, "complete": True, "samples_written": samples,
        }
    )  # fmt: skip
    worker = WorkerFacts(
        worker=0, host="here", pid=1, anchor_wall_s=WALL_S, anchor_monotonic_s=MONOTONIC_S, samples_sent=samples
    )
    writer.seal(manifest.model_copy(update={"load": load, "workers": (worker,)}))


def _batch(rng: np.random.Generator, index: np.ndarray, every_s: float, gaps: int) -> pa.RecordBatch:
    rows = len(index)
    sent = MONOTONIC_S + index * every_s
    e2e = rng.lognormal(np.log(0.2), 0.2, rows)
    known = {
        "user": index % 1000, "sequence": index // 1000, "scheduled_s": sent, "sent_s": sent,
        "first_byte_s": sent + 0.1 * e2e, "first_token_s": sent + 0.1 * e2e, "last_token_s": sent + e2e,
        "end_s": sent + e2e, "output_tokens": np.full(rows, gaps + 1), "chunks": np.full(rows, gaps + 1),
        "requested_tokens": np.full(rows, gaps + 1), "http_status": np.full(rows, 200),
    }  # fmt: skip
    texts = {"run": "r", "scenario": "translation", "outcome": "ok", "token_source": "chunks", "finish_reason": "stop"}
    columns = []
    for field in SCHEMA:
        if field.name == "gaps_us":
            pooled = rng.integers(5_000, 12_000, rows * gaps, dtype=np.uint32)
            columns.append(pa.ListArray.from_arrays(np.arange(0, rows * gaps + 1, gaps, dtype=np.int32), pooled))
        elif field.name == "prompt_id":
            columns.append(pa.array([f"sentence-{number % 360:03d}" for number in index]))
        elif field.name in known:
            columns.append(pa.array(known[field.name]).cast(field.type))
        else:
            value = texts.get(field.name, "") if field.type == pa.string() else 0
            columns.append(pa.repeat(pa.scalar(value, field.type), rows))
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def measure(code: str, directory: Path) -> tuple[float, float]:
    """CPU seconds and peak resident megabytes of a Python process that runs ``code``."""
    process = subprocess.Popen([sys.executable, "-c", code, str(directory)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"ended with {process.returncode}: {code}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3


if __name__ == "__main__":
    main()
