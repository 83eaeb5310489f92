"""Foreign text within Markdown: shown as it is, and starting nothing."""

from __future__ import annotations

import re

from reports.figures import clean

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~@])")


def escape(text: str) -> str:
    """One line of plain text, safe in a table's cell, in GitHub's Markdown and in GitLab's: no tag, link or mention."""
    line = " ".join(clean(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)
