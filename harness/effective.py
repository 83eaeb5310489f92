"""How many independent requests a run's requests are worth.

Requests that shared a batch or a queue are slow together, so n of them say less of a rate than n independent ones:
as much as n / d, with the design effect d (Kish, 1965). What is estimated here:

1. The window is cut into :data:`BLOCKS` equal pieces of time. With ``y`` violations of ``m`` requests in each, the
   variance of the rate p is that of a ratio, B/(B-1) sum (y - p m)^2 / n^2 (Cochran, *Sampling Techniques*, 6.3), and
   d is it over p (1 - p) / n.
2. A run that saw few slow spells has few violations *and* a small d of them, which is how a plain batch-means bound
   passes falsely. So d is the largest of those of the limit itself, of the sample's own quantiles at 1, 2, 4, ...
   times the allowed share (which exist without violations, and see the slow spells that stayed under the limit), and
   of the latencies' ranks: 1 + 2 sum of their autocorrelations, in which every request takes part.
3. A variance of so few blocks is itself uncertain: d is divided by the lower quantile :data:`VARIANCE_QUANTILE` of
   chi-square over its degrees of freedom, and the count by (t / z)^2 (Korn and Graubard, 1998).
4. While d is above :data:`CORRELATED` and the window is shorter than :data:`CORRELATION_TIMES` correlation times of
   latency, the blocks themselves are alike, and nothing can PASS.
5. A limit that no request comes near asks for less. Of any distribution at most 1 / (1 + K^2) lies K standard
   deviations above its mean (Cantelli). Where nothing violates, and the limit is so far above the blocks' slowest
   requests (their logarithms) that this is at most the allowed share, slow spells of the kind seen cannot reach it:
   d is 1.

The constants are measured, not derived: ``make simulate`` makes the rates of wrong verdicts in ``docs/statistics.md``.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import chdtri, ndtri, stdtrit

from harness.metrics import BoolArray, FloatArray, IntArray, Window

BLOCKS = 20
VARIANCE_QUANTILE = 0.35
CONFIDENCE = 0.95
"""Of the t in step 3, whatever the check's own: the count is the same for every level it is asked at."""
WIDEST_QUANTILE = 0.41
RANK_WEIGHT = 1.25
"""Of what the ranks' design effect is above 1, for p95 and wider; less further out, where ranks say less."""
CORRELATED = 2.0
CORRELATION_TIMES = 50.0
REACH = 1.0
"""Times Cantelli's K, because mean and standard deviation are those of the blocks seen."""


@dataclass(frozen=True, slots=True)
class Effective:
    """``samples`` of ``observed`` requests (or gaps): what they are worth."""

    observed: int
    samples: float
    design_effect: float = 1.0
    """Before what step 3 takes off."""
    correlation_time_s: float = 0.0
    """In which the autocorrelation of latency does most (1 - 1/e) of its work; 0 where there is none."""
    blocks: int = 0
    """0: nothing was estimated, and the requests count as independent."""
    needed_s: float = 0.0
    """The window that it takes to PASS, where this one is too short for its correlation time."""

    @property
    def share(self) -> float:
        return self.samples / self.observed if self.observed else 1.0


def independent(observed: int) -> Effective:
    return Effective(observed, float(observed))


def discounted(observed: int, design_effect: float) -> float:
    """Step 3: what is left of ``observed`` at a design effect that was estimated from :data:`BLOCKS` blocks."""
    degrees = BLOCKS - 1
    return float(observed / inflated(design_effect) * (ndtri(CONFIDENCE) / stdtrit(degrees, CONFIDENCE)) ** 2)


def inflated(design_effect: float) -> float:
    """The first half of step 3, for a bound that has Student's t of its own."""
    degrees = BLOCKS - 1
    return max(1.0, design_effect * degrees / float(chdtri(degrees, 1.0 - VARIANCE_QUANTILE)))


def effective(
    issued_s: FloatArray, violates: BoolArray, values: FloatArray, limit_s: float, allowed: float, window: Window
) -> Effective:
    """Estimate from requests: when each was issued, whether it violates, its value (+infinity: failed).

    Parameters
    ----------
    issued_s, violates, values
        One for each request, in any order; seconds, no NaN.
    allowed
        The share that may violate.
    """
    count = len(values)
    if count == 0:
        return independent(0)
    block = block_of(issued_s, window)
    if not violates.any() and _out_of_reach(block, values, limit_s, allowed):
        return Effective(count, min(discounted(count, 1.0), count), 1.0, 0.0, BLOCKS)
    ranked = np.sort(values)
    levels = [ranked[count - math.ceil(share * count)] for share in shares(allowed)]
    exceeding = [violates, *(values >= level for level in levels)]
    found = [design_effect(block, each.astype(np.float64)) for each in exceeding]
    ranks, lag = rank_correlation(issued_s, values, block)
    return _effective(count, max(*found, 1.0 + rank_weight(allowed) * (ranks - 1.0)), lag, count, window)


def effective_ratio(
    issued_s: FloatArray, counted: list[IntArray], sizes: IntArray, values: FloatArray, allowed: float, window: Window
) -> Effective:
    """Estimate for a share of parts (gaps) of requests, which stand or fall together.

    Parameters
    ----------
    counted
        Parts of each request that violate; and that exceed each of the sample's own quantiles.
    sizes
        Parts of each request.
    values
        What each request is ranked by.
    """
    total = int(sizes.sum())
    if total == 0:
        return independent(0)
    # sums of floats depend on their order, and verdicts must not depend on that of the samples
    order = np.lexsort((counted[0], sizes, values, issued_s))
    issued_s, sizes, values = issued_s[order], sizes[order], values[order]
    counted = [each[order] for each in counted]
    block = block_of(issued_s, window)
    ranks, lag = rank_correlation(issued_s, values, block)
    weight = 1.0 + rank_weight(allowed) * (ranks - 1.0)
    found = [1.0]
    for each in counted:
        found.append(design_effect(block, each.astype(np.float64), sizes))
        # each request a block of its own, times what neighbours add to that
        found.append(design_effect(np.arange(len(each)), each.astype(np.float64), sizes) * weight)
    return _effective(total, max(found), lag, len(sizes), window)


def effective_mean(issued_s: FloatArray, values: FloatArray, window: Window) -> Effective:
    """Estimate for a mean: the larger design effect of its blocks, as a ratio, and of the values' ranks.

    A run that saw few slow spells has a small mean and a small variance at once, so that steps 2 to 4 apply; of
    step 3 its first half, for the mean's bound is a t already.
    """
    count = len(values)
    block = block_of(issued_s, window)
    variance = float(values.var()) if count else 0.0
    if variance == 0.0:
        return Effective(count, float(count), 1.0, 0.0, BLOCKS)
    spread = float(((np.bincount(block, values - values.mean(), BLOCKS)) ** 2).sum()) * BLOCKS / (BLOCKS - 1)
    ranks, lag = rank_correlation(issued_s, values, block)
    design = max(1.0, spread / count / variance, 1.0 + RANK_WEIGHT * (ranks - 1.0))
    samples = max(1.0, count / inflated(design))
    return Effective(count, samples, design, *_needed(design, lag, count, window))


def effective_share(issued_s: FloatArray, counted: BoolArray, values: FloatArray, window: Window) -> Effective:
    """Estimate for the share of requests that count for a rate, as :func:`effective_mean` does for a mean."""
    count = len(values)
    if count == 0:
        return independent(0)
    block = block_of(issued_s, window)
    ranks, lag = rank_correlation(issued_s, values, block)
    design = max(1.0, design_effect(block, counted.astype(np.float64)), 1.0 + RANK_WEIGHT * (ranks - 1.0))
    return Effective(count, max(1.0, count / inflated(design)), design, *_needed(design, lag, count, window))


def effective_errors(issued_s: FloatArray, failed: BoolArray, window: Window) -> Effective:
    """Estimate for errors. Without a single one there is nothing to estimate from: they count as independent."""
    count = len(failed)
    if not failed.any():
        return independent(count)
    found = design_effect(block_of(issued_s, window), failed.astype(np.float64))
    return Effective(count, min(count, discounted(count, max(1.0, found))), max(1.0, found), 0.0, BLOCKS)


def _effective(observed: int, design: float, lag: float, requests: int, window: Window) -> Effective:
    design = max(1.0, design)
    samples = max(1.0, discounted(observed, design))
    return Effective(observed, min(samples, observed), design, *_needed(design, lag, requests, window))


def needed_s(worth: Effective, stretch: float) -> float:
    """The window of step 4, were correlation times ``stretch`` times as long; 0 where nothing is correlated."""
    return CORRELATION_TIMES * worth.correlation_time_s * stretch if worth.design_effect > CORRELATED else 0.0


def _needed(design: float, lag: float, requests: int, window: Window) -> tuple[float, int, float]:
    """Step 4: the correlation time, the blocks, and the window that a PASS takes where this one is too short."""
    time_s = lag * window.length_s / requests
    needed_s = CORRELATION_TIMES * time_s
    return time_s, BLOCKS, needed_s if design > CORRELATED and needed_s > window.length_s else 0.0


def _out_of_reach(block: IntArray, values: FloatArray, limit_s: float, allowed: float) -> bool:
    slowest = np.zeros(BLOCKS)
    np.maximum.at(slowest, block, values)
    logs = np.log(slowest[slowest > 0])
    if len(logs) < BLOCKS:
        return False
    reach = REACH * math.sqrt(1.0 / allowed - 1.0) * float(logs.std(ddof=1))
    return bool(math.log(limit_s) > float(logs.mean()) + reach)


def shares(allowed: float) -> list[float]:
    """The allowed share, doubled for as long as it stays a quantile of the slower part."""
    found = [allowed]
    while found[-1] * 2 <= WIDEST_QUANTILE:
        found.append(found[-1] * 2)
    return found


def rank_weight(allowed: float) -> float:
    """How much of the ranks' correlation exceeding a quantile can have.

    To first order that of two normal variables, phi(z)^2 / (p (1 - p)) (Tetrachoric series), scaled to be
    :data:`RANK_WEIGHT` at p95.
    """

    def first_order(share: float) -> float:
        height = math.exp(-(float(ndtri(share)) ** 2) / 2)
        return height**2 / (share * (1 - share))

    return RANK_WEIGHT * min(1.0, first_order(min(max(allowed, 1e-6), 0.5)) / first_order(0.05))


def block_of(issued_s: FloatArray, window: Window, blocks: int = BLOCKS) -> IntArray:
    """Number of the block that each request was issued in; those of before the window count into the first."""
    if window.length_s <= 0:
        return np.zeros(len(issued_s), dtype=np.int64)
    place = (issued_s - window.low_s) * (blocks / window.length_s)
    return np.asarray(np.clip(place, 0, blocks - 1), dtype=np.int64)


def design_effect(block: IntArray, counted: FloatArray, sizes: IntArray | None = None) -> float:
    """Variance of the share ``sum(counted) / sum(sizes)`` by blocks, over that of independent parts.

    0 where the share is 0 or 1.
    """
    blocks = max(BLOCKS, int(block.max()) + 1)
    violations = np.bincount(block, counted, blocks)
    size = np.bincount(block, sizes, blocks)
    total = float(size.sum())
    share = float(violations.sum()) / total
    if not 0.0 < share < 1.0:
        return 0.0
    spread = float(((violations - share * size) ** 2).sum()) * blocks / (blocks - 1)
    return spread / total / (share * (1.0 - share))


def rank_correlation(issued_s: FloatArray, values: FloatArray, block: IntArray) -> tuple[float, float]:
    """Design effect of the values' ranks, and their correlation time in requests.

    Autocorrelations are taken within pairs of neighbouring blocks and summed up to the first lag that is five times
    the sum (Sokal, 1997). The time is where the sum reaches 1 - 1/e of its highest.
    """
    order = np.lexsort((values, issued_s))
    ordered, pair = values[order], block[order] // 2
    ranked = np.sort(ordered)
    rank = (np.searchsorted(ranked, ordered, "left") + np.searchsorted(ranked, ordered, "right")) / 2.0
    rank -= rank.mean()
    edges = np.searchsorted(pair, np.arange(BLOCKS // 2 + 1))
    lags = int(np.diff(edges).max())
    products, pairs = np.zeros(lags), np.zeros(lags)
    for start, stop in itertools.pairwise(edges):
        length = int(stop - start)
        if length:
            transform = rfft(rank[start:stop], next_fast_len(2 * length, real=True))
            products[:length] += irfft(transform * transform.conj(), next_fast_len(2 * length, real=True))[:length]
            pairs[:length] += np.arange(length, 0, -1)
    if products[0] <= 0 or lags < 2:
        return 1.0, 0.0
    total = np.cumsum(products[1:] / pairs[1:]) / (products[0] / pairs[0])
    enough = np.flatnonzero(np.arange(1, lags) >= 5 * np.maximum(1.0 + 2 * total, 1.0))
    total = total[: int(enough[0]) + 1] if len(enough) else total
    highest = float(total.max())
    if highest <= 0:
        return 1.0, 0.0
    return 1.0 + 2 * highest, float(np.argmax(total >= (1 - math.exp(-1)) * highest)) + 1
