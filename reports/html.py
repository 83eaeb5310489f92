"""The report: one HTML file that opens anywhere, offline, with nothing in it that runs."""

from __future__ import annotations

from collections.abc import Sequence

from harness.audit import NO_CLAIMS, Audit
from harness.judgement import Judgement
from harness.plan import PlanRow
from harness.recommend import Recommendation
from harness.studies import NO_STUDIES, Studies
from reports import view
from reports.rendering import render_page


def render(
    judgements: Sequence[Judgement],
    recommendations: Sequence[Recommendation] = (),
    plan_rows: Sequence[PlanRow] = (),
    title: str = "SLA verdicts",
    audit: Audit = NO_CLAIMS,
    studies: Studies = NO_STUDIES,
) -> str:
    """Render the whole page; the same input gives the same text."""
    return render_page("page.html.j2", view.build(judgements, recommendations, plan_rows, title, audit, studies))
