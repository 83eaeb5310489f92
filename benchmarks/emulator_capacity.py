"""How punctual the emulator is at 1,000 streams of 20 tokens/s each, on one core.

    python benchmarks/emulator_capacity.py [--streams 1000] [--rate 20] [--seconds 10] [--mode fixed|engine]

The server gets one core and a small epoll reader another; keep the machine quiet meanwhile, or take precedence over
what else runs with --realtime (needs root). Lateness is the truth
log's sent minus planned, per token, over all streams after their first second. The reader only counts events, so
that it stays out of the way; what it misses would show as ``received``.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
SERVER_CORE, CLIENT_CORE = 0, 1
SETTLE_S = 1.0
BATCH = 256
LIMIT_MS = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=20.0, help="tokens/s of each stream")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mode", choices=("fixed", "engine"), default="fixed")
    parser.add_argument("--realtime", action="store_true", help="run the server and the reader with SCHED_FIFO")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[CLIENT_CORE % len(cores)]})
    worst = []
    for _ in range(options.repeats):
        result = measure(options, {cores[SERVER_CORE]})
        worst.append(result["late_p99_ms"])
        print("  ".join(f"{name} {value:,.2f}" for name, value in result.items()), flush=True)
    ratio = statistics.median(worst) / LIMIT_MS
    print(f"p99 lateness, median of {options.repeats}: {ratio:.2f} of the {LIMIT_MS:g} ms that are allowed")


def measure(options: argparse.Namespace, cores: set[int]) -> dict[str, float]:
    tokens = round(options.rate * options.seconds)
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory, "truth.jsonl")
        command = [sys.executable, "-m", "servers.emulator", "--truth-log", str(log), *what(options, directory)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
            os.sched_setaffinity(server.pid, cores)
            if options.realtime:
                os.sched_setscheduler(server.pid, os.SCHED_FIFO, os.sched_param(1))
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            try:
                assert server.stdout is not None
                ready = json.loads(server.stdout.readline())
                process = psutil.Process(server.pid)
                client = read_all(ready["port"], ready["model"], options, tokens, process)
            finally:
                server.terminate()
                server.wait()
        late_ms, gap_error_ms = lateness(log)
    return {
        "streams": options.streams,
        "sent/s": len(late_ms) / (options.seconds - SETTLE_S),
        "received": client["events"] / (options.streams * tokens),
        "late_p50_ms": at(late_ms, 0.5),
        "late_p99_ms": at(late_ms, 0.99),
        "late_p99.9_ms": at(late_ms, 0.999),
        "late_max_ms": late_ms[-1],
        "gap_error_p99_ms": at(gap_error_ms, 0.99),
        "server_cpu": client["server_cpu"],
        "client_cpu": client["client_cpu"],
    }


def what(options: argparse.Namespace, directory: str) -> list[str]:
    """Command-line arguments of the server in each mode."""
    if options.mode == "fixed":
        return ["--fixed", f"ttft_s=0.2,itl_s={1 / options.rate}"]
    source = {"text": "made up so that a step takes 1/rate seconds"}
    gpu = {"name": "made-up", "title": "made up", "memory_gib": 200, "bandwidth_gbps": 14 * options.rate}
    gpu |= {"fp16_tflops": 1000, "watts": 1, "source": source}
    model: dict[str, Any] = {
        "name": "7b",
        "parameters": 7e9,
        "layers": 32,
        "hidden": 4096,
        "kv_heads": 1,
        "head_dim": 8,
    }
    stack = {
        "kind": "stack",
        "name": "made-up",
        "title": "made up",
        "engine": "vllm",
        "model": model | {"weight_bytes": 2},
        "hardware": {"gpu": "made-up"},
        "replicas": -(-options.streams // BATCH),
        "price": {"kind": "none", "reason": "made up"},
        "emulation": {"efficiency": {"bandwidth": 1, "overhead_s": 0}, "max_batch": BATCH},
    }
    path = Path(directory, "cell.json")
    path.write_text(json.dumps({"stack": stack, "gpu": gpu}))
    return ["--stack-json", str(path), "--calibration", "roofline"]


def read_all(
    port: int, model: str, options: argparse.Namespace, tokens: int, server: psutil.Process
) -> dict[str, float]:
    """Start the streams over one token's gap, and read until each has ended."""
    body = {"model": model, "messages": [{"role": "user", "content": "go"}], "stream": True}
    data = json.dumps(body | {"max_tokens": tokens, "ignore_eos": True}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)
    streams = [socket.create_connection(("127.0.0.1", port)) for _ in range(options.streams)]
    poll = select.epoll()
    by_number = {}
    for stream in streams:
        stream.setblocking(False)
        poll.register(stream.fileno(), select.EPOLLIN)
        by_number[stream.fileno()] = stream
    began = time.monotonic()
    for index, stream in enumerate(streams):
        time.sleep(max(0.0, began + index / options.streams / options.rate - time.monotonic()))
        stream.sendall(request)
    server_before, client_before = server.cpu_times(), time.process_time()
    events = 0
    while by_number:
        for number, _ in poll.poll(5.0):
            received = by_number[number].recv(65536)
            events += received.count(b'"content":"') - received.count(b'"role"')
            if not received or received.endswith(b"0\r\n\r\n"):
                poll.unregister(number)
                by_number.pop(number).close()
    elapsed = time.monotonic() - began
    after = server.cpu_times()
    server_s = after.user + after.system - server_before.user - server_before.system
    client_s = time.process_time() - client_before
    return {"events": events, "server_cpu": server_s / elapsed, "client_cpu": client_s / elapsed}


def lateness(log: Path) -> tuple[list[float], list[float]]:
    """Sorted lateness and error of gaps, milliseconds, after each stream settled."""
    late, gaps = [], []
    for line in log.read_bytes().splitlines()[1:]:
        record = json.loads(line)
        pairs = [
            (planned, sent)
            for planned, sent in zip(record["planned_us"], record["sent_us"], strict=True)
            if planned > SETTLE_S * 1e6
        ]
        late += [(sent - planned) / 1000 for planned, sent in pairs]
        gaps += [abs((b[1] - a[1]) - (b[0] - a[0])) / 1000 for a, b in pairwise(pairs)]
    return sorted(late), sorted(gaps)


def at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


if __name__ == "__main__":
    main()
