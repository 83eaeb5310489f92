"""How often verdicts are wrong, over runs whose true violation rate is known: the tables of docs/statistics.md.

    python -m benchmarks.simulate [--runs 2000] [--only mm8-80 ...] [--allowed 0.05]

Each row is one model and length of run: the share of runs that PASS and that FAIL when exactly the allowed share truly
violates (both are wrong), that PASS when a fifth of it does, FAIL when twice as many do, and that were too short for
their correlation time when the truth is at the limit. "Plain" is the bound that takes requests as independent.
"""

from __future__ import annotations

import argparse

from benchmarks.queues import MODELS, Runs, limit_at
from harness.effective import effective
from harness.metrics import Window
from harness.statistics import p_value_fail, p_value_pass

ALPHA = 0.05
LENGTHS: dict[str, tuple[int, ...]] = {
    "independent": (100, 500),
    "closed": (150, 540, 3000),
    "closed-wandering": (150, 540, 1500, 6000),
    "engine": (300, 540),
    "mm1-50": (500, 2000),
    "mm8-50": (250, 1000, 8000),
    "mm8-80": (250, 1000, 2000, 8000),
    "mg8-80": (250, 2000, 8000, 32000),
    "mm8-90": (500, 2000, 8000, 32000),
}
"""Requests of a run; the shorter runs of a model are the beginnings of the longest."""
HIGHEST = 0.06


def shares_of(runs: Runs, limit: float, allowed: float) -> tuple[float, float, float, float, float]:
    """PASS, FAIL, too short, plain PASS, plain FAIL."""
    passed = failed = short = plain_pass = plain_fail = 0
    for issued_s, values in runs:
        violates = values > limit
        window = Window(float(issued_s[0]), float(issued_s[-1]))
        found = effective(issued_s, violates, values, limit, allowed, window)
        count = int(violates.sum())
        passed += not found.needed_s and p_value_pass(found.share * count, found.samples, allowed) <= ALPHA
        failed += p_value_fail(found.share * count, found.samples, allowed) < ALPHA
        short += found.needed_s > 0
        plain_pass += p_value_pass(count, len(values), allowed) <= ALPHA
        plain_fail += p_value_fail(count, len(values), allowed) < ALPHA
    everything = len(runs)
    return (
        passed / everything, failed / everything, short / everything, plain_pass / everything, plain_fail / everything
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--only", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--longest", type=int, default=10**9, help="leave out runs of more requests")
    parser.add_argument("--allowed", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    facts = parser.parse_args()
    heads = ("model", "requests", "wrong PASS", "wrong FAIL", "too short", "plain: wrong PASS, FAIL")
    print(f"| {' | '.join((*heads, 'PASS at a fifth', 'FAIL at twice'))} |")
    print("|---|---|---|---|---|---|---|---|")
    worst = 0.0
    for name in facts.only:
        lengths = [each for each in LENGTHS[name] if each <= facts.longest]
        if not lengths:
            continue
        runs = MODELS[name](facts.runs, lengths[-1], seed=facts.seed)
        limits = [limit_at(runs, share * facts.allowed) for share in (1.0, 0.2, 2.0)]
        for length in lengths:
            part = [(issued_s[:length], values[:length]) for issued_s, values in runs]
            at = shares_of(part, limits[0], facts.allowed)
            good, bad = shares_of(part, limits[1], facts.allowed)[0], shares_of(part, limits[2], facts.allowed)[1]
            worst = max(worst, *at[:2])
            cells = [name, f"{length:,}", f"{at[0]:.1%}", f"{at[1]:.1%}", f"{at[2]:.0%}", f"{at[3]:.0%}, {at[4]:.0%}"]
            print(f"| {' | '.join(cells)} | {good:.0%} | {bad:.0%} |", flush=True)
    print(f"\nwrong at most {worst:.1%} of runs; {HIGHEST:.0%} is allowed")
    raise SystemExit(0 if worst <= HIGHEST else 1)


if __name__ == "__main__":
    main()
