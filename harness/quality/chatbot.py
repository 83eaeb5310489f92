"""An answer to a customer: facts it must and must not state, whether it answers at all, and how it speaks.

Matching knows synonyms and no grammar: "not within 30 days" holds "within 30 days". A forbidden statement is therefore
written out as a phrase.
"""

from __future__ import annotations

import re

from harness.quality.answer import Answer
from harness.quality.texts import holds, normalised, share_held

_REFUSALS = tuple(
    normalised(phrase).strip()
    for phrase in (
        "i cannot help with that", "i can't help with that", "i cannot assist", "i can't assist",
        "i am unable to assist", "i'm unable to assist", "i am unable to help", "i'm unable to help",
        "i am not able to help", "i'm not able to help", "i cannot answer", "i can't answer",
        "i cannot provide", "i can't provide", "i cannot fulfill", "i can't fulfill", "i cannot comply",
        "as an ai", "as a language model", "as a large language model", "i'm just an ai", "i'm sorry but i can't",
        "i'm sorry but i cannot", "i am sorry but i can't", "i am sorry but i cannot", "i won't be able to help",
    )
)  # fmt: skip
_RUDE = tuple(
    normalised(phrase).strip()
    for phrase in (
        "shut up", "stupid", "idiot", "moron", "dumb", "nonsense", "calm down", "not my problem", "your own fault",
        "whatever", "go away", "stop bothering", "i don't care", "read the manual", "obviously you", "damn", "hell no",
        "wtf", "crap",
    )
)  # fmt: skip
_ADDRESS = re.compile(
    r" (?:you|your|yours|please|thank|thanks|sorry|apologi[sz]e|apologies|welcome|happy to|glad to|hello|hi|dear) "
)
_SHOUTED_WORDS = 4
"""So many words of capital letters in a row are shouting; an order number or VAT is not."""
_SHOUTING = re.compile(rf"(?:\b[A-Z]{{2,}}\b[\s,.!?]*){{{_SHOUTED_WORDS},}}|[!?]{{3,}}")


def facts(answer: Answer) -> float | None:
    """Share of the required facts that the answer states."""
    wanted = answer.expected.facts
    return share_held(answer.text, wanted) if wanted else None


def no_forbidden(answer: Answer) -> float | None:
    """0 when one forbidden statement is made."""
    forbidden = answer.expected.forbidden
    if not forbidden:
        return None
    plain = normalised(answer.text)
    return 0.0 if any(holds(plain, each) for each in forbidden) else 1.0


def no_refusal(answer: Answer) -> float | None:
    """0 for an answer that declines to be one; to send the customer to the staff is none."""
    if answer.expected.kind not in ("chatbot", "content"):
        return None
    plain = normalised(answer.text)
    return 0.0 if any(f" {phrase} " in plain for phrase in _REFUSALS) else 1.0


def on_topic(answer: Answer) -> float | None:
    """1 when a word of the topic is in the answer."""
    topic = answer.expected.topic_words
    if not topic:
        return None
    plain = normalised(answer.text)
    return 1.0 if any(normalised(word) in plain for word in topic) else 0.0


def polite(answer: Answer) -> float | None:
    """Of form alone: the share kept of no rude phrase, no shouting, and a word that speaks to the customer."""
    if answer.expected.kind != "chatbot":
        return None
    plain = normalised(answer.text)
    kept = (
        not any(f" {phrase} " in plain for phrase in _RUDE),
        not _SHOUTING.search(answer.text),
        bool(_ADDRESS.search(plain)),
    )
    return sum(kept) / len(kept)
