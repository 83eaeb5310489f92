"""Numbers that travel inside the page: the judgement of each cell as JSON, every check as one CSV table.

They are ``data:`` addresses in base64: nothing of them can be read as markup, and nothing is fetched.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from harness.judgement import CheckResult, Judgement
from reports import figures
from reports.parts import Download

CHECK_COLUMNS = (
    *("text", "metric", "aggregate", "comparison", "limit", "unit", "verdict", "value", "value_low", "value_high"),
    *("margin", "samples", "violations", "allowed_rate", "rate_low", "rate_high", "confidence", "reason"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def judgement(found: Judgement) -> Download:
    """The whole Judgement, as in ``judgement.json``; compressed, or the numbers would outweigh the page."""
    name = f"{_file_name(found.scenario)}--{_file_name(found.stack)}.judgement.json.gz"
    return _download(name, gzip.compress(_json(found).encode(), mtime=0), "application/gzip")


def checks(judgements: Sequence[Judgement]) -> Download:
    """One row a check, values in base units (seconds, shares, per second)."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\r\n")
    rows.writerow(("run", "scenario", "stack", "marks", "cell_verdict", *CHECK_COLUMNS))
    for each in judgements:
        marks = " ".join(mark.value for mark in each.marks)
        about = (_inert(each.run), _inert(each.scenario), _inert(each.stack), marks, each.verdict.value)
        rows.writerows((*about, *_row(check)) for check in each.checks)
    return _download("checks.csv", text.getvalue().encode("utf-8", "backslashreplace"), "text/csv")


def _json(found: Judgement) -> str:
    return Judgement.model_validate(_carried(found.model_dump())).model_dump_json()


def _carried(value: Any) -> Any:
    """Texts as a page can carry them: a line of megabytes cut, half a surrogate pair (no UTF-8) spelled."""
    if isinstance(value, dict):
        return {_carried(name): _carried(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_carried(each) for each in value]
    if type(value) is not str:
        return value
    return value[: figures.LONGEST_TEXT].encode("utf-8", "backslashreplace").decode()


def _row(check: CheckResult) -> list[object]:
    values = (getattr(check, name) for name in CHECK_COLUMNS)
    return ["" if value is None else _inert(str(value)) if isinstance(value, str) else value for value in values]


def _inert(text: str) -> str:
    """A spreadsheet would calculate what begins like a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _download(name: str, raw: bytes, kind: str) -> Download:
    size = f"{figures.number(len(raw) / 1000)}{figures.NBSP}kB"
    encoded = base64.b64encode(raw).decode("ascii")
    return Download(name, f"{name} ({size})", Markup(f"data:{kind};base64,{encoded}"))


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:80]
