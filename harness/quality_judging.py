"""Asks a judge model about a seeded part of a scored run's answers, and keeps its word beside the scores."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np

from harness.errors import RunDirectoryError, UsageError
from harness.judgement import LlmJudgeSummary
from harness.quality.llm_judge import ALONE_DIGEST, PROMPT_DIGEST, Endpoint, Session, judge_all, points_of
from harness.quality_evidence import mean_interval
from harness.quality_file import read_quality, write_quality
from harness.quality_worker_main import answer_of
from harness.runlog import RunReader


def endpoint_of(url: str, model: str, key_env: str, price: str, max_cost_usd: float, most: int) -> Endpoint | None:
    """From the command line; None where no judge is asked for.

    Raises
    ------
    UsageError
        For half of what is needed, or a price that is none.
    """
    if bool(url) != bool(model):
        raise UsageError("--judge-url and --judge-model belong together")
    if not url:
        return None
    prices: list[float | None] = [None, None]
    if price:
        try:
            per_input, per_output = (float(part) for part in price.split(","))
        except ValueError as error:
            raise UsageError(f"--judge-price must be two numbers such as 0.15,0.60, not '{price}'") from error
        if per_input < 0 or per_output < 0:
            raise UsageError("--judge-price must not be negative")
        prices = [per_input, per_output]
    return Endpoint(url, model, os.environ.get(key_env, "none"), prices[0], prices[1], max_cost_usd, most)


def ask_judge(run_dir: Path, endpoint: Endpoint) -> LlmJudgeSummary:
    """Grade answers whose prompt has a reference, each beside it, and those to a brief, each by its rubric.

    Answers to prompts that have neither are left out: there is nothing to hold them against.

    Raises
    ------
    RunDirectoryError
        When the run was not scored.
    """
    found = read_quality(run_dir)
    if found is None:
        raise RunDirectoryError(f"{run_dir} was not scored; run: harness score {run_dir}")
    table, facts = found
    known = [(each["prompt_id"], answer_of(each)) for each in RunReader(run_dir).outputs() if "text" in each]
    gradable = [each for each in known if each[1].expected.reference or points_of(each[1].expected)]
    rng = random.Random(f"llm-judge/{facts.seed}")
    chosen = gradable if len(gradable) <= endpoint.most else rng.sample(gradable, endpoint.most)
    pairs = [(answer, next(iter(answer.expected.reference), None)) for _, answer in chosen]
    session = judge_all(pairs, endpoint)
    digests = {ALONE_DIGEST if other is None else PROMPT_DIGEST for _, other in pairs} or {PROMPT_DIGEST}
    summary = _summary(endpoint, session, [prompt_id for prompt_id, _ in chosen], " ".join(sorted(digests)))
    if not pairs:
        summary = summary.model_copy(update={"stopped": "no prompt has a reference or a rubric to grade answers by"})
    write_quality(run_dir, table, facts.model_copy(update={"llm_judge": summary}))
    return summary


def _summary(endpoint: Endpoint, session: Session, prompts: list[str], digest: str) -> LlmJudgeSummary:
    known = [(made, prompt) for made, prompt in zip(session.results, prompts, strict=False) if made is not None]
    priced = endpoint.usd_per_million_input is not None
    summary = LlmJudgeSummary(
        model=endpoint.model,
        prompt_digest=digest,
        asked=len(session.results),
        judged=len(known),
        spent_usd=session.spent_usd if priced else None,
        cap_usd=endpoint.max_cost_usd if priced else None,
        stopped=session.stopped,
    )
    if not known:
        return summary
    scores = np.array([made.score for made, _ in known])
    clusters = np.unique([prompt for _, prompt in known], return_inverse=True)[1]
    mean, low, high = mean_interval(scores, clusters, clusters, 0.95)
    wins = [made.wins for made, _ in known if made.wins is not None]
    return summary.model_copy(
        update={
            "mean": mean,
            "low": low,
            "high": high,
            "wins": sum(wins) / len(wins) if wins else None,
            "agreement": sum(made.agrees for made, _ in known) / len(known),
        }
    )
