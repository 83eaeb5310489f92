"""Scorers on cases whose answer is known: what is right scores near 1, what is shuffled, foreign or broken near 0."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.catalog import load_catalog
from harness.dataset import read_workload
from harness.expected import Expected
from harness.objective import SCORES
from harness.quality import SCORERS, Answer, score
from harness.quality import translation as of_translation
from harness.quality.content import loops
from harness.quality.texts import normalised
from harness.workload import prompt_sources

UNHURRIED = settings(deadline=None)


def catalog_translations() -> list[Answer]:
    """Every sentence of the scenario in every language, with its reference as the answer."""
    workload = load_catalog().scenario("translation").workload
    source = prompt_sources(workload, read_workload(workload))(random.Random(1))
    prompts = {prompt.prompt_id: prompt for prompt in (source.next(None) for _ in range(180))}
    answers = []
    for prompt in prompts.values():
        expected = Expected.model_validate(prompt.expected)
        answers.append(Answer(expected.reference[0], prompt.messages[-1].content, expected, "stop"))
    return answers


TRANSLATIONS = catalog_translations()


def mean(name: str, answers: list[Answer]) -> float:
    scores = [found for answer in answers if (found := SCORERS[name].score(answer)) is not None]
    assert len(scores) > 0.9 * len(answers)
    return sum(scores) / len(scores)


def with_text(answer: Answer, text: str) -> Answer:
    return Answer(text, answer.prompt, answer.expected, answer.finish_reason)


def shuffled() -> list[Answer]:
    """Each answer is that of another sentence, in the right language."""
    by_language: dict[str, list[Answer]] = {}
    for answer in TRANSLATIONS:
        by_language.setdefault(answer.expected.target_language, []).append(answer)
    return [
        with_text(answer, group[(place + 1) % len(group)].text)
        for group in by_language.values()
        for place, answer in enumerate(group)
    ]


def foreign() -> list[Answer]:
    """Each answer is the right sentence in another language of the set."""
    by_sentence: dict[str, list[Answer]] = {}
    for answer in TRANSLATIONS:
        by_sentence.setdefault(answer.prompt, []).append(answer)
    return [
        with_text(answer, group[(place + 1) % len(group)].text)
        for group in by_sentence.values()
        for place, answer in enumerate(group)
    ]


# Translation ----------------------------------------------------------------------------------


def test_references_score_one() -> None:
    assert mean("chrf", TRANSLATIONS) == pytest.approx(1)
    assert mean("bleu", TRANSLATIONS) == pytest.approx(1)
    assert mean("length_ratio", TRANSLATIONS) == 1
    assert mean("translated", TRANSLATIONS) == 1
    assert mean("language", TRANSLATIONS) > 0.95
    assert mean("script", TRANSLATIONS) == mean("clean", TRANSLATIONS) == mean("complete", TRANSLATIONS) == 1


def test_shuffled_answers_score_near_zero_but_are_of_the_language() -> None:
    assert mean("chrf", shuffled()) < 0.25
    assert mean("bleu", shuffled()) < 0.1
    assert mean("language", shuffled()) > 0.95


def test_answers_in_another_language_score_near_zero() -> None:
    assert mean("chrf", foreign()) < 0.3
    assert mean("bleu", foreign()) < 0.1
    assert mean("language", foreign()) < 0.05


def test_copies_of_the_source_are_found() -> None:
    copies = [with_text(answer, answer.prompt) for answer in TRANSLATIONS]
    assert mean("translated", copies) == 0
    assert mean("language", copies) < 0.05
    assert mean("translated", [with_text(answer, answer.prompt.upper() + "!") for answer in TRANSLATIONS]) == 0


def test_a_name_that_is_the_same_in_both_languages_is_no_copy() -> None:
    expected = Expected(kind="translation", source_language="en", target_language="fr", reference=("Taxi !",))
    assert SCORERS["translated"].score(Answer("Taxi!", "Taxi?", expected)) == 1
    assert SCORERS["language"].score(Answer("Taxi!", "Taxi?", expected)) is None, "too short to tell"
    assert SCORERS["language"].score(Answer("", "Taxi?", expected)) == 0


def test_the_figures_are_those_of_sacrebleu_with_its_signature() -> None:
    import sacrebleu

    answers = shuffled()[:40]
    texts, references = [each.text for each in answers], [list(each.expected.reference) for each in answers]
    assert {len(each) for each in references} == {2}
    streams = [list(stream) for stream in zip(*references, strict=True)]
    chrf, bleu = SCORERS["chrf"], SCORERS["bleu"]
    assert chrf.corpus is not None
    assert bleu.corpus is not None
    assert chrf.corpus(answers) == pytest.approx(sacrebleu.corpus_chrf(texts, streams).score / 100)
    assert bleu.corpus(answers) == pytest.approx(
        sacrebleu.corpus_bleu(texts, streams, use_effective_order=True).score / 100
    )
    for text, reference, answer in zip(texts, references, answers, strict=True):
        assert chrf.score(answer) == pytest.approx(sacrebleu.sentence_chrf(text, reference).score / 100)
    assert chrf.signature().startswith("nrefs:")
    assert chrf.signature().endswith(f"|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{sacrebleu.__version__}")
    assert "|case:mixed|eff:yes|tok:13a|smooth:exp|version:" in bleu.signature()
    assert chrf.corpus([]) is None


def test_the_best_of_several_references_counts() -> None:
    one = Expected(kind="translation", target_language="fr", reference=("Bonjour à tous.",))
    two = one.model_copy(update={"reference": ("Salut tout le monde.", "Bonjour à tous.")})
    for name in ("chrf", "bleu", "length_ratio"):
        assert SCORERS[name].score(Answer("Bonjour à tous.", "Hello all.", two)) == pytest.approx(1)
        assert SCORERS[name].score(Answer("Salut tout le monde.", "Hello all.", one)) != pytest.approx(1)
    assert of_translation.corpus_chrf([Answer("Bonjour à tous.", "x", two), Answer("x", "x", one)]) is not None


# Chatbot --------------------------------------------------------------------------------------

QUESTION = {
    "kind": "chatbot",
    "facts": [{"any": ["30 days", "thirty days"]}, {"any": ["free of charge", "free", "no cost"]}],
    "forbidden": [{"any": ["14 days", "fourteen days"]}],
    "topic_words": ["return", "refund"],
}
GOOD = "Thank you for asking. You can return it within 30-days of delivery, FREE of charge."


def chatbot(text: str, **changes: Any) -> dict[str, float | None]:
    return score(Answer(text, "Can I return it?", Expected.model_validate({**QUESTION, **changes}), "stop"))


def test_a_good_answer_is_good_in_everything() -> None:
    found = {name: value for name, value in chatbot(GOOD).items() if value is not None}
    assert found.keys() >= {"facts", "no_forbidden", "no_refusal", "on_topic", "polite", "complete", "clean", "script"}
    assert set(found.values()) == {1.0}


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("You have thirty days.", "facts", 0.5),
        ("You have 130 days and it is freedom.", "facts", 0.0),
        ("We are open from nine.", "facts", 0.0),
        (GOOD + " Or within 14 days.", "no_forbidden", 0.0),
        ("I'm sorry, but I can’t help with that.", "no_refusal", 0.0),
        ("As an AI language model, I have no orders.", "no_refusal", 0.0),
        ("I cannot find that order; please write to our staff, who can help.", "no_refusal", 1.0),
        ("Our parcels leave on Monday.", "on_topic", 0.0),
        ("READ THE MANUAL YOU IDIOT", "polite", 1 / 3),
        ("Your order AB VAT EU is on its way, thank you.", "polite", 1.0),
        ("Nope.", "polite", 2 / 3),
        ("", "facts", 0.0),
        ("", "complete", 0.0),
    ],
)
def test_what_is_wrong_is_found_and_nothing_else(text: str, name: str, value: float) -> None:
    assert chatbot(text)[name] == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Thirty-Days", "thirty days"),
        ("1,900 psi", "1900 PSI"),
        ("1.900 psi", "1900 psi"),
        ("Café  Zürich!", "cafe zurich"),
        ("don’t", "don't"),
        ("\uff19:00", "9 00"),
        ("4.90 EUR", "4 90 eur"),
    ],
)
def test_spellings_that_count_as_one(text: str, same: str) -> None:
    assert normalised(text) == normalised(same)


# Content --------------------------------------------------------------------------------------


def brief(text: str, finish_reason: str = "stop", **rubric: Any) -> dict[str, float | None]:
    known: dict[str, Any] = {"kind": "content", "rubric": rubric} if rubric else {"kind": "content", "words": 100}
    return score(Answer(text, "Write.", Expected.model_validate(known), finish_reason))


def test_length_is_kept_within_the_bounds_and_falls_off_beyond_them() -> None:
    assert brief("word " * 100)["length"] == brief("word " * 125)["length"] == 1
    assert brief("word " * 30)["length"] == pytest.approx(30 / 75)
    assert brief("word " * 250)["length"] == pytest.approx(0.5)
    assert brief("word " * 30, min_words=10, max_words=40)["length"] == 1
    assert brief("word " * 80, max_words=40)["length"] == 0.5
    assert brief("word", sections=["A"])["length"] is None


def test_structure_counts_sections_and_forms() -> None:
    text = "# Intro\nSo.\n\n**What you need:**\n- a\n- b\n\n3. Cost:\nlittle\n"
    asked = {"sections": ["Intro", "What you need", "Cost", "Contact"], "format": "list + table"}
    assert brief(text, **asked)["structure"] == pytest.approx(4 / 6)
    assert brief("One line only.", **asked)["structure"] == 0
    assert brief("x", format="sonnet")["structure"] is None, "a form that has no check is not judged"
    assert brief("| a | b |\n|---|---|\n| 1 | 2 |", format="table")["structure"] == 1


def test_what_must_be_mentioned() -> None:
    wanted = {"must_mention": [{"any": ["120 kg", "120 kilograms"]}, {"any": ["rain cover"]}]}
    assert brief("It carries 120 kilograms.", **wanted)["mentions"] == 0.5


def test_loops_and_repetition() -> None:
    plain = "The workshop opens in April with a safety check for every bicycle that the members of our group bring."
    assert brief(plain + " It is free for all and takes an hour.")["distinct"] == 1
    assert brief("the bike is good. " * 12)["distinct"] == 0
    assert brief("so " * 30)["distinct"] == 0
    thrice = brief(f"{plain} " * 3)["distinct"]
    assert thrice is not None
    assert 0.2 < thrice < 0.5, "said three times is repetition, but no loop yet"
    assert brief("Too short to say.")["distinct"] is None


@UNHURRIED
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.integers(0, 5))
def test_a_passage_four_times_in_a_row_is_a_loop(passage: list[str], before: int) -> None:
    found = [f"w{number}" for number in range(before)] + passage * 4
    assert loops(found)
    assert not loops([f"w{number}" for number in range(60)])


# All ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "finish_reason", "value"),
    [
        ("All is well.", "stop", 1),
        ("All is", "length", 0),
        ("  \n", "stop", 0),
        ("nobody says why it ended, it is long enough to need an end mark, and has none" + " at all" * 4, "", 0),
        ("a short answer", "", 1),
        ("Ends as it should, although nobody says why, with twenty words or more, and then a full stop.", "", 1),
    ],
)  # fmt: skip
def test_cut_off(text: str, finish_reason: str, value: float) -> None:
    assert brief(text, finish_reason)["complete"] == value


@pytest.mark.parametrize(
    "leak",
    ["Hello<|im_end|>", "[INST] Hi", "</s>", "Assistant: hello", "### Response", "Dear {{ name }}", ">>fr<< Salut",
     "caf\ufffd", "<think>"],
)  # fmt: skip
def test_what_shows_the_machinery(leak: str) -> None:
    assert brief(leak)["clean"] == 0


def test_prose_with_brackets_and_colons_shows_none() -> None:
    assert brief("The system: simple. Use {one} of [two], x < 5 and a > b. Our assistants: Ann.")["clean"] == 1


def test_the_wrong_script() -> None:
    russian = Expected(kind="translation", target_language="ru")
    assert score(Answer("Где остановка?", "Where is the stop?", russian))["script"] == 1
    assert score(Answer("Where is the stop?", "x", russian))["script"] == 0
    assert brief("Где остановка?")["script"] == 0
    assert score(Answer("12345", "x", russian))["script"] == 0


@UNHURRIED
@given(
    text=st.text(max_size=200),
    finish=st.sampled_from(["", "stop", "length"]),
    expected=st.builds(
        Expected,
        kind=st.sampled_from(["", "chatbot", "content", "translation"]),
        reference=st.lists(st.text(max_size=30), max_size=2).map(tuple),
        target_language=st.sampled_from(["", "fr", "de", "ru"]),
        topic_words=st.lists(st.text(min_size=1, max_size=5), max_size=2).map(tuple),
        words=st.one_of(st.none(), st.integers(1, 500)),
    ),
)
def test_every_score_lies_between_zero_and_one_whatever_the_text(text: str, finish: str, expected: Expected) -> None:
    for name, value in score(Answer(text, text[:5], expected, finish)).items():
        assert value is None or (0 <= value <= 1 and not math.isnan(value)), (name, value)


def test_a_prompt_that_expects_nothing_is_scored_by_what_holds_for_any_text() -> None:
    found = score(Answer("Anything.", "x", Expected(), "stop"))
    assert {name for name, value in found.items() if value is not None} == {"complete", "clean", "script"}


def test_an_sla_knows_exactly_these_scorers() -> None:
    assert tuple(SCORERS) == SCORES
    for name, scorer in SCORERS.items():
        assert scorer.about, name
