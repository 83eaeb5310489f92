"""A translation against its references: chrF and BLEU (sacrebleu), language, length, and copies of the source.

chrF: Popovic, 2015, doi:10.18653/v1/W15-3049. BLEU: Papineni et al., 2002, doi:10.3115/1073083.1073135; of one sentence
with its effective order. Signatures: Post, 2018, doi:10.18653/v1/W18-6319.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING

from harness.quality.answer import Answer
from harness.quality.texts import normalised

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

FEWEST_LETTERS = 12
"""Shorter texts ("Taxi?") belong to many languages at once."""
COPY_SHARE = 0.8
"""chrF of an answer against its own source from which it is a copy, when its reference is further away."""


@cache
def _chrf() -> CHRF:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


@cache
def _bleu() -> BLEU:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True)


@lru_cache(maxsize=4)
def _identifier(languages: tuple[str, ...]) -> LanguageIdentifier:
    """Reading the model takes most of a second; a set has one list of languages."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(list(languages))
    return identifier


def chrf(answer: Answer) -> float | None:
    references = answer.expected.reference
    return _share(_chrf().sentence_score(answer.text, references).score) if references else None


def bleu(answer: Answer) -> float | None:
    references = answer.expected.reference
    return _share(_bleu().sentence_score(answer.text, references).score) if references else None


def _share(percent: float) -> float:
    """Of a BLEU that is 100.00000000000004 by rounding, too."""
    return min(1.0, float(percent) / 100)


def chrf_signature() -> str:
    return _signature(_chrf())


def bleu_signature() -> str:
    return _signature(_bleu())


def _signature(metric: CHRF | BLEU) -> str:
    metric.sentence_score("a", ["a"])  # the number of references is known to it only then
    return str(metric.get_signature())


def corpus_chrf(answers: list[Answer]) -> float | None:
    return _corpus(_chrf(), answers)


def corpus_bleu(answers: list[Answer]) -> float | None:
    return _corpus(_bleu(), answers)


def _corpus(metric: CHRF | BLEU, answers: list[Answer]) -> float | None:
    """Over all answers that have a reference; where some have more than one, over the first of each."""
    known = [answer for answer in answers if answer.expected.reference]
    if not known:
        return None
    most = max(len(answer.expected.reference) for answer in known)
    even = all(len(answer.expected.reference) == most for answer in known)
    streams = [[answer.expected.reference[place] for answer in known] for place in range(most if even else 1)]
    return _share(metric.corpus_score([answer.text for answer in known], streams).score)


def language(answer: Answer) -> float | None:
    """1 when the text is of the language asked for rather than of any other of the set."""
    target = answer.expected.target_language
    if not target:
        return None
    if sum(letter.isalpha() for letter in answer.text) < FEWEST_LETTERS:
        return None if answer.text.strip() else 0.0
    found, _ = _identifier(_candidates(answer)).classify(answer.text)
    return 1.0 if found == target else 0.0


def _candidates(answer: Answer) -> tuple[str, ...]:
    expected = answer.expected
    known = {"en", expected.source_language, expected.target_language, *expected.languages}
    return tuple(sorted(known - {""}))


def length_ratio(answer: Answer) -> float | None:
    """The shorter of answer and nearest reference over the longer, in characters: 1 for the same length."""
    sizes = [len(reference) for reference in answer.expected.reference]
    mine = len(answer.text.strip())
    return max(min(mine, size) / max(mine, size, 1) for size in sizes) if sizes else None


def translated(answer: Answer) -> float | None:
    """0 for a text that is the source, or nearer to it than to any reference."""
    expected = answer.expected
    if not expected.target_language or expected.target_language == expected.source_language:
        return None
    if normalised(answer.text) == normalised(answer.prompt):
        return 1.0 if any(normalised(each) == normalised(answer.text) for each in expected.reference) else 0.0
    to_source = _share(_chrf().sentence_score(answer.text, [answer.prompt]).score)
    to_reference = chrf(answer)
    return 0.0 if to_source >= COPY_SHARE and (to_reference is None or to_reference < to_source) else 1.0
