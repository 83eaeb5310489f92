"""Fragments of the page: where its links lead."""

from __future__ import annotations

import re
from collections.abc import Iterable


def anchors(names: Iterable[str]) -> list[str]:
    """Fragments that are readable, safe in any attribute, and unique; ``--`` in none, so that it can join more."""
    taken: dict[str, int] = {}
    found = []
    for name in names:
        slug = re.sub(r"[^a-z0-9.]+", "-", name.lower()[:80]).strip("-")
        taken[slug] = taken.get(slug, 0) + 1
        found.append(slug if taken[slug] == 1 else f"{slug}_{taken[slug]}")
    return found
