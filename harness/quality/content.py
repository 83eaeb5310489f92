"""A longer text against its brief: length, structure, what it must mention, and whether it repeats itself.

distinct-n: Li et al., 2016, doi:10.18653/v1/N16-1014, here of one text and with n = 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from harness.quality.answer import Answer
from harness.quality.texts import normalised, share_held, words

ABOUT = 0.25
"""A brief that asks for "about" so many words is kept within this share of them."""
NGRAM = 3
LOOP_TURNS = 4
"""A passage that comes so many times in a row is a loop."""
LONGEST_LOOP = 40
"""Words of a passage that is looked for."""

_HEADING = re.compile(
    r"^\s*(?:#{1,6}\s+(?P<hash>.+?)\s*#*|\*\*(?P<bold>[^*\n]{1,80})\*\*:?|(?P<plain>[^\n]{1,60}):)\s*$"
)
_NUMBERED = re.compile(r"^\s*(?:\d+[.)]|[ivx]+[.)])\s+", re.IGNORECASE)


def _count(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text, re.MULTILINE))


FORMS: dict[str, Callable[[str], bool]] = {
    "paragraphs": lambda text: len([part for part in re.split(r"\n\s*\n", text) if part.strip()]) >= 2,
    "headings": lambda text: len(headings(text)) >= 2,
    "list": lambda text: _count(r"^\s*(?:[-*•]|\d+[.)])\s+\S", text) >= 2,
    "numbered list": lambda text: _count(r"^\s*\d+[.)]\s+\S", text) >= 2,
    "table": lambda text: _count(r"^\s*\|.*\|\s*$", text) >= 2,
    "email": lambda text: bool(re.search(r"^\W*(?:subject\b|dear\b|hello\b|hi\b)", text, re.IGNORECASE | re.MULTILINE)),
    "markdown": lambda text: bool(re.search(r"^#{1,6}\s|\*\*|^\s*[-*]\s", text, re.MULTILINE)),
}
"""What a brief can ask for by name."""


def length(answer: Answer) -> float | None:
    """1 within the bounds of the brief, else the ratio to the nearer bound."""
    low, high = _bounds(answer)
    if low is None and high is None:
        return None
    count = len(answer.text.split())
    if low and count < low:
        return count / low
    return high / count if high is not None and count > high else 1.0


def _bounds(answer: Answer) -> tuple[float | None, float | None]:
    rubric, about = answer.expected.rubric, answer.expected.words
    if rubric is not None and (rubric.min_words is not None or rubric.max_words is not None):
        return rubric.min_words, rubric.max_words
    return (None, None) if about is None else ((1 - ABOUT) * about, (1 + ABOUT) * about)


def headings(text: str) -> list[str]:
    """Lines that are headings by their form: ``## So``, ``**So**`` or ``So:``."""
    found = (_HEADING.match(line) for line in text.splitlines())
    return [match["hash"] or match["bold"] or match["plain"] for match in found if match]


def structure(answer: Answer) -> float | None:
    """Share of the sections and forms asked for that the text has."""
    rubric = answer.expected.rubric
    if rubric is None:
        return None
    mine = [normalised(_NUMBERED.sub("", heading)) for heading in headings(answer.text)]
    kept = [any(normalised(section) in heading for heading in mine) for section in rubric.sections]
    asked = [form.strip().lower() for form in rubric.format.split("+")]
    kept += [FORMS[form](answer.text) for form in asked if form in FORMS]
    return sum(kept) / len(kept) if kept else None


def mentions(answer: Answer) -> float | None:
    rubric = answer.expected.rubric
    return share_held(answer.text, rubric.must_mention) if rubric is not None and rubric.must_mention else None


def distinct(answer: Answer) -> float | None:
    """Distinct trigrams over all of them; 0 for a text that runs in a loop. None for texts of under 20 words."""
    if answer.expected.kind not in ("content", "chatbot"):
        return None
    found = words(answer.text)
    if len(found) < 20:
        return None
    if loops(found):
        return 0.0
    grams = [tuple(found[place : place + NGRAM]) for place in range(len(found) - NGRAM + 1)]
    return len(set(grams)) / len(grams)


def loops(found: list[str]) -> bool:
    """Whether some passage comes :data:`LOOP_TURNS` times in a row."""
    numbers: dict[str, int] = {}
    codes = np.array([numbers.setdefault(word, len(numbers)) for word in found])
    for size in range(1, min(LONGEST_LOOP, len(found) // LOOP_TURNS) + 1):
        breaks = np.flatnonzero(codes[size:] != codes[:-size])
        edges = np.concatenate(([-1], breaks, [len(codes) - size]))
        if np.diff(edges).max() > size * (LOOP_TURNS - 1):  # words in a row that are those of one passage before
            return True
    return False
