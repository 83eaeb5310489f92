"""Foreign text within Markdown: shown as it is, and starting nothing."""

from __future__ import annotations

import html
import re

from reports.figures import clean

LONGEST_LINE = 600
_MARKUP = re.compile(r"([\\`*_{}\[\]#|~$]|(?<=\])\(|:(?=//)|(?<=www)\.)")


def escape(text: str) -> str:
    """One line, safe in a table's cell, in GitHub's Markdown and in GitLab's: no tag, link, formula or mention."""
    # Entities, not backslashes: a reader that knows less Markdown than HTML makes no tag of them either.
    escaped = html.escape(_MARKUP.sub(r"\\\1", one_line(text)), quote=False)
    return escaped.replace("@", "@<!-- -->")


def one_line(text: str) -> str:
    """Foreign text without line ends and control characters; markup stays."""
    return " ".join(clean(text, LONGEST_LINE).split())
