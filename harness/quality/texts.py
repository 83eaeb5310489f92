"""Texts as they are compared: one spelling for what differs only in case, accents, punctuation or spaces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from harness.expected import AnyOf

_THOUSANDS = re.compile(r"(?<=\d)[,.'\u00a0\u202f](?=\d{3}\b)")
_NOT_WORD = re.compile(r"[^\w%€$£+]+|_+")


@lru_cache(maxsize=4096)
def normalised(text: str) -> str:
    """Lower case without accents, thousands separators and punctuation; single spaces, one at each end.

    >>> normalised("Within 30-days, FREE of  charge!")
    ' within 30 days free of charge '
    """
    plain = text.casefold()
    if not plain.isascii():
        plain = unicodedata.normalize("NFKD", plain)
        plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    plain = _THOUSANDS.sub("", plain)
    plain = re.sub(r"(?<=[^\W\d_])['\u2019](?=[^\W\d_])", "", plain)  # don't and don\u2019t are dont
    return f" {_NOT_WORD.sub(' ', plain).strip()} "


def holds(plain: str, wanted: AnyOf) -> bool:
    """Whether a normalised text has one of the synonyms, as whole words."""
    return any(normalised(synonym) in plain for synonym in wanted.any if normalised(synonym).strip())


def share_held(text: str, wanted: Iterable[AnyOf]) -> float:
    plain = normalised(text)
    found = [holds(plain, each) for each in wanted]
    return sum(found) / len(found)


def words(text: str) -> list[str]:
    return normalised(text).split()
