"""Texts that attack whatever shows them."""

from __future__ import annotations

from typing import Any

HOSTILE = (
    "</svg></style></script><script>alert(1)</script><img src=x onerror=\"alert('2')\">{{ 7*7 }}"
    "&\u202eevil\x00\x1b[31m\ud800"
)


JUDGED = frozenset({"expected", "comparison", "subject", "standing"})
"""Fields of few allowed words."""
STUDIED = frozenset({"kind", "shape", "cheaper", "unit", "better"})
"""The same of capacity searches and comparisons."""


def hostile(value: Any, key: str = "", kept: frozenset[str] = JUDGED) -> Any:
    """Replace every free text in a record's fields by one that attacks the page."""
    if isinstance(value, dict):
        return {
            f"{name}{HOSTILE}" if key in ("server", "seeds", "digests", "dropped") else name: hostile(each, name, kept)
            for name, each in value.items()
        }
    if isinstance(value, tuple | list):
        return type(value)(hostile(each, key, kept) for each in value)
    if type(value) is str and key not in kept:
        return f"{value}{HOSTILE}"
    return value
