"""What an event costs our client, beside a loop that does nothing but receive it.

A null server streams 32 tokens to each connection after a TTFT of 100 ms, 20 ms apart, or farther where the
connections together would make more than 50,000 events/s. ``--mode tls`` puts TLS between, ``--mode whole`` asks for
whole answers and counts them. Client CPU (user and system) over the events received, parsing and all; the ratio of the
two is what the project promises: at most 2.5. Server on one core, client on the other.

    python -m benchmarks.client_floor [--mode stream|tls|whole] [--connections 1,100,1000,5000] [--seconds 5]

Prints a Markdown table of medians, with the least and the most of the rounds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any

from benchmarks.bare import Spent, bare
from benchmarks.null import PEM, Timing, null, two_cores

TTFT_S, GAP_S, TOKENS = 0.100, 0.020, 32
MOST_EVENTS_PER_S = 50_000.0
MOST_ANSWERS_PER_S = 4_000.0
EVENTS = TOKENS + 1
"""Of one streamed answer: the head with the role, then a read a token; the end comes with the last."""
MODES = ("stream", "tls", "whole")


def timing_for(mode: str, connections: int) -> Timing:
    if mode == "whole":
        return Timing(max(TTFT_S, connections / MOST_ANSWERS_PER_S), 0.0, TOKENS)
    return Timing(TTFT_S, max(GAP_S, connections / MOST_EVENTS_PER_S), TOKENS)


def ours(port: int, connections: int, seconds: float, timing: Timing, mode: str) -> dict[str, float]:
    """One greenlet and one client per connection, as users under Locust are."""
    import gevent

    from harness.clients import CLIENTS, Target
    from harness.records import Message, Outcome, Prompt

    tls, whole = mode == "tls", mode == "whole"
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    target = Target(url=url, model="null", ca_file=str(PEM) if tls else None, stream=not whole)
    clients: list[Any] = [CLIENTS[target.protocol](target) for _ in range(connections)]
    prompt = Prompt("0", (Message("user", "translate"),), TOKENS)
    events = 0
    late_s: list[float] = []
    measuring = False

    def use(number: int) -> None:
        nonlocal events
        gevent.sleep(number / connections * timing.e2e_s)
        while True:
            reply = clients[number].send(prompt, f"bench/0/{number}/0")
            if reply.outcome is not Outcome.OK or reply.output_tokens != TOKENS:
                sys.exit(f"{reply.outcome}: {reply.error}, {reply.output_tokens} tokens")
            if measuring:
                events += 1 if whole else EVENTS
                late_s.append(reply.end_s - reply.sent_s - timing.e2e_s)

    began_s = time.process_time()
    for client in clients:
        client.open()
    opened_cpu_s = time.process_time() - began_s
    users = [gevent.spawn(use, number) for number in range(connections)]
    gevent.sleep(2 * timing.e2e_s)
    # What is half there now has cost CPU before, what is half there at the end costs it within: alike, on average.
    measuring, began_s = True, time.process_time()
    gevent.sleep(seconds)
    cpu_s = time.process_time() - began_s
    gevent.killall(users)
    late_s.sort()
    return {**asdict(Spent(events, cpu_s, opened_cpu_s)), "late_p50_s": late_s[len(late_s) // 2],
            "late_p99_s": late_s[math.ceil(0.99 * len(late_s)) - 1]}  # fmt: skip


def play(role: str, options: argparse.Namespace, connections: int) -> dict[str, float]:
    """Measure one client in a process of its own."""
    cores = two_cores()
    with null(timing_for(options.mode, connections), cores[0], tls=options.mode == "tls") as port:
        command = ["taskset", "-c", str(cores[1]), sys.executable, "-m", "benchmarks.client_floor", "--role", role]
        command += ["--port", str(port), "--connections", str(connections), "--seconds", str(options.seconds)]
        command += ["--mode", options.mode]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def row(options: argparse.Namespace, connections: int) -> str:
    runs = [(play("bare", options, connections), play("ours", options, connections)) for _ in range(options.rounds)]
    us = [[1e6 * run["cpu_s"] / run["events"] for run in pair] for pair in runs]
    mine = [own for _, own in runs]
    cells = (
        f"{connections:,}",
        _spread([run["events"] / options.seconds for run in mine], ",.0f"),
        _spread([run["cpu_s"] / options.seconds for run in mine], ".0%"),
        _spread([own for _, own in us], ".1f"),
        _spread([floor for floor, _ in us], ".1f"),
        _spread([own / floor for floor, own in us], ".2f"),
        _spread([1e3 * run["late_p50_s"] for run in mine], ".2f"),
        _spread([1e3 * run["late_p99_s"] for run in mine], ".2f"),
        _spread([1e3 * run["opened_cpu_s"] / connections for run in mine], ".2f"),
    )
    return f"| {' | '.join(cells)} |"


def _spread(values: list[float], style: str) -> str:
    middle = format(statistics.median(values), style)
    return middle if len(values) == 1 else f"{middle} ({min(values):{style}} to {max(values):{style}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=MODES, default="stream")
    parser.add_argument("--connections", default="1,100,1000,5000")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--role", choices=("bare", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    counts = [int(count) for count in options.connections.split(",")]
    if options.role:
        timing = timing_for(options.mode, counts[0])
        if options.role == "ours":
            print(json.dumps(ours(options.port, counts[0], options.seconds, timing, options.mode)))
            return
        modes = {"tls": options.mode == "tls", "whole": options.mode == "whole"}
        print(json.dumps(asdict(bare(options.port, counts[0], options.seconds, timing.e2e_s, **modes))))
        return
    unit = "answer" if options.mode == "whole" else "event"
    print(f"{options.mode}; {time.strftime('%Y-%m-%d %H:%M')}; load average {os.getloadavg()[0]:.2f}")
    print(f"| connections | {unit}s/s | core | us/{unit} | bare | ratio | E2E late p50, ms | p99 | ms to open |")
    print("|" + " --- |" * 9)
    for count in counts:
        print(row(options, count), flush=True)


if __name__ == "__main__":
    main()
