"""How often verdicts are wrong, over runs whose true violation rate is known: the tables of docs/statistics.md.

    python -m benchmarks.simulate [--runs 2000] [--only mm8-80 ...] [--allowed 0.05]

Each row is one model and length of run: the share of runs that PASS and that FAIL when exactly the allowed share truly
violates (both are wrong), that were too short for their correlation time, that PASS when a fifth of it or two fifths
violate, and FAIL when twice as many do. "Plain" is the bound that takes requests as independent.
"""

from __future__ import annotations

import argparse

from benchmarks.queues import MODELS, Runs, limits_at
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
POWER = {0.2: "PASS", 0.4: "PASS", 2.0: "FAIL"}
"""Truths, as shares of what is allowed, and the right verdict on them."""
HEADS = ("model", "requests", "runs", "wrong PASS", "wrong FAIL", "too short", "plain: wrong PASS, FAIL")


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
    power = [f"{word} at {100 * share * facts.allowed:.3g}%" for share, word in POWER.items()]
    print(f"| {' | '.join((*HEADS, *power))} |")
    print("|---" * (len(HEADS) + len(power)) + "|", flush=True)
    worst = 0.0
    for name in facts.only:
        lengths = [each for each in LENGTHS[name] if each <= facts.longest]
        if not lengths:
            continue
        runs = MODELS[name](facts.runs, lengths[-1], seed=facts.seed)
        limit, *others = limits_at(runs, [share * facts.allowed for share in (1.0, *POWER)])
        for length in lengths:
            part = [(issued_s[:length], values[:length]) for issued_s, values in runs]
            at = shares_of(part, limit, facts.allowed)
            found = [
                shares_of(part, other, facts.allowed)[word == "FAIL"]
                for other, word in zip(others, POWER.values(), strict=True)
            ]
            worst = max(worst, *at[:2])
            cells = [name, f"{length:,}", f"{facts.runs:,}", f"{at[0]:.1%}", f"{at[1]:.1%}", f"{at[2]:.0%}"]
            cells += [f"{at[3]:.0%}, {at[4]:.0%}", *(f"{each:.0%}" for each in found)]
            print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\nwrong at most {worst:.1%} of runs; {HIGHEST:.0%} is allowed")
    raise SystemExit(0 if worst <= HIGHEST else 1)


if __name__ == "__main__":
    main()
