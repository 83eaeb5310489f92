"""A run's quality as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from harness.judgement import Judgement
from reports import figures
from reports.quality import interval


def lines(judgement: Judgement) -> Iterator[str]:
    found = judgement.quality
    yield f"{judgement.scenario} / {judgement.stack}"
    if found is None:
        yield f"  {figures.clean(judgement.quality_note)}"
        return
    count = f"{found.judged:,} judged answers to {found.prompts:,} prompts"
    yield f"  {count}, of {found.kept:,} kept and {found.scored:,} scored"
    yield f"  good: {interval(found.good_share, found.good_low, found.good_high, share=True)}"
    for each in found.scores:
        limit = "" if each.limit is None or each.below is None else f"; {each.below:,} under {each.limit:g}"
        corpus = "" if each.corpus is None else f"; corpus {100 * each.corpus:.1f} ({each.signature})"
        yield f"  {each.scorer}: {interval(each.mean, each.low, each.high)} of {each.samples:,}{limit}{corpus}"
    if found.llm_judge is not None:
        told = found.llm_judge
        mean = interval(told.mean, told.low, told.high)
        yield f"  judge {told.model}: {mean} of {told.judged:,} of {told.asked:,} asked"
        yield f"  both orders agree on {figures.share(told.agreement)}{'; ' + told.stopped if told.stopped else ''}"
