"""Prompts: an endless, seeded sequence of them for each user.

Pure: the texts come in as :class:`~harness.dataset.WorkloadData`, chance as a seeded generator.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any

import jinja2
from typing_extensions import override

from harness.dataset import WorkloadData
from harness.expected import as_written, expected_of
from harness.experiments import Zipf
from harness.records import Message, Prompt
from harness.spec import Workload

LANGUAGES = {
    "en": "English",
    "fr": "French",
    "de": "German",
    "es": "Spanish",
    "it": "Italian",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "sv": "Swedish",
}
"""Names used in prompts; a code that is not here is used as it is."""

_VOCABULARY = (
    "time year people way day man thing woman life child world school state family student group country problem "
    "hand part place case week company system program question work government number night point home water room "
    "mother area money story fact month lot right study book eye job word business issue side kind head house service"
)


_STAND_IN = "Thank you for your message. I have looked into it and will tell you what we can do next."


class PromptSource(ABC):
    """One user's prompts. A source is endless; it starts over in a new order."""

    @abstractmethod
    def next(self, answer: str | None) -> Prompt:
        """Return the next prompt; ``answer`` is the text of the last one, None after a failure or at the start."""


class _Deck:
    """Draws all of n cards in a random order before any comes again."""

    def __init__(self, size: int, rng: random.Random) -> None:
        self._order = list(range(size))
        self._rng = rng
        self._left: list[int] = []

    def draw(self) -> int:
        if not self._left:
            self._left = self._order.copy()
            self._rng.shuffle(self._left)
        return self._left.pop()


class _SingleTurn(PromptSource):
    def __init__(self, prompts: list[Prompt], rng: random.Random) -> None:
        self._prompts = prompts
        self._deck = _Deck(len(prompts), rng)

    @override
    def next(self, answer: str | None) -> Prompt:
        return self._prompts[self._deck.draw()]


class _Popular(PromptSource):
    """Prompts that come again (:class:`~harness.experiments.Zipf`), some of them as nobody sent them before."""

    def __init__(self, prompts: list[Prompt], repeat: Zipf, rng: random.Random) -> None:
        self._prompts = prompts
        self._up_to = list(accumulate(1 / rank**repeat.exponent for rank in range(1, len(prompts) + 1)))
        self._fresh = repeat.fresh
        self._rng = rng

    @override
    def next(self, answer: str | None) -> Prompt:
        (prompt,) = self._rng.choices(self._prompts, cum_weights=self._up_to)
        if self._rng.random() >= self._fresh:
            return prompt
        number = f"{self._rng.getrandbits(48):012x}"
        *before, last = prompt.messages
        asked = Message(last.role, f"Reference {number}. {last.content}")
        return replace(prompt, prompt_id=f"{prompt.prompt_id}#{number}", messages=(*before, asked))


class _Conversations(PromptSource):
    """Turns with growing history; the model's own answers are the history's other half.

    A user joins in the middle, as a population of users is found at any moment: were all to start at their
    first turn, prompts would grow for the first minutes of every run. The turns before have stand-ins for answers.
    After a failed turn the conversation is given up and the next one begins, as a customer would.
    """

    def __init__(self, conversations: list[_Conversation], rng: random.Random) -> None:
        self._conversations = conversations
        self._rng = rng
        self._deck = _Deck(len(conversations), rng)
        self._turn = 0
        self._current: _Conversation | None = None
        self._history: tuple[Message, ...] = ()

    @override
    def next(self, answer: str | None) -> Prompt:
        current = self._current
        if current is None:
            current = self._join()
        elif answer is None or self._turn >= len(current.turns):
            current = self._conversations[self._deck.draw()]
            self._turn, self._history = 0, current.opening
        else:
            self._history = (*self._history, Message("assistant", answer))
        self._current = current
        self._history = (*self._history, Message("user", current.turns[self._turn]))
        self._turn += 1
        return current.prompt(self._turn, self._history)

    def _join(self) -> _Conversation:
        """Draw a conversation in proportion to its length, at any of its turns alike."""
        lengths = [len(conversation.turns) for conversation in self._conversations]
        current = self._rng.choices(self._conversations, weights=lengths)[0]
        self._turn = self._rng.randrange(len(current.turns))
        self._history = current.opening
        for turn in current.turns[: self._turn]:
            stand_in = Message("assistant", _stand_in(current.workload.output_tokens))
            self._history = (*self._history, Message("user", turn), stand_in)
        return current


class _Conversation:
    def __init__(
        self,
        entry: dict[str, Any],
        opening: tuple[Message, ...],
        turns: list[str],
        workload: Workload,
        known: Mapping[str, dict[str, Any]],
    ) -> None:
        self.entry = entry
        self.opening = opening
        self.turns = turns
        self.workload = workload

        # Facts are those of the question that opens the conversation; what it is about stays through all turns.
        first = expected_of(entry, kind="chatbot")
        later = first.model_copy(update={"reference": (), "facts": (), "forbidden": (), "rubric": None, "words": None})
        own = {turn: known.get(f"{entry['id']}/{turn}") for turn in range(1, len(turns) + 1)}
        self._expected = {
            turn: as_written(expected_of(beside, kind="chatbot") if beside else first if turn == 1 else later)
            for turn, beside in own.items()
        }

    def prompt(self, turn: int, messages: tuple[Message, ...]) -> Prompt:
        return _prompt(f"{self.entry['id']}/{turn}", messages, self.workload, self.entry, self._expected[turn])


class _Synthetic(PromptSource):
    """Seeded words, about one token each for common English words."""

    def __init__(self, workload: Workload, rng: random.Random) -> None:
        self._workload = workload
        self._rng = rng
        self._count = 0

    @override
    def next(self, answer: str | None) -> Prompt:
        self._count += 1
        words = " ".join(self._rng.choices(_VOCABULARY.split(), k=self._workload.input_tokens or 1))
        return _prompt(f"synthetic-{self._count}", (Message("user", words),), self._workload, {})


def prompt_sources(workload: Workload, data: WorkloadData) -> Callable[[random.Random], PromptSource]:
    """Render everything that can be rendered once, and return a factory of one source per user."""
    match workload.kind:
        case "synthetic":
            return lambda rng: _Synthetic(workload, rng)
        case "conversation":
            conversations = list(_conversations(workload, data))
            if workload.repeat is None:
                return lambda rng: _Conversations(conversations, rng)
            prompts = [each.prompt(1, (*each.opening, Message("user", each.turns[0]))) for each in conversations]
        case "brief":
            prompts = list(_briefs(workload, data))
        case "translation":
            prompts = list(_translations(workload, data))
        case "dataset":
            prompts = [_dataset_prompt(entry, workload) for entry in data.entries]
    repeat = workload.repeat
    if repeat is not None:
        return lambda rng: _Popular(prompts, repeat, rng)
    return lambda rng: _SingleTurn(prompts, rng)


def _stand_in(tokens: int) -> str:
    """An answer nobody gave, about as long as those asked for: English has some four tokens to three words."""
    words = _STAND_IN.split()
    return " ".join(words[index % len(words)] for index in range(max(1, round(0.75 * tokens))))


def _environment() -> jinja2.Environment:
    # Prompts are plain text for a model, not HTML: escaping would change them.
    return jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)


def _render(template: str, values: dict[str, Any]) -> str:
    return _environment().from_string(template).render(values).strip()


def _opening(data: WorkloadData, values: dict[str, Any]) -> tuple[Message, ...]:
    return (Message("system", _render(data.system_template, values)),) if data.system_template else ()


def _conversations(workload: Workload, data: WorkloadData) -> Iterator[_Conversation]:
    template = data.user_template or "{{ message }}"
    for entry in data.entries:
        turns = [_render(template, {**entry, "message": turn}) for turn in entry["turns"]]
        yield _Conversation(entry, _opening(data, entry), turns, workload, data.expected)


def _briefs(workload: Workload, data: WorkloadData) -> Iterator[Prompt]:
    template = data.user_template or "{{ brief }}"
    for entry in data.entries:
        messages = (*_opening(data, entry), Message("user", _render(template, entry)))
        expected = expected_of({**entry, **data.expected.get(str(entry["id"]), {})}, kind="content")
        yield _prompt(str(entry["id"]), messages, workload, entry, as_written(expected))


def _translations(workload: Workload, data: WorkloadData) -> Iterator[Prompt]:
    template = data.user_template or "{{ text }}"
    languages = sorted({language for entry in data.entries for language in _languages(entry, workload)})
    for entry in data.entries:
        source, *targets = _languages(entry, workload)
        for target in targets:
            values = {
                **entry,
                "source": source,
                "target": target,
                "source_name": LANGUAGES.get(source, source),
                "target_name": LANGUAGES.get(target, target),
            }
            messages = (*_opening(data, values), Message("user", _render(template, values)))
            known = {"kind": "translation", "source_language": source, "target_language": target}
            beside = data.expected.get(f"{entry['id']}/{target}", {})
            own = entry.get("reference") or entry.get("references", {}).get(target, ())
            said = {"reference": own, "split": entry.get("split", ""), **beside}
            expected = expected_of(said, **known, languages=languages)
            yield _prompt(f"{entry['id']}/{target}", messages, workload, entry, as_written(expected))


def _languages(entry: dict[str, Any], workload: Workload) -> tuple[str, ...]:
    """The source's, then the targets': the entry's own where it has one reference, else the workload's."""
    own = entry.get("target_language")
    return (str(entry.get("source_language", "en")), *((str(own),) if own else workload.target_languages))


def _dataset_prompt(entry: dict[str, Any], workload: Workload) -> Prompt:
    if "prompt" in entry:
        messages: tuple[Message, ...] = (Message("user", entry["prompt"]),)
    else:
        messages = tuple(Message(message["role"], message["content"]) for message in entry["messages"])
    asked = entry.get("output_tokens")
    if isinstance(asked, int) and asked > 0:
        workload = workload.model_copy(update={"output_tokens": asked})
    return _prompt(str(entry["id"]), messages, workload, entry, as_written(expected_of(entry, kind=_kind(entry))))


def _kind(entry: dict[str, Any]) -> str:
    """What a user's own prompt is, by what it expects."""
    if entry.get("target_language"):
        return "translation"
    if entry.get("rubric") or entry.get("words"):
        return "content"
    return "chatbot" if any(entry.get(name) for name in ("facts", "forbidden", "topic_words")) else ""


def _prompt(
    prompt_id: str,
    messages: tuple[Message, ...],
    workload: Workload,
    entry: dict[str, Any],
    expected: dict[str, Any] | None = None,
) -> Prompt:
    return Prompt(
        prompt_id=prompt_id,
        messages=messages,
        output_tokens=workload.output_tokens,
        forced=workload.output_length == "forced",
        difficulty=str(entry.get("difficulty", "")),
        expected=expected or {},
    )
