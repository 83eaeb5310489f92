"""Prompts: seeded, complete, and worded as templates and data say."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.catalog import load_catalog
from harness.dataset import WorkloadData, read_workload
from harness.errors import SpecError
from harness.records import Message, Prompt
from harness.spec import Workload
from harness.workload import PromptSource, prompt_sources

UNHURRIED = settings(deadline=None)
"""A machine that is busy with load makes no property false."""
SCENARIOS = ("chatbot", "content", "translation")


def workload(kind: str, **changes: Any) -> Workload:
    facts = {"kind": kind, "data": "x.jsonl", "output_tokens": 20, "input_tokens": 30, "target_languages": ("fr", "it")}
    return Workload.model_validate({**facts, **changes})


def source(
    kind: str, *entries: dict[str, Any], seed: int = 1, system: str = "", user: str = "", **changes: Any
) -> PromptSource:
    data = WorkloadData(entries, system, user)
    return prompt_sources(workload(kind, **changes), data)(random.Random(seed))


def take(prompts: PromptSource, count: int, answer: str | None = None) -> list[Prompt]:
    return [prompts.next(answer) for _ in range(count)]


@UNHURRIED
@given(size=st.integers(1, 30), seed=st.integers(0, 2**32), rounds=st.integers(1, 4))
def test_every_prompt_comes_once_before_any_comes_again(size: int, seed: int, rounds: int) -> None:
    entries = [{"id": str(n), "prompt": f"p{n}"} for n in range(size)]
    prompts = source("dataset", *entries, seed=seed)
    for _ in range(rounds):
        assert {prompt.prompt_id for prompt in take(prompts, size)} == {str(n) for n in range(size)}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_seed_gives_one_sequence_and_another_seed_another(scenario: str) -> None:
    spec = load_catalog().scenario(scenario).workload
    new = prompt_sources(spec, read_workload(spec))
    first, again, other = (take(new(random.Random(seed)), 40, "fine") for seed in (1, 1, 2))
    assert first == again
    assert [prompt.prompt_id for prompt in first] != [prompt.prompt_id for prompt in other]


def test_users_do_not_disturb_each_other() -> None:
    entries = [{"id": str(n), "turns": ["a", "b", "c"]} for n in range(5)]
    new = prompt_sources(workload("conversation"), WorkloadData(tuple(entries)))
    alone = take(new(random.Random(1)), 9, "x")
    one, two = new(random.Random(1)), new(random.Random(2))
    together = []
    for _ in range(9):
        together.append(one.next("x"))
        two.next(None)
    assert together == alone


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_template_variable_is_left_in_a_prompt(scenario: str) -> None:
    spec = load_catalog().scenario(scenario).workload
    prompts = prompt_sources(spec, read_workload(spec))(random.Random(1))
    for prompt in take(prompts, 200, "fine"):
        assert prompt.messages[0].role == "system"
        assert prompt.messages[-1].role == "user"
        assert all(message.content.strip() and "{{" not in message.content for message in prompt.messages)
        assert prompt.output_tokens == spec.output_tokens


def test_a_variable_that_the_data_lacks_is_an_error_not_an_empty_text() -> None:
    with pytest.raises(jinja2.UndefinedError, match="tone"):
        source("brief", {"id": "1", "brief": "tea"}, user="{{ brief }} {{ tone }}")


def test_prompts_are_not_escaped() -> None:
    prompts = source("brief", {"id": "1", "brief": "a < b & 'c'"}, system="<{{ id }}>")
    assert prompts.next(None).messages == (Message("system", "<1>"), Message("user", "a < b & 'c'"))


# Conversations --------------------------------------------------------------------------------


def test_a_conversation_grows_by_the_models_own_answers() -> None:
    prompts = source("conversation", {"id": "c", "turns": ["one", "two"]}, system="be kind", user="Q: {{ message }}")
    prompts.next(None)  # joins somewhere
    first = prompts.next(None)
    assert first.prompt_id == "c/1"
    assert first.messages == (Message("system", "be kind"), Message("user", "Q: one"))
    second = prompts.next("the answer")
    assert second.prompt_id == "c/2"
    assert second.messages == (*first.messages, Message("assistant", "the answer"), Message("user", "Q: two"))
    third = prompts.next("bye")
    assert third == first


def test_a_failed_turn_gives_the_conversation_up() -> None:
    entries = [{"id": str(n), "turns": ["one", "two", "three"]} for n in range(4)]
    prompts = source("conversation", *entries)
    prompts.next(None)  # joins somewhere
    started = [prompts.next(None) for _ in range(4)]
    assert {prompt.prompt_id for prompt in started} == {"0/1", "1/1", "2/1", "3/1"}
    assert all(len(prompt.messages) == 1 for prompt in started)


def test_users_join_at_the_turns_at_which_a_population_is_found() -> None:
    entries = [{"id": str(n), "turns": ["t"] * length} for n, length in enumerate((1, 2, 6))]
    new = prompt_sources(workload("conversation", output_tokens=40), WorkloadData(tuple(entries)))
    joined = [new(random.Random(seed)).next(None) for seed in range(3000)]
    one = new(random.Random(7))
    later = [one.next("ok") for _ in range(3000)][9:]
    share = lambda prompts, prompt_id: sum(p.prompt_id == prompt_id for p in prompts) / len(prompts)  # noqa: E731
    for prompt_id in {prompt.prompt_id for prompt in later}:
        assert share(joined, prompt_id) == pytest.approx(share(later, prompt_id), abs=0.03)
    answers = {message.content for prompt in joined for message in prompt.messages if message.role == "assistant"}
    assert [len(answer.split()) for answer in answers] == [30]


def test_an_empty_answer_is_an_answer() -> None:
    prompts = source("conversation", {"id": "c", "turns": ["one", "two"]})
    prompts.next(None)  # joins somewhere
    prompts.next(None)
    assert prompts.next("").prompt_id == "c/2"


@UNHURRIED
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), failures=st.lists(st.booleans(), max_size=40))
def test_turns_alternate_and_number_the_customers_messages(lengths: list[int], failures: list[bool]) -> None:
    entries = [{"id": str(n), "turns": [f"t{k}" for k in range(length)]} for n, length in enumerate(lengths)]
    prompts = source("conversation", *entries)
    answer: str | None = None
    for failed in failures:
        prompt = prompts.next(answer)
        turn = int(prompt.prompt_id.split("/")[1])
        assert [message.role for message in prompt.messages] == (["user", "assistant"] * turn)[:-1]
        assert prompt.messages[-1].content == f"t{turn - 1}"
        answer = None if failed else "ok"


# Other kinds ----------------------------------------------------------------------------------


def test_a_sentence_is_asked_for_in_each_language_with_its_own_reference() -> None:
    entry = {"id": "s", "text": "Hi.", "difficulty": "easy", "references": {"fr": "Salut.", "de": "Hallo."}}
    prompts = source("translation", entry, system="{{ source_name }} to {{ target_name }}")
    found = {prompt.prompt_id: prompt for prompt in take(prompts, 2)}
    assert found["s/fr"].messages[0].content == "English to French"
    assert found["s/fr"].expected["reference"] == ["Salut."]
    assert found["s/fr"].expected["languages"] == ["en", "fr", "it"]
    assert found["s/it"].messages[0].content == "English to Italian"
    assert "reference" not in found["s/it"].expected
    assert {prompt.difficulty for prompt in found.values()} == {"easy"}


def test_the_catalogs_translations_have_a_reference_each() -> None:
    spec = load_catalog().scenario("translation").workload
    prompts = take(prompt_sources(spec, read_workload(spec))(random.Random(1)), 180)
    assert len({prompt.prompt_id for prompt in prompts}) == 180
    for prompt in prompts:
        assert prompt.expected["reference"]
        assert prompt.prompt_id.endswith(f"/{prompt.expected['target_language']}")


def test_a_sentence_with_one_reference_goes_into_its_own_language() -> None:
    entry = {"id": "s", "text": "Ciao.", "source_language": "it", "target_language": "en", "reference": "Hello."}
    other = {"id": "t", "text": "Hi.", "references": {"fr": "Salut.", "it": "Ciao."}}
    found = {each.prompt_id: each.expected for each in take(source("translation", entry, other), 3)}
    assert set(found) == {"s/en", "t/fr", "t/it"}
    assert found["s/en"]["reference"] == ["Hello."]
    assert all(each["languages"] == ["en", "fr", "it"] for each in found.values())


def test_facts_are_of_the_question_that_opens_a_conversation_and_its_topic_of_all_turns() -> None:
    entry = {"id": "c", "turns": ["t0", "t1"], "facts": [{"any": ["30 days"]}], "topic_words": ["return"]}
    prompts = source("conversation", entry)
    found = {each.prompt_id: each.expected for each in (prompts.next("ok") for _ in range(5))}
    assert found["c/1"] == {"kind": "chatbot", "facts": [{"any": ["30 days"]}], "topic_words": ["return"]}
    assert found["c/2"] == {"kind": "chatbot", "topic_words": ["return"]}


def test_what_lies_beside_the_data_is_of_one_prompt(tmp_path: Path) -> None:
    lines = {
        "mine.jsonl": [{"id": "c", "turns": ["t0", "t1"]}],
        "mine.references.jsonl": [{"id": "c/2", "facts": [{"any": ["yes"]}], "reference": "Yes.", "split": "train"}],
    }
    for name, entries in lines.items():
        (tmp_path / name).write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    data = {"kind": "conversation", "data": str(tmp_path / "mine.jsonl"), "output_tokens": 20}
    spec = Workload.model_validate(data)
    prompts = prompt_sources(spec, read_workload(spec))(random.Random(1))
    found = {each.prompt_id: each.expected for each in (prompts.next("ok") for _ in range(5))}
    assert found["c/1"] == {"kind": "chatbot"}
    assert found["c/2"] == {
        "kind": "chatbot", "reference": ["Yes."], "facts": [{"any": ["yes"]}], "split": "train"
    }  # fmt: skip
    (tmp_path / "mine.references.jsonl").write_text('{"facts": []}\n', encoding="utf-8")
    with pytest.raises(SpecError, match="needs 'id'"):
        read_workload(spec)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, None),
        ({"target_language": "fr"}, "translation"),
        ({"rubric": {"min_words": 5}}, "content"),
        ({"facts": [{"any": ["a"]}]}, "chatbot"),
    ],
)
def test_what_a_users_prompt_is_follows_from_what_it_expects(fields: dict[str, Any], kind: str | None) -> None:
    prompt = source("dataset", {"id": "a", "prompt": "x", **fields}).next(None)
    assert prompt.expected.get("kind") == kind


def test_a_users_messages_are_sent_as_they_are() -> None:
    messages = [{"role": "system", "content": "{{ x }}"}, {"role": "user", "content": " hi "}]
    prompt = source("dataset", {"id": 7, "messages": messages}).next(None)
    assert prompt.prompt_id == "7"
    assert prompt.messages == (Message("system", "{{ x }}"), Message("user", " hi "))


def test_an_entry_may_ask_for_a_length_of_its_own() -> None:
    entries = [{"id": "a", "prompt": "x", "output_tokens": 7}, {"id": "b", "prompt": "x"}]
    asked = {prompt.prompt_id: prompt.output_tokens for prompt in take(source("dataset", *entries), 2)}
    assert asked == {"a": 7, "b": 20}


@pytest.mark.parametrize("kind", ["conversation", "brief", "translation", "dataset", "synthetic"])
def test_length_and_its_forcing_reach_every_prompt(kind: str) -> None:
    entry = {"id": 5, "turns": ["x"], "brief": "x", "text": "x", "references": {"fr": "y"}, "prompt": "x"}
    for length in ("natural", "forced"):
        prompt = source(kind, entry, output_length=length).next(None)
        assert (prompt.output_tokens, prompt.forced) == (20, length == "forced")
        assert isinstance(prompt.prompt_id, str), "a number would not go into the samples' column of texts"


@UNHURRIED
@given(tokens=st.integers(1, 500), seed=st.integers(0, 2**32))
def test_synthetic_prompts_have_the_words_asked_for_and_differ(tokens: int, seed: int) -> None:
    prompts = take(source("synthetic", seed=seed, input_tokens=tokens), 3)
    texts = [prompt.messages[0].content for prompt in prompts]
    assert {len(text.split()) for text in texts} == {tokens}
    assert tokens < 5 or len(set(texts)) == 3, "a repeated prompt would be served from a prefix cache"
    assert len({prompt.prompt_id for prompt in prompts}) == 3


def test_one_prompt_is_enough_for_any_number_of_requests() -> None:
    prompts = take(source("dataset", {"id": "a", "prompt": "x"}), 50)
    assert {prompt.prompt_id for prompt in prompts} == {"a"}
