"""What a report says of a run's answers: each score with its interval, what was not acceptable, and what is good."""

from __future__ import annotations

import numpy as np

from harness.judgement import QualitySummary, ScoreSummary
from harness.metrics import BoolArray, Judged
from harness.quality_evidence import design_effect, mean_interval, score_values, scored_share, time_blocks
from harness.quality_file import ScoringFacts
from harness.scored import Scored
from harness.statistics import rate_lower, rate_upper


def quality_summary(
    judged: Judged, scored: Scored, facts: ScoringFacts, good: BoolArray, bad: BoolArray, confidence: float
) -> QualitySummary:
    """``good`` and ``bad`` are of latencies alone, a row per sample."""
    mine = judged.rows[scored.rows]
    rows, acceptable = scored.rows[mine], scored.acceptable[mine]
    on_time, ok = good[rows], judged.requests.ok[rows]
    known = on_time | bad[rows] | (ok & ~acceptable)
    both = on_time & acceptable
    share, low, high = _share(both[known], scored.prompts[mine][known], time_blocks(judged, rows[known]), confidence)
    return QualitySummary(
        kept=facts.kept,
        scored=facts.scored,
        judged=int(mine.sum()),
        scored_share=scored_share(judged, scored),
        prompts=len(np.unique(scored.prompts[mine])),
        good=int(both.sum()),
        late=int(bad[rows].sum()),
        not_acceptable=int((ok & ~bad[rows] & ~acceptable).sum()),
        good_share=share,
        good_low=low,
        good_high=high,
        acceptable_on_time=int(both.sum()) / int(on_time.sum()) if on_time.any() else None,
        confidence=confidence,
        scores=tuple(_score(name, judged, scored, facts, confidence) for name in scored.known),
        llm_judge=facts.llm_judge,
    )


def _score(name: str, judged: Judged, scored: Scored, facts: ScoringFacts, confidence: float) -> ScoreSummary:
    values, unknown, prompts, blocks = score_values(judged, scored, name)
    found = ScoreSummary(
        scorer=name,
        samples=int((~unknown).sum()),
        signature=facts.signatures.get(name, ""),
        corpus=facts.corpus.get(name),
        limit=scored.limits.get(name),
    )
    if not found.samples:
        return found
    mean, low, high = mean_interval(values[~unknown], prompts[~unknown], blocks[~unknown], confidence)
    below = None
    if name in scored.limits:
        answered = judged.rows[scored.rows] & judged.requests.ok[scored.rows]
        below = int((scored.breaks(name) & answered).sum())
    return found.model_copy(update={"mean": mean, "low": low, "high": high, "below": below})


def _share(
    good: BoolArray, prompts: np.ndarray, blocks: np.ndarray, confidence: float
) -> tuple[float | None, float | None, float | None]:
    if not len(good):
        return None, None, None
    effect = design_effect(~good, prompts, blocks)
    samples, bad = len(good) / effect, float((~good).sum()) / effect
    low = 1 - rate_upper(int(np.ceil(bad)), int(samples), confidence)
    return float(good.mean()), low, 1 - rate_lower(int(bad), int(np.ceil(samples)), confidence)
