"""What any answer must be: there, whole, in the right script, and without the machinery showing."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from harness.quality.answer import Answer

LONG_ENOUGH = 20
"""Words from which prose without any end mark counts as cut off, where the server does not say why it stopped."""
_ENDS = tuple(".!?…:;)]}\"'»”’*`|\u3002\uff01\uff1f-")
SCRIPTS = {
    **dict.fromkeys(("el",), "GREEK"),
    **dict.fromkeys(("ru", "uk", "bg", "sr"), "CYRILLIC"),
    **dict.fromkeys(("zh",), "CJK"),
    **dict.fromkeys(("ko",), "HANGUL"),
    **dict.fromkeys(("ar", "fa"), "ARABIC"),
    **dict.fromkeys(("he",), "HEBREW"),
    **dict.fromkeys(("hi",), "DEVANAGARI"),
}
"""First word of the Unicode names of a language's letters; a language that is not here is written in Latin ones."""
_SEVERAL = {"ja"}
_LEAKS = re.compile(
    r"<\|[a-z_]+\|>|<\|?/?(?:im_start|im_end|endoftext|start_of_turn|end_of_turn)\|?>|\[/?INST\]|<</?SYS>>|</?s>"
    r"|</?think>|\{\{|\}\}|\{%|%\}|^\s*###? ?(?:instruction|response|system|user|assistant)\b"
    r"|^\s*(?:system|user|assistant|human)\s*:|\ufffd",
    re.IGNORECASE | re.MULTILINE,
)
_LANGUAGE_MARK = re.compile(r">>[a-z]{2,3}<<")


def complete(answer: Answer) -> float:
    """1 for an answer that is there and came to its own end; 0 for an empty one and one that was cut off."""
    text = answer.text.strip()
    if not text or answer.finish_reason == "length":
        return 0.0
    if not answer.finish_reason and len(text.split()) >= LONG_ENOUGH and not text.endswith(_ENDS):
        return 0.0
    return 1.0


def clean(answer: Answer) -> float:
    """0 when a mark of a chat template, a placeholder or a broken character is in the text."""
    return 0.0 if _LEAKS.search(answer.text) or _LANGUAGE_MARK.search(answer.text) else 1.0


def script(answer: Answer) -> float | None:
    """Share of the letters that belong to the script of the language asked for; 0 without a letter."""
    language = answer.expected.target_language or "en"
    if language in _SEVERAL:
        return None
    letters = {letter: count for letter, count in Counter(answer.text).items() if letter.isalpha()}
    wanted = SCRIPTS.get(language, "LATIN")
    right = sum(count for letter, count in letters.items() if unicodedata.name(letter, "").startswith(wanted))
    return right / sum(letters.values()) if letters else 0.0
