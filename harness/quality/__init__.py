"""Scorers of answers: pure, each from 0 (worst) to 1 (best), None where a prompt says nothing to check by.

A new one is a function in a module of this package and a line in :data:`SCORERS`; its name is then good for
``quality(name) > 0.5`` in an SLA and for ``acceptable:`` in a scenario.
"""

from __future__ import annotations

from harness.quality import chatbot, common, content, translation
from harness.quality.answer import Answer as Answer
from harness.quality.answer import Scorer

SCORERS: dict[str, Scorer] = {
    "chrf": Scorer(
        "chrF of the answer against its references",
        translation.chrf,
        translation.chrf_signature,
        translation.corpus_chrf,
    ),
    "bleu": Scorer(
        "BLEU of the answer against its references",
        translation.bleu,
        translation.bleu_signature,
        translation.corpus_bleu,
    ),
    "language": Scorer("written in the language asked for", translation.language),
    "length_ratio": Scorer("as long as the nearest reference", translation.length_ratio),
    "translated": Scorer("no copy of the source", translation.translated),
    "facts": Scorer("required facts that are stated", chatbot.facts),
    "no_forbidden": Scorer("no forbidden statement", chatbot.no_forbidden),
    "no_refusal": Scorer("answers instead of declining", chatbot.no_refusal),
    "on_topic": Scorer("has a word of the topic", chatbot.on_topic),
    "polite": Scorer("polite in form", chatbot.polite),
    "length": Scorer("as long as the brief asks", content.length),
    "structure": Scorer("sections and forms asked for", content.structure),
    "mentions": Scorer("what the brief asks to mention", content.mentions),
    "distinct": Scorer("distinct trigrams, 0 for a loop", content.distinct),
    "complete": Scorer("not empty, not cut off", common.complete),
    "clean": Scorer("no template marks or broken characters", common.clean),
    "script": Scorer("letters of the right script", common.script),
}
"""Name to scorer, in the order of a report."""


def score(answer: Answer) -> dict[str, float | None]:
    """Every scorer's word on one answer."""
    return {name: scorer.score(answer) for name, scorer in SCORERS.items()}
