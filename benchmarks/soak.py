"""Does the load process grow with the length of a run? Its memory against the requests it has made.

The harness as a user runs it, 1,000 users against the null server, some 1,400 requests/s. Resident memory is read
once a second, from 100,000 requests on to the end of the load, and a robust line (Theil and Sen's: the median of the
slopes of all pairs) is laid through it. Flat means that the upper end of the slope's 95%
interval makes less than 20 MB over 2 million requests.

    python -m benchmarks.soak [--users 1000] [--seconds 240]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from scipy import stats

from benchmarks.fidelity import TIMING, load_command
from benchmarks.null import null, two_cores

REQUESTS = 2_000_000
FLAT_MB = 20.0
SETTLED = 100_000
"""Requests after which the process has everything that it allocates once."""
SHOWN = 12


def watch(users: int, seconds: float) -> tuple[list[float], list[float]]:
    """Requests completed and resident megabytes, once a second while load runs."""
    requests: list[float] = []
    rss_mb: list[float] = []
    server_core, client_core = two_cores()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, null(TIMING, server_core) as port:
        progress = Path(folder) / "progress.jsonl"
        progress.touch()
        command = load_command(port, users, seconds, Path(folder) / "run", client_core)
        with subprocess.Popen([*command, "--progress-file", str(progress)], stdout=subprocess.DEVNULL) as load:
            while load.poll() is None:
                event = _last(progress)
                if event.get("phase") == "load" and event["completed"] > SETTLED:
                    requests.append(event["completed"])
                    rss_mb.append(psutil.Process(event["pid"]).memory_info().rss / 1e6)
                time.sleep(1.0)
    return requests, rss_mb


def _last(progress: Path) -> dict[str, object]:
    lines = progress.read_bytes().split(b"\n")[:-1]
    return json.loads(lines[-1]) if lines else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=240.0)
    options = parser.parse_args()
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, load average {os.getloadavg()[0]:.2f}")
    requests, rss_mb = watch(options.users, options.seconds)
    if len(requests) < 10:
        sys.exit("too short: fewer than 10 readings of the load")
    print("| requests | resident, MB |\n| --- | --- |")
    for place in np.linspace(0, len(requests) - 1, SHOWN).astype(int):
        print(f"| {requests[place]:,.0f} | {rss_mb[place]:,.1f} |")
    slope, _, low, high = stats.theilslopes(rss_mb, requests, 0.95)
    growth, least, most = (REQUESTS * each for each in (slope, low, high))
    print(f"slope: {growth:.1f} MB ({least:.1f} to {most:.1f}) over {REQUESTS:,} requests: "
          f"{'flat' if most < FLAT_MB else 'NOT FLAT'}")  # fmt: skip


if __name__ == "__main__":
    main()
