"""One answer with what is expected of it, as every scorer takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.expected import Expected


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    prompt: str
    """The user's last message."""
    expected: Expected
    finish_reason: str = ""


@dataclass(frozen=True, slots=True)
class Scorer:
    """``score`` gives 0 (worst) to 1 (best); None where the prompt says nothing that could be checked."""

    about: str
    score: Callable[[Answer], float | None]
    signature: Callable[[], str] = str
    """Of a published metric: version and every setting, as its authors write it."""
    corpus: Callable[[list[Answer]], float | None] | None = None
    """The figure over a whole set that is published, where it is not the mean over answers; 0 to 1."""
