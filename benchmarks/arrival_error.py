"""How exactly an open loop keeps its schedule, beside loops that do nothing but wait for the same moments.

For each rate: a bare loop of ``time.sleep`` and one of ``gevent.sleep``, both to absolute deadlines, then a whole
``harness run --arrivals constant`` (Locust, recording and shipping on) against the emulator,
and the error of its samples, sent minus scheduled, after the warm-up.
The goal: 2 ms at p99 at 500 arrivals/s on a quiet machine.

    python -m benchmarks.arrival_error [--rates 100 500 1000] [--seconds 10] [--rounds 1]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

TOKENS = 4
TTFT_S, GAP_S = 0.05, 0.01


def waits(sleep: Callable[[float], object], rate: float, seconds: float) -> FloatArray:
    """Wait for each moment of a constant schedule; return how late each wait ended."""
    due_s = time.monotonic() + np.arange(1, int(rate * seconds) + 1) / rate
    late_s = np.empty(len(due_s))
    for index, moment_s in enumerate(due_s.tolist()):
        left_s = moment_s - time.monotonic()
        if left_s > 0:
            sleep(left_s)
        late_s[index] = time.monotonic() - moment_s
    return late_s


def bare(kind: str, rate: float, seconds: float) -> None:
    if kind == "gevent":
        import gevent

        late_s = waits(gevent.sleep, rate, seconds)
    else:
        late_s = waits(time.sleep, rate, seconds)
    np.save(sys.stdout.buffer, late_s)


def floor(kind: str, rate: float, seconds: float) -> FloatArray:
    command = [sys.executable, "-m", "benchmarks.arrival_error", "--role", kind]
    command += ["--rates", f"{rate:g}", "--seconds", f"{seconds:g}"]
    with tempfile.TemporaryFile() as file:
        subprocess.run(command, check=True, stdout=file)
        file.seek(0)
        found: FloatArray = np.load(file)
    return found


def ours(url: str, rate: float, seconds: float, run_dir: Path) -> FloatArray:
    """The errors of one run, after its warm-up."""
    import pyarrow.parquet as pq

    command = [sys.executable, "-m", "harness.cli", "run", "translation", "--attach", url, "--arrivals", "constant"]
    command += ["--rate", f"{rate:g}", "--run-time", f"{seconds:g}", "--run-dir", str(run_dir)]
    command += ["--output-tokens", str(TOKENS)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if not (run_dir / "samples.parquet").exists():
        sys.exit(done.stdout + done.stderr)
    table = pq.read_table(run_dir / "samples.parquet", columns=["scheduled_s", "sent_s"])
    facts = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))["load"]
    if not facts["arrivals_scheduled"] == facts["arrivals_due"] == table.num_rows:
        print(f"  {facts['arrivals_scheduled']} scheduled, {table.num_rows} recorded ({facts['ended_by']})")
    scheduled_s, sent_s = table["scheduled_s"].to_numpy(), table["sent_s"].to_numpy()
    warm = scheduled_s >= scheduled_s.min() + facts["warm_up_s"]
    return np.asarray(sent_s - scheduled_s, dtype=np.float64)[warm]


def show(name: str, late_s: FloatArray, beside_s: FloatArray | None = None) -> None:
    ms = 1e3 * np.percentile(late_s, [50, 99, 100], method="inverted_cdf")
    ratio = (
        "" if beside_s is None else f", p99 {np.percentile(late_s, 99) / np.percentile(beside_s, 99):.1f} x the floor's"
    )
    print(f"  {name:>12}: p50 {ms[0]:6.3f} ms, p99 {ms[1]:6.3f} ms, max {ms[2]:7.3f} ms{ratio}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[100.0, 500.0, 1000.0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--role", choices=["gevent", "time"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        bare(options.role, options.rates[0], options.seconds)
        return
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    fixed = f"ttft_s={TTFT_S},itl_s={GAP_S},tokens={TOKENS}"
    command = [sys.executable, "-m", "servers.emulator", "--fixed", fixed]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
    ):
        assert server.stdout is not None
        url = f"http://127.0.0.1:{json.loads(server.stdout.readline())['port']}"
        try:
            for rate in options.rates:
                for number in range(options.rounds):
                    print(f"{rate:g} arrivals/s")
                    sleep_s, gevent_s = (floor(kind, rate, options.seconds) for kind in ("time", "gevent"))
                    show("time.sleep", sleep_s)
                    show("gevent.sleep", gevent_s)
                    show("open loop", ours(url, rate, options.seconds, Path(folder) / f"{rate:g}-{number}"), gevent_s)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
