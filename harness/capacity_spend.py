"""What a capacity search pays for tokens: one cap for all of its levels, those of earlier sittings included."""

from __future__ import annotations

from pathlib import Path

from harness.cost import format_usd
from harness.paid import spend_facts
from harness.runlog import MANIFEST, RunReader

CAPPED = "the cap of --max-cost"
"""How the reason begins for which a search ended at its cap."""


def spent_usd(directory: Path) -> float:
    """Sum over every run there: levels, repeated ones, and those that no interval counts.

    A level that was killed before it was sealed counts with what its samples show.
    """
    total = 0.0
    for path in sorted(directory.glob(f"*/{MANIFEST}")):
        reader = RunReader(path.parent)
        facts = spend_facts(reader.manifest, reader.samples()) if reader.manifest.spend is not None else None
        total += facts.spent_usd if facts is not None else 0.0
    return total


def spent_text(spent: float | None, cap: float | None) -> str:
    """One sentence for whoever paid; empty where nothing is paid by the token."""
    if spent is None or cap is None:
        return ""
    return f"the search spent {format_usd(spent)} on tokens, of a cap of {format_usd(cap)} for all of its levels"


def capped_text(cap: float, load: str) -> str:
    """Why a search ended before or in the level of ``load``."""
    return (
        f"{CAPPED}, {format_usd(cap)} for all levels, left too little for one at {load}: the same command with a"
        " higher one and --resume goes on"
    )
