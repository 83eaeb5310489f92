"""What to run: per scenario the pick, why, what comes next, and what would change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.judgement import Mark
from harness.recommend import Recommendation
from reports import figures

RESTS_ON_CLAIM = "this rests on a replayed claim, which its own measurement cannot confirm"


@dataclass(frozen=True, slots=True)
class Known:
    """What the page knows of one stack in one scenario: its title, its section and its marks."""

    title: str
    href: str = ""
    badges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Linked:
    """A stack by name, linked to its numbers, with what is said of it."""

    title: str
    href: str
    badges: tuple[str, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Advice:
    anchor: str
    scenario: str
    sentence: str
    badges: tuple[str, ...]
    picked: Linked | None
    runner_up: Linked | None
    nearest: Linked | None
    reasons: tuple[str, ...]
    binding: str
    headroom: str
    fallback: tuple[str, ...]
    price_notes: tuple[str, ...]
    ties: tuple[Linked, ...]
    dropped: tuple[Linked, ...]
    flips: tuple[str, ...]
    variants: str


def build(recommendation: Recommendation, scenario: str, anchor: str, stacks: Mapping[str, Known]) -> Advice:
    """``stacks`` are those judged in this scenario, by name; one that was not is named without a link."""

    def linked(name: str | None, text: str = "") -> Linked | None:
        if name is None:
            return None
        known = stacks.get(name, Known(name))
        return Linked(known.title, known.href, known.badges, text)

    return Advice(
        anchor=anchor,
        scenario=scenario,
        sentence=lead(recommendation),
        badges=marks(recommendation, stacks),
        picked=linked(recommendation.pick, _replicas(recommendation)),
        runner_up=linked(recommendation.runner_up),
        nearest=linked(recommendation.nearest, recommendation.gap),
        reasons=recommendation.reasons,
        binding=recommendation.binding,
        headroom=recommendation.headroom,
        fallback=recommendation.fallback,
        price_notes=recommendation.price_notes,
        ties=tuple(each for name in recommendation.ties if (each := linked(name)) is not None),
        dropped=tuple(each for name, why in recommendation.dropped.items() if (each := linked(name, why)) is not None),
        flips=recommendation.flips,
        variants=", ".join(recommendation.variants),
    )


def sentence(recommendation: Recommendation) -> str:
    """Say in the same breath when a pick rests on a claim, whoever wrote the sentence."""
    text = recommendation.sentence.removeprefix(f"{recommendation.scenario}: ")
    text = text[:1].upper() + text[1:]
    if recommendation.pick is None or not recommendation.rests_on_claim or "claim" in text.lower():
        return text
    return f"{text.rstrip('. ')}; {RESTS_ON_CLAIM}."


def lead(recommendation: Recommendation) -> str:
    """The sentence where the stacks worth trying are listed below it: here they are counted."""
    said, found, _ = sentence(recommendation).partition(" Physics allows ")
    if not found:
        return said
    many = len(recommendation.variants)
    return f"{said} By physics {figures.count(many)} more {'stack' if many == 1 else 'stacks'} could pass."


def details(recommendation: Recommendation) -> tuple[str, ...]:
    """What a terminal says after the sentence."""
    return tuple(
        f"{label}: {text}"
        for label, texts in (
            ("gives way first", (recommendation.binding,)),
            ("headroom", (recommendation.headroom,)),
            ("would change it", recommendation.flips),
            ("own machines or API", recommendation.fallback),
            ("prices", recommendation.price_notes),
        )
        for text in texts
        if text
    )


def marks(recommendation: Recommendation, stacks: Mapping[str, Known]) -> tuple[str, ...]:
    """Marks of the stack that the sentence speaks of."""
    about = recommendation.pick or recommendation.nearest
    found = stacks[about].badges if about is not None and about in stacks else ()
    said = {
        Mark.EMULATED.value: recommendation.rests_on_emulation,
        Mark.CLAIM_REPLAYED.value: recommendation.rests_on_claim,
    }
    return tuple(dict.fromkeys([*found, *(mark for mark, holds in said.items() if holds)]))


def _replicas(recommendation: Recommendation) -> str:
    return "" if recommendation.replicas == 1 else f"{figures.count(recommendation.replicas)} of them"
