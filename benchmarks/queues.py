"""Runs of queues in virtual time, whose true violation rate is known: what verdicts are validated against.

Each model makes many runs of the same system in steady state, as pairs of arrays: when each request was issued and how
long its answer took, in seconds, in the order of issue. The truth is that of all runs together.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import numpy as np

from harness.metrics import FloatArray
from servers.emulator import engine as emulated

Runs = list[tuple[FloatArray, FloatArray]]
Model = Callable[..., Runs]


def limit_at(runs: Runs, violating: float) -> float:
    """The limit that this share of all requests violates."""
    return limits_at(runs, [violating])[0]


def limits_at(runs: Runs, violating: Sequence[float]) -> list[float]:
    """:func:`limit_at` of several shares."""
    values = np.concatenate([values for _, values in runs])
    return [float(limit) for limit in np.quantile(values, [1.0 - share for share in violating], overwrite_input=True)]


def independent(runs: int, requests: int, *, seed: int) -> Runs:
    rng = np.random.default_rng(seed)
    return [
        (np.cumsum(rng.exponential(1.0, requests)), np.asarray(rng.lognormal(0, 0.5, requests))) for _ in range(runs)
    ]


def queue(runs: int, requests: int, *, seed: int, load: float, sigma: float = 0.0, servers: int = 8) -> Runs:
    """M/G/k, first come first served: Poisson arrivals, service of mean 1 s (exponential, or lognormal of ``sigma``).

    The recursion of Kiefer and Wolfowitz, for all runs at once.
    """
    rng = np.random.default_rng(seed)
    settling = int(16 / (1.0 - load) ** 2) * servers // 4
    free, now = np.zeros((runs, servers)), np.zeros(runs)
    issued, taken = np.empty((runs, requests)), np.empty((runs, requests))
    each = np.arange(runs)
    for index in range(-settling, requests):
        now = now + rng.exponential(1.0 / (load * servers), runs)
        service = rng.lognormal(-sigma * sigma / 2, sigma, runs) if sigma else rng.exponential(1.0, runs)
        first = free.argmin(axis=1)
        end = np.maximum(free[each, first], now) + service
        free[each, first] = end
        if index >= 0:
            issued[:, index], taken[:, index] = now, end - now
    return list(zip(issued, taken, strict=True))


def closed(
    runs: int,
    requests: int,
    *,
    seed: int,
    users: int = 100,
    think_s: float = 15.0,
    batch: int = 8,
    step_s: float = 0.05,
    wander: float = 0.0,
    wander_s: float = 10.0,
) -> Runs:
    """Users who think, and a server that answers a batch of them in steps, for all runs at once.

    The logarithm of a step's time wanders: an Ornstein-Uhlenbeck process of deviation ``wander``, memory ``wander_s``.
    """
    rng = np.random.default_rng(seed)
    settling = 4 * users

    def drawn(mean: float, *shape: int) -> FloatArray:
        return np.asarray(rng.lognormal(np.log(mean) - 0.125, 0.5, shape))

    due = rng.uniform(0, think_s, (runs, users))
    left, length = np.zeros((runs, users)), np.ceil(drawn(20, runs, users))
    now, drift = np.zeros(runs), wander * rng.normal(size=runs)
    ended: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    count = np.zeros(runs, dtype=int)
    while count.min() < requests + settling:
        waiting = (left == 0) & (due <= now[:, None])
        free = batch - (left > 0).sum(axis=1)
        some = np.flatnonzero(waiting.any(axis=1) & (free > 0))
        order = np.where(waiting[some], due[some], np.inf).argsort(axis=1)
        run, place = np.nonzero(np.arange(users) < np.minimum(free[some], waiting[some].sum(axis=1))[:, None])
        run, user = some[run], order[run, place]
        left[run, user] = length[run, user]
        active = left > 0
        idle = ~active.any(axis=1)
        step = (step_s + 0.0007 * active.sum(axis=1)) * np.exp(drift)
        after = np.where(idle, np.maximum(np.where(left == 0, due, np.inf).min(axis=1), now), now + step)
        if wander:
            kept = np.exp(-(after - now) / wander_s)
            drift = kept * drift + wander * np.sqrt(1 - kept**2) * rng.normal(size=runs)
        now = after
        left = left - active
        run, user = np.nonzero(active & (left == 0))
        ended.append((run, due[run, user].copy(), now[run] - due[run, user]))
        count += np.bincount(run, minlength=runs)
        due[run, user] = now[run] + drawn(think_s, len(run))
        length[run, user] = np.ceil(drawn(20, len(run)))
    run, issued, taken = (np.concatenate(column) for column in zip(*ended, strict=True))
    order = np.lexsort((issued, run))
    found = []
    for start in np.searchsorted(run[order], np.arange(runs)):
        mine = order[start + settling : start + settling + requests]
        found.append((issued[mine], taken[mine]))
    return found


def engine(runs: int, requests: int, *, seed: int, users: int = 100, think_s: float = 15.0, tokens: int = 40) -> Runs:
    """The emulator's own engine in virtual time, with users who think; steps of 40 ms and 2 ms a request."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(runs):
        one = emulated.Engine(
            lambda decoding, _kv, prompt: 0.04 + 0.002 * decoding + 2e-5 * prompt, 8_000, max_batch=32
        )
        due = [(float(at), user) for user, at in enumerate(rng.uniform(0, think_s, users))]
        heapq.heapify(due)
        ended: list[tuple[float, float]] = []
        now, settling = 0.0, 2 * users
        while len(ended) < requests + settling:
            while due and due[0][0] <= now:
                at, _user = heapq.heappop(due)
                length = max(1, round(float(rng.lognormal(np.log(tokens) - 0.125, 0.5))))
                one.submit(emulated.Sequence(60, length, 60 + 4 * tokens, at))
            end = one.begin(now)
            if end is None:
                now = due[0][0]
                continue
            now = end
            for sequence in one.finish():
                if sequence.done:
                    ended.append((sequence.arrived_s, now - sequence.arrived_s))
                    think = float(rng.lognormal(np.log(think_s) - 0.125, 0.5))
                    heapq.heappush(due, (now + think, len(ended)))
        ordered = np.array(sorted(ended)[settling : settling + requests])
        found.append((ordered[:, 0], ordered[:, 1]))
    return found


def _with(model: Model, **facts: float) -> Model:
    return lambda runs, requests, *, seed: model(runs, requests, seed=seed, **facts)


MODELS: dict[str, Model] = {
    "independent": independent,
    "closed": closed,
    "closed-wandering": _with(closed, wander=0.4, batch=100),
    "engine": engine,
    "mm1-50": _with(queue, load=0.5, servers=1),
    "mm8-50": _with(queue, load=0.5),
    "mm8-80": _with(queue, load=0.8),
    "mg8-80": _with(queue, load=0.8, sigma=1.0),
    "mm8-90": _with(queue, load=0.9),
}
