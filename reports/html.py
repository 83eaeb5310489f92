"""The report: one HTML file that opens anywhere, offline, with nothing in it that runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined
from markupsafe import Markup

from harness.judgement import Judgement
from harness.plan import PlanRow
from harness.recommend import Recommendation
from reports import view
from reports.figures import clean


def render(
    judgements: Sequence[Judgement],
    recommendations: Sequence[Recommendation] = (),
    plan_rows: Sequence[PlanRow] = (),
    title: str = "SLA verdicts",
) -> str:
    """Render the whole page; the same input gives the same text."""
    page = view.build(judgements, recommendations, plan_rows, title)
    return _environment().get_template("page.html.j2").render(page=page)


def write_report(
    path: Path,
    judgements: Sequence[Judgement],
    recommendations: Sequence[Recommendation] = (),
    plan_rows: Sequence[PlanRow] = (),
    title: str = "SLA verdicts",
) -> Path:
    """Write the page to ``path``, through a neighbour, so that a reader never sees half of it."""
    text = render(judgements, recommendations, plan_rows, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.half")
    half.write_text(text, encoding="utf-8")
    return half.replace(path)


def _environment() -> Environment:
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


def render_template(name: str, page: object) -> str:
    """Render another page than the report by the same rules: escaped, text only, nothing undefined."""
    return _environment().get_template(name).render(page=page)
