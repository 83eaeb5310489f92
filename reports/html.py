"""The report: one HTML file that opens anywhere, offline, with nothing in it that runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined
from markupsafe import Markup

from harness.audit import NO_CLAIMS, Audit
from harness.judgement import Judgement
from harness.plan import PlanRow
from harness.recommend import Recommendation
from harness.runlog import write_atomically
from harness.studies import NO_STUDIES, Studies
from reports import view
from reports.figures import clean


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


def render_page(template: str, page: object) -> str:
    return environment().get_template(template).render(page=page)


def write_page(path: Path, text: str) -> Path:
    """Write a page whole, in a folder that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
    return path


def environment() -> Environment:
    return Environment(
        loader=PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )


def _printable(value: object) -> object:
    """The one gate of every printed value: text only, and none of it invisible."""
    if isinstance(value, Markup | Undefined):
        return value
    if not isinstance(value, str):
        raise TypeError(f"a template prints text, not {type(value).__name__}: format it in the view")
    return clean(value)
