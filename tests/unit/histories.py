"""Histories of one cell that never changes, or changes in one known night: the truth that the gate is held to.

A night's log figures are ``level + launch luck + drift``: luck that the metrics of a launch share in part, with one
night in 40 as bad as four ordinary ones, and a level that wanders a little from night to night.
"""

from __future__ import annotations

import numpy as np

from harness.history.rows import Cell, Row

CELL = Cell("support-chatbot", "7b-t4-vllm", "100 users", "full", "EMULATED")
LEVELS = {
    "e2e_p50_s": 0.9,
    "e2e_p95_s": 1.6,
    "ttft_p50_s": 0.14,
    "ttft_p95_s": 0.25,
    "tpot_p50_s": 0.0041,
    "tpot_p95_s": 0.0056,
    "goodput_rps": 11.0,
    "error_share": 0.001,
    "slo_attainment": 0.97,
}
SHARES = ("error_share", "slo_attainment")
CORRELATION = 0.7
BAD_NIGHTS, BAD_FACTOR = 1 / 40, 4.0
DRIFT = 0.1
"""Of a night's step, as a share of the noise."""
NIGHT_S = 86_400.0
START_S = 1_767_319_200.0
"""2 January 2026, 02:00 UTC."""


def history(
    seed: int, nights: int, noise: float, *, shift: float = 0.0, since: int | None = None, cell: Cell = CELL
) -> list[Row]:
    """One launch a night. From night ``since`` on everything is worse by ``shift`` (0.1: latencies are 10% longer)."""
    random = np.random.default_rng(seed)
    count = len(LEVELS)
    shared, own = random.standard_normal((nights, 1)), random.standard_normal((nights, count))
    bad = np.where(random.random((nights, 1)) < BAD_NIGHTS, BAD_FACTOR, 1.0)
    luck = bad * (np.sqrt(CORRELATION) * shared + np.sqrt(1 - CORRELATION) * own)
    drift = np.cumsum(DRIFT * random.standard_normal((nights, 1)), axis=0)
    logs = noise * (luck + drift)
    if since is not None:
        logs[since:] += np.log1p(shift)
    return [row(night, logs[night], cell) for night in range(nights)]


def row(night: int, logs: np.ndarray, cell: Cell = CELL, launch: int = 0, verdict: str = "PASS") -> Row:
    values = {}
    for (name, level), log in zip(LEVELS.items(), logs, strict=True):
        if name == "error_share":
            values[name] = max(0.0, level * (1 + float(log)))
        elif name == "slo_attainment":
            values[name] = min(1.0, level - 0.1 * float(log))
        else:
            values[name] = level * float(np.exp(-log if name == "goodput_rps" else log))
    return Row(
        run=f"night-{night:05d}-{launch}",
        host="bench-01",
        cell=cell,
        started_s=START_S + night * NIGHT_S + launch * 900.0,
        verdict=verdict,
        values=values,
        annotations={"harness": "0.1.0"},
    )
