"""How often verdicts on rates, means and gaps are wrong, over runs whose truth is known: tables of docs/statistics.md.

    python -m benchmarks.simulate_rates [--runs 2000] [--only mm8-80 ...] [--checks goodput ...]

The truth is exactly at the limit, so that every verdict is wrong: of a rate, what all runs together have; of a mean,
that of all requests; of ITL, the p95 of all gaps. For goodput those answers are on time that are faster than the
median of all, so that it falls where the server is slow and throughput does not. The last two columns are the power:
PASS with 10% of room, FAIL when it is 10% out. Judged is as a run is, by :mod:`harness.evidence`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from benchmarks.queues import MODELS, Runs
from benchmarks.simulate import HIGHEST, LENGTHS
from harness.evidence import Evidence, Terms, mean_evidence, percentile_evidence, rate_evidence
from harness.metrics import BoolArray, FloatArray, Judged, Requests, Window
from harness.objective import Objective

ALPHA = 0.05
ROOM = 0.1
GAPS = 10
"""Of an answer; each is a tenth of its time, with a spread of its own."""
GAP_SPREAD = 0.3
SETTLED = 0.999
"""Of all answers take less than is waited before a run's window opens: what came before is then over."""
TERMS = Terms()


@dataclass(frozen=True, slots=True)
class Case:
    """One run, as a check sees it; ``fast`` are the answers that count for goodput."""

    judged: Judged
    fast: BoolArray


@dataclass(frozen=True, slots=True)
class Check:
    objective: Objective
    evidence: Callable[[Objective, Case], Evidence]
    truth: Callable[[Sequence[Case]], float]


def _rate(counted: Callable[[Case], BoolArray]) -> Callable[[Sequence[Case]], float]:
    def truth(cases: Sequence[Case]) -> float:
        ended = sum(int(case.judged.ended_in_window(counted(case)).sum()) for case in cases)
        return ended / sum(case.judged.window.length_s for case in cases if case.judged.window is not None)

    return truth


def _all(case: Case) -> BoolArray:
    return case.judged.requests.ok


def _fast(case: Case) -> BoolArray:
    return case.fast


def _mean(cases: Sequence[Case]) -> float:
    return float(np.mean(np.concatenate([case.judged.observe("e2e").finite_s() for case in cases])))


def _gap(cases: Sequence[Case]) -> float:
    return float(np.quantile(np.concatenate([case.judged.observe("itl").finite_s() for case in cases]), 0.95))


CHECKS = {
    "throughput": Check(
        Objective.parse("throughput > 1 req/s"),
        lambda objective, case: rate_evidence(objective, case.judged, _all(case), TERMS),
        _rate(_all),
    ),
    "goodput": Check(
        Objective.parse("goodput > 1 req/s"),
        lambda objective, case: rate_evidence(objective, case.judged, _fast(case), TERMS),
        _rate(_fast),
    ),
    "mean(e2e)": Check(
        Objective.parse("mean(e2e) < 1 s"),
        lambda objective, case: mean_evidence(objective, case.judged, TERMS),
        _mean,
    ),
    "p95(itl)": Check(
        Objective.parse("p95(itl) < 1 s"),
        lambda objective, case: percentile_evidence(objective, case.judged, TERMS, 1),
        _gap,
    ),
}


def cases_of(runs: Runs, *, gaps: bool, seed: int) -> list[Case]:
    """Windows of one length, which open when what was there before is over and close before the last request."""
    everything = np.concatenate([values for _, values in runs])
    settled_s, median_s = (float(each) for each in np.quantile(everything, [SETTLED, 0.5]))
    length_s = min(float(issued_s[-1] - issued_s[0]) for issued_s, _ in runs) - settled_s
    if length_s <= 0:
        return []
    rng = np.random.default_rng(seed)
    return [_case(issued_s, values, settled_s, length_s, median_s, rng if gaps else None) for issued_s, values in runs]


def _case(
    issued_s: FloatArray,
    values: FloatArray,
    settled_s: float,
    length_s: float,
    median_s: float,
    rng: np.random.Generator | None,
) -> Case:
    count = len(values)
    each = GAPS if rng is not None else 0
    drawn = np.zeros(0) if rng is None else rng.lognormal(-(GAP_SPREAD**2) / 2, GAP_SPREAD, count * each)
    gaps_us = np.round(np.repeat(values, each) / GAPS * drawn * 1e6).astype(np.uint32)
    whole, none = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)
    low_s = float(issued_s[0]) + settled_s
    window = Window(low_s, low_s + length_s)
    requests = Requests(
        user=np.arange(count),
        scheduled_s=issued_s,
        begin_s=issued_s,
        issued_s=issued_s,
        end_s=issued_s + values,
        send_lag_s=np.zeros(count),
        ok=whole,
        unfinished=none,
        values={"e2e": values},
        has_token=whole,
        gaps=pa.chunked_array([pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * each, gaps_us)]),
        open_gap_s=np.zeros(count),
        output_tokens=np.full(count, each + 1),
        expected_gaps=np.full(count, max(each, 1)),
        chunks=np.full(count, each + 1),
        defects=0,
    )
    rows = (issued_s >= window.low_s) & (issued_s <= window.high_s)
    return Case(Judged(requests, rows, window, float("inf")), values <= median_s)


def verdicts(check: Check, cases: Sequence[Case], limit: float) -> tuple[float, float]:
    """Shares of runs that PASS and that FAIL."""
    objective = replace(check.objective, limit=limit)
    found = [check.evidence(objective, case) for case in cases]
    passed = sum(each.p_pass <= ALPHA for each in found)
    return passed / len(cases), sum(each.p_fail < ALPHA for each in found) / len(cases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--only", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--checks", nargs="*", choices=list(CHECKS), default=list(CHECKS))
    parser.add_argument("--longest", type=int, default=8000, help="leave out runs of more requests")
    parser.add_argument("--seed", type=int, default=1)
    facts = parser.parse_args()
    heads = ("model", "requests", "window", "check", "runs", "wrong PASS", "wrong FAIL", "PASS", "FAIL")
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|", flush=True)
    worst = 0.0
    for name in facts.only:
        lengths = [each for each in LENGTHS[name] if each <= facts.longest]
        if not lengths:
            continue
        runs = MODELS[name](facts.runs, lengths[-1], seed=facts.seed)
        for length in lengths:
            part = [(issued_s[:length], values[:length]) for issued_s, values in runs]
            cases = cases_of(part, gaps="p95(itl)" in facts.checks, seed=facts.seed)
            for label in facts.checks if cases else ():
                check = CHECKS[label]
                truth = check.truth(cases)
                room = -ROOM if not check.objective.lower_is_better else ROOM
                wrong_pass, wrong_fail = verdicts(check, cases, truth)
                passed = verdicts(check, cases, truth * (1 + room))[0]
                failed = verdicts(check, cases, truth * (1 - room))[1]
                worst = max(worst, wrong_pass, wrong_fail)
                window = cases[0].judged.window
                assert window is not None
                cells = [name, f"{length:,}", f"{window.length_s:,.0f} s", label, f"{facts.runs:,}"]
                cells += [f"{wrong_pass:.1%}", f"{wrong_fail:.1%}", f"{passed:.0%}", f"{failed:.0%}"]
                print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\nwrong at most {worst:.1%} of runs; {HIGHEST:.0%} is allowed")
    raise SystemExit(0 if worst <= HIGHEST else 1)


if __name__ == "__main__":
    main()
