"""The reports of one matrix as files beside each other: for people, for a pull request, for a build."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.audit import NO_CLAIMS, Audit
from harness.judgement import Judgement
from harness.plan import PlanRow
from harness.recommend import Recommendation
from harness.runlog import write_atomically
from harness.studies import NO_STUDIES, Studies
from reports import html, junit, markdown

VERDICT = "verdict.md"
JUNIT = "junit.xml"


def write_reports(
    path: Path,
    judgements: Sequence[Judgement],
    recommendations: Sequence[Recommendation] = (),
    plan_rows: Sequence[PlanRow] = (),
    title: str = "SLA verdicts",
    audit: Audit = NO_CLAIMS,
    studies: Studies = NO_STUDIES,
) -> Path:
    """Write the page to ``path`` and the other two beside it, each whole or not at all.

    Without a verdict there is the page alone: a build would take a list of no cases for a good one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = {path.name: html.render(judgements, recommendations, plan_rows, title, audit, studies)}
    if judgements:
        texts[VERDICT] = markdown.render(judgements, recommendations)
        texts[JUNIT] = junit.render(judgements)
    for name, text in texts.items():
        write_atomically(path.with_name(name), text)
    return path
