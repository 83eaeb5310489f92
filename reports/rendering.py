"""Templates to text: what every page is rendered and written with."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined
from markupsafe import Markup

from harness.runlog import write_atomically
from reports.figures import clean


def render_page(template: str, page: object) -> str:
    return environment().get_template(template).render(page=page)


def write_page(path: Path, text: str) -> Path:
    """Write a page whole, in a folder that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
    return path


@cache
def environment() -> Environment:
    """The templates, each compiled once: a page that is rendered every two seconds beside load must cost little."""
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
