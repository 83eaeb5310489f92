"""How true the harness's own figures are: the whole harness against a server of known timing, beside a bare reader.

At each number of users the harness runs as a user would run it (Locust, users, recording, shipping, sealing,
judging) against the null server: TTFT 100 ms, 32 tokens 20 ms apart, no think time, so that E2E is 720 ms and the
ideal rate users / 0.72 s. What it reports stands beside the null server's log of what happened, and what its load
process costs beside a loop of ``recv`` on the same stream, right after. Server on one core, client on the other.

    python -m benchmarks.fidelity [--users 1,100,500,1000,1500,2000] [--seconds 10] [--rounds 1]

Prints a Markdown table. Ratios and errors compare within one row only: these machines change their speed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.client_floor import play
from benchmarks.null import Timing, null, two_cores
from harness.certify import Seen, join
from harness.records import request_id
from harness.runlog import RunReader
from servers import null_server

TIMING = Timing(ttft_s=0.100, gap_s=0.020, tokens=32)
EVENTS = TIMING.tokens + 1
"""Of one answer: the head with the role, then a read a token; the end comes with the last."""
REQUEST_US = 150.0
"""What a request may cost besides its events."""


@dataclass(frozen=True)
class Row:
    users: int
    rate_rps: float
    ttft_ms: tuple[float, float]
    true_ttft_ms: tuple[float, float]
    e2e_ms: tuple[float, float]
    true_e2e_ms: tuple[float, float]
    error_ms: tuple[float, float, float, float]
    """TTFT p50 and p99, E2E p50 and p99, request by request."""
    cpu_share: float
    cpu_us_per_event: float
    cpu_us_per_request: float
    bare_us_per_event: float
    certified_p99_ms: float
    verdict: str

    @property
    def ratio(self) -> float:
        """CPU per event over the bare reader's, after what a request is allowed."""
        return (self.cpu_us_per_event - REQUEST_US / EVENTS) / self.bare_us_per_event


def measure(users: int, seconds: float, cores: tuple[int, int]) -> Row:
    with tempfile.TemporaryDirectory(prefix="fidelity-") as folder:
        run_dir, log = Path(folder) / "run", Path(folder) / "truth"
        with null(TIMING, cores[0], log) as port:
            verdict = _run(port, users, seconds, run_dir, cores[1])
        return _row(users, RunReader(run_dir), log, bare_us(users, min(seconds, 4.0)), verdict)


def load_command(port: int, users: int, seconds: float, run_dir: Path, core: int) -> list[str]:
    """The harness as a user runs it: Locust, without think time, on ``core``."""
    prompts = run_dir.parent / "prompts.jsonl"  # short ones, as in a translation, without a conversation's growth
    prompts.write_text('{"prompt": "Translate into French: where is the station?"}\n', encoding="utf-8")
    command = ["taskset", "-c", str(core), sys.executable, "-m", "locust", "-f", "locustfiles/chatbot.py"]
    command += ["--headless", "--only-summary", "--loglevel", "ERROR", "--host", f"http://127.0.0.1:{port}"]
    command += ["--users", str(users), "--spawn-rate", str(max(1.0, users / 2)), "--think-time", "0"]
    command += ["--dataset", str(prompts), "--output-tokens", str(TIMING.tokens)]
    return [*command, "--run-time", f"{seconds:.0f}s", "--run-dir", str(run_dir)]


def _run(port: int, users: int, seconds: float, run_dir: Path, core: int) -> str:
    command = load_command(port, users, seconds, run_dir, core)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if not (run_dir / "judgement.json").exists():
        sys.exit(f"the run left no judgement (exit code {done.returncode}):\n{done.stdout}\n{done.stderr}")
    judgement = json.loads((run_dir / "judgement.json").read_text(encoding="utf-8"))
    return str(judgement["sentence"]) if judgement["verdict"] == "INVALID" else str(judgement["verdict"])


def bare_us(users: int, seconds: float) -> float:
    """CPU microseconds per event of a loop that only receives."""
    options = argparse.Namespace(mode="stream", seconds=seconds)
    spent = play("bare", options, users)
    return 1e6 * spent["cpu_s"] / spent["events"]


def _row(users: int, reader: RunReader, log: Path, bare_us: float, verdict: str) -> Row:
    manifest, table = reader.manifest, reader.samples()
    (worker,), load = manifest.workers, manifest.load
    assert load.started_s is not None
    assert load.stopped_issuing_s is not None
    # health, and so the CPU, is measured from the end of the warm-up until nothing more is issued
    since_s = worker.monotonic_s(load.started_s + load.warm_up_s)
    until_s = worker.monotonic_s(load.stopped_issuing_s)
    columns = {name: table[name].to_numpy() for name in ("sent_s", "first_token_s", "last_token_s", "end_s", "chunks")}
    inside = (columns["end_s"] >= since_s) & (columns["end_s"] <= until_s)
    seconds = until_s - since_s
    names = zip(*(table[name].to_pylist() for name in ("run", "worker", "user", "sequence")), strict=True)
    ids = np.array([request_id(*name) for name in names])[inside]
    ok = np.array(table["outcome"].to_pylist())[inside] == "ok"
    sent, first, last, end, chunks = (column[inside] for column in columns.values())
    truth = null_server.read_truth(log)
    received, true_first, true_last = (np.frombuffer(column) for column in truth[1:])
    errors = join(Seen(list(ids), ok, sent, first, last, end, chunks), truth.ids, received, true_first, true_last)
    places = {name: place for place, name in enumerate(truth.ids)}
    mine = np.array([places[name] for name in ids])
    events = chunks.sum() * EVENTS / TIMING.tokens / seconds
    cpu = worker.cpu_share or 0.0
    certificate = json.loads((reader.directory / "certificate.json").read_text(encoding="utf-8"))
    certified = certificate["e2e"]["p99_s"] if certificate.get("e2e") else float("nan")
    return Row(
        users=users,
        rate_rps=len(end) / seconds,
        ttft_ms=_ms(first - sent),
        true_ttft_ms=_ms(true_first[mine] - received[mine]),
        e2e_ms=_ms(end - sent),
        true_e2e_ms=_ms(true_last[mine] - received[mine]),
        error_ms=(*_ms(np.abs(errors.ttft_s)), *_ms(np.abs(errors.e2e_s))),
        cpu_share=cpu,
        cpu_us_per_event=1e6 * cpu / events,
        cpu_us_per_request=1e6 * cpu / (len(end) / seconds),
        bare_us_per_event=bare_us,
        certified_p99_ms=1e3 * certified,
        verdict=verdict,
    )


def _ms(values: np.ndarray) -> tuple[float, float]:
    p50, p99 = np.percentile(values, [50, 99], method="inverted_cdf")
    return 1e3 * float(p50), 1e3 * float(p99)


HEADER = (
    "| users | req/s (ideal) | TTFT p50 / p99, ms | true | E2E p50 / p99, ms | true | own error TTFT p50 / p99, ms"
    " | own error E2E p50 / p99, ms | core | us/event | bare | (us/event - 150 us/request) / bare | us/request"
    " | certified E2E p99, ms | verdict |"
)


def as_markdown(row: Row) -> str:
    def pair(values: tuple[float, ...]) -> str:
        return " / ".join(f"{value:.1f}" if value >= 10 else f"{value:.2f}" for value in values)

    cells = (
        f"{row.users:,}",
        f"{row.rate_rps:,.0f} ({row.users / TIMING.e2e_s:,.0f})",
        *(pair(values) for values in (row.ttft_ms, row.true_ttft_ms, row.e2e_ms, row.true_e2e_ms)),
        pair(row.error_ms[:2]),
        pair(row.error_ms[2:]),
        f"{row.cpu_share:.0%}",
        f"{row.cpu_us_per_event:.1f}",
        f"{row.bare_us_per_event:.1f}",
        f"{row.ratio:.2f}",
        f"{row.cpu_us_per_request:.0f}",
        f"{row.certified_p99_ms:.2f}",
        row.verdict,
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", default="1,100,500,1000,1500,2000")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    pair = two_cores()
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, {len(set(pair))} cores, load average {os.getloadavg()[0]:.2f}")
    print(HEADER)
    print("|" + " --- |" * HEADER.count(" | ") + " --- |")
    for _ in range(options.rounds):
        for users in map(int, options.users.split(",")):
            print(as_markdown(measure(users, options.seconds, pair)), flush=True)


if __name__ == "__main__":
    main()
