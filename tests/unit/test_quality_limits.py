"""What the scenarios' own limits tell apart: answers whose worth is known, scored as those of a run are."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from harness.catalog import WORKLOADS, load_catalog
from harness.dataset import read_workload
from harness.expected import Expected
from harness.quality import Answer, score
from harness.scored import EVERY_ANSWER
from harness.workload import prompt_sources

CATALOG = load_catalog()
POLICY = (
    "Thank you! Returns are possible within 30 days of delivery, free of charge; the refund follows within 7 days of"
    " arrival. Delivery takes 3-5 working days, with a tracking link by email, free from 50 euros. The warranty is 24"
    " months from delivery. Our support staff is there Monday to Friday, 9:00-18:00. Please send your order number."
)
STAFF = (
    "I'm sorry, I don't have that information. Please send me your order number, or contact our support staff, Monday"
    " to Friday, 9:00-18:00."
)
SYLLABLES = ("ka", "lo", "mi", "nu", "pe", "ra", "si", "to", "vu", "we")


def prompts(scenario: str) -> dict[str, tuple[str, Expected]]:
    """Of every prompt, by its id: the message, and what is expected."""
    workload = CATALOG.scenario(scenario).workload
    source = prompt_sources(workload, read_workload(workload))(random.Random(1))
    drawn = (source.next("an answer") for _ in range(600))
    return {each.prompt_id: (each.messages[-1].content, Expected.model_validate(each.expected)) for each in drawn}


def limit_of(scenario: str, metric: str) -> float:
    return next(check.limit for check in CATALOG.scenario(scenario).sla if check.metric == metric)


def acceptable(scenario: str, found: dict[str, float | None]) -> bool:
    quality = CATALOG.scenario(scenario).quality
    limits = quality.acceptable if quality is not None else EVERY_ANSWER
    return all(value is None or value >= limits[name] for name, value in found.items() if name in limits)


def lines(path: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


# The chatbot ------------------------------------------------------------------------------------


def mean_facts(answers: Iterable[tuple[str, str]]) -> float:
    asked = prompts("chatbot")
    found = [score(Answer(text, *asked[prompt_id], "stop"))["facts"] for prompt_id, text in answers]
    return fmean(value for value in found if value is not None)


def test_the_chatbots_limit_takes_right_answers_in_words_of_their_own() -> None:
    own = lines(Path(__file__).parent / "support_answers.jsonl")
    models = lines(WORKLOADS / "support.references.jsonl")
    limit = limit_of("chatbot", "facts")
    assert mean_facts((prompt_id, row["answer"]) for prompt_id, row in own.items()) > limit + 0.2
    assert mean_facts((prompt_id, row["reference"]) for prompt_id, row in models.items()) == 1.0


@pytest.mark.parametrize(("answer", "share"), [(POLICY, 0.54), (STAFF, 0.45), ("", 0.0)])
def test_the_chatbots_limit_refuses_one_answer_to_everything(answer: str, share: float) -> None:
    """The shares are those that the scenario's own reason names."""
    found = mean_facts((prompt_id, answer) for prompt_id in prompts("chatbot"))
    assert found == pytest.approx(share, abs=0.005)
    assert found < limit_of("chatbot", "facts") - 0.1


# Content ----------------------------------------------------------------------------------------


def filler(count: int) -> list[str]:
    """Words of no language, none of which comes twice."""
    return ["".join(SYLLABLES[int(digit)] for digit in f"{number:04d}") for number in range(count)]


def kept(expected: Expected) -> str:
    """A text that does what can be checked of its brief, and says nothing."""
    rubric = expected.rubric
    assert rubric is not None
    assert rubric.min_words is not None
    parts = [f"## {section}" for section in (*rubric.sections, "One", "Two")]
    parts += ["1. first\n2. second\n3. third", "| a | b |\n| - | - |\n| c | d |"]
    parts += [" ".join((*(each.any[0] for each in rubric.must_mention), *expected.topic_words)) + "."]
    missing = rubric.min_words + 20 - sum(len(part.split()) for part in parts)
    parts += [" ".join(filler(missing)) + "."]
    return "\n\n".join(parts)


def first_half(text: str) -> str:
    words = text.split(" ")
    return " ".join(words[: len(words) // 2])


def loop(text: str) -> str:
    return "We are happy to tell you all about it. " * (len(text.split()) // 9)


SPOILT: dict[str, Callable[[str], str]] = {
    "cut in half": first_half,
    "a loop of the right length": loop,
    "of another brief": lambda text: " ".join(filler(len(text.split()))),
    "declined": lambda text: "I'm sorry, but I can't help with that.\n\n" + text,
    "with a template's marks": lambda text: text + "<|im_end|>",
}


def test_a_text_that_keeps_its_brief_is_acceptable_although_it_was_cut_off_at_its_end() -> None:
    """The brief may fill the scenario's tokens."""
    asked = prompts("content")
    assert len(asked) == 60
    good = [
        acceptable("content", score(Answer(kept(wanted), text, wanted, "length"))) for text, wanted in asked.values()
    ]
    assert fmean(good) > limit_of("content", "good_share") + 0.15


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_text_is_not_acceptable(how: str) -> None:
    for prompt_id, (text, wanted) in prompts("content").items():
        found = score(Answer(SPOILT[how](kept(wanted)), text, wanted, "stop"))
        assert not acceptable("content", found), (prompt_id, found)
