"""The reference sets of the catalog: what an answer can be scored against, and what their cards say of them."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from py3langid.langid import MODEL_FILE, LanguageIdentifier
from sacrebleu.metrics.chrf import CHRF

from harness.catalog import WORKLOADS, load_catalog
from harness.dataset import read_workload
from harness.workload import prompt_sources

CARDS = Path(__file__).parents[2] / "docs" / "datasets"
LANGUAGES = {"de", "en", "es", "fr", "it", "pt"}
MISSES = 0.002
"""The share of texts whose language a classifier of n-grams may get wrong: some sentences have five words."""
FORMATS = {"paragraphs", "headings", "list", "numbered list", "table"}
DEDUCED = {"support-016/1": {"25"}}
"""Numbers of an answer that follow from those of its prompt: delivered 9 days late, 34 days after the order."""

Row = dict[str, Any]


def rows(name: str) -> list[Row]:
    return [json.loads(line) for line in (WORKLOADS / name).read_text(encoding="utf-8").splitlines()]


SUPPORT = rows("support.jsonl")
SENTENCES = rows("sentences.jsonl")
PAIRS = rows("sentences-multilingual.jsonl")
BRIEFS = [*rows("briefs.jsonl"), *rows("briefs-more.jsonl")]
SUPPORT_REFERENCES = rows("support.references.jsonl")
SENTENCE_REFERENCES = rows("sentences.references.jsonl")
RUBRICS = [*rows("briefs.references.jsonl"), *rows("briefs-more.jsonl")]
TRANSLATIONS = [*SENTENCE_REFERENCES, *PAIRS]
SETS = {"support": SUPPORT_REFERENCES, "briefs": RUBRICS, "sentences": TRANSLATIONS}


def says(text: str, phrase: str) -> bool:
    """Whether ``text`` holds ``phrase`` as whole words, whatever the case and the spaces."""
    flat = " ".join(text.casefold().split())
    return re.search(rf"(?<!\w){re.escape(phrase.casefold())}(?!\w)", flat) is not None


def phrases(claims: list[Row]) -> list[str]:
    return [phrase for claim in claims for phrase in claim["any"]]


def numbers(text: str) -> set[str]:
    """Digits only: 1.250, 1,250 and 1 250 are one number, 4.2 and 4,2 another."""
    return {re.sub(r"\D", "", found) for found in re.findall(r"\d(?:[\d.,\u00a0 ]*\d)?", text)}


def translations() -> Iterator[tuple[str, str, str, list[str]]]:
    """Each as (id, target language, source text, references)."""
    texts = {entry["id"]: entry["text"] for entry in SENTENCES}
    for row in SENTENCE_REFERENCES:
        yield row["id"], row["target_language"], texts[row["id"].split("/")[0]], row["reference"]
    for row in PAIRS:
        yield row["id"], row["target_language"], row["text"], row["reference"]


def test_there_are_as_many_as_are_promised() -> None:
    assert len(SUPPORT_REFERENCES) >= 150
    assert len(BRIEFS) == len(RUBRICS) == 60
    assert len(SENTENCES) + len(PAIRS) == 300
    assert {row["source_language"] for row in PAIRS} == LANGUAGES
    assert {row["target_language"] for row in [*SENTENCE_REFERENCES, *PAIRS]} == LANGUAGES


@pytest.mark.parametrize("name", SETS)
def test_an_id_is_given_once(name: str) -> None:
    assert max(Counter(row["id"] for row in SETS[name]).values()) == 1


@pytest.mark.parametrize(
    ("scenario", "references"),
    [
        ("chatbot", SUPPORT_REFERENCES),
        ("content", RUBRICS),
        ("translation", SENTENCE_REFERENCES),
        ("translation-multilingual", TRANSLATIONS),
    ],
)
def test_every_prompt_of_a_default_run_has_its_reference(scenario: str, references: list[Row]) -> None:
    workload = load_catalog().scenario(scenario).workload
    source = prompt_sources(workload, read_workload(workload))(random.Random(1))
    drawn = {prompt.prompt_id: prompt.expected for prompt in (source.next("an answer") for _ in range(600))}
    counts = {"chatbot": 180, "content": 60, "translation": 180, "translation-multilingual": 540}
    assert len(drawn) == counts[scenario]
    known = {row["id"]: row for row in references}
    for prompt_id, expected in drawn.items():
        row = known[prompt_id if prompt_id in known else prompt_id.rpartition("/")[0]]
        for name in ("reference", "rubric", "facts", "split"):
            assert name not in row or name in expected, (prompt_id, name)


@pytest.mark.parametrize("scenario", ["chatbot", "content", "translation", "translation-multilingual"])
def test_train_and_held_out_share_nothing_and_leave_nothing(scenario: str) -> None:
    workload = load_catalog().scenario(scenario).workload
    parts = {}
    for split in ("all", "train", "held-out"):
        mine = workload.model_copy(update={"split": split})
        source = prompt_sources(mine, read_workload(mine))(random.Random(1))
        prompts = [source.next("an answer") for _ in range(600)]
        parts[split] = {prompt.prompt_id for prompt in prompts}
        assert {prompt.expected["split"] for prompt in prompts} == (
            {"train", "held-out"} if split == "all" else {split}
        )
    assert parts["train"] | parts["held-out"] == parts["all"]
    assert not parts["train"] & parts["held-out"]
    assert len(parts["held-out"]) >= 0.25 * len(parts["all"])


@pytest.mark.parametrize("data", ["briefs-more.jsonl", "sentences-multilingual.jsonl"])
def test_a_new_file_asks_as_much_of_a_server_as_the_old_one(data: str) -> None:
    """Prompt characters, of which some four make a token: a run on the new items loads a server as one on the old."""
    workload = load_catalog().scenario("content" if data.startswith("brief") else "translation").workload
    old = workload.model_copy(update={"data": workload.data[:1]})
    new = workload.model_copy(update={"data": (data,), "target_languages": ("en",)})
    means = []
    for each in (old, new):
        source = prompt_sources(each, read_workload(each))(random.Random(1))
        lengths = [sum(len(message.content) for message in source.next(None).messages) for _ in range(540)]
        means.append(sum(lengths) / len(lengths))
    assert means[1] == pytest.approx(means[0], rel=0.05)


@pytest.mark.parametrize("name", SETS)
def test_three_in_ten_are_held_out(name: str) -> None:
    splits = Counter(row["split"] for row in SETS[name])
    assert set(splits) == {"train", "held-out"}
    assert 0.27 <= splits["held-out"] / splits.total() <= 0.34


def test_the_held_out_part_has_every_topic_tier_and_pair_and_cuts_no_conversation() -> None:
    entries = {entry["id"]: entry for entry in [*SUPPORT, *SENTENCES, *BRIEFS]}
    splits: dict[str, set[str]] = defaultdict(set)
    for row in [*SUPPORT_REFERENCES, *SENTENCE_REFERENCES]:
        splits[row["id"].split("/")[0]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    held = [entries[key] for key, found in splits.items() if found == {"held-out"}]
    held += [entries[row["id"]] for row in RUBRICS if row["split"] == "held-out"]
    assert {entry["topic"] for entry in SUPPORT} == {entry["topic"] for entry in held if "topic" in entry}
    for field in ("turns", "text", "brief"):
        share = Counter(entry["difficulty"] for entry in held if field in entry)
        assert 0.4 <= share["easy"] / share.total() <= 0.6, field
    pairs = {(row["source_language"], row["target_language"], row["difficulty"]) for row in PAIRS}
    in_held = {
        (row["source_language"], row["target_language"], row["difficulty"])
        for row in PAIRS
        if row["split"] == "held-out"
    }
    assert pairs == in_held


def test_a_reference_is_in_the_language_it_claims() -> None:
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(LANGUAGES)
    claimed = [(row["source_language"], row["text"]) for row in [*SENTENCES, *PAIRS]]
    claimed += [(language, text) for _, language, _, references in translations() for text in references]
    claimed += [("en", row["reference"]) for row in SUPPORT_REFERENCES]
    assert all(text.strip() for _, text in claimed)
    wrong = [(language, text) for language, text in claimed if identifier.classify(text)[0] != language]
    assert len(wrong) <= MISSES * len(claimed), wrong


def test_a_translation_keeps_the_numbers_and_about_the_length() -> None:
    for name, _, text, references in translations():
        assert len(set(references)) == 2, name
        assert text not in references, name
        for reference in references:
            assert numbers(text) <= numbers(reference), name
            assert 0.5 <= len(reference) / len(text) <= 2, name
            assert (reference[-1] == "?") == (text[-1] == "?"), name


def test_two_references_of_a_sentence_are_of_the_same_sentence() -> None:
    """The second is nearer to the first of its own sentence than to that of any neighbour."""
    chrf = CHRF()
    by_language: dict[str, list[list[str]]] = defaultdict(list)
    for _, language, _, references in translations():
        by_language[language].append(references)
    for found in by_language.values():
        for index, references in enumerate(found):
            for other in references[1:]:
                own = chrf.sentence_score(other, references[:1]).score
                neighbours = [found[(index + step) % len(found)][0] for step in (-2, -1, 1, 2)]
                assert own > chrf.sentence_score(other, neighbours).score, other


def test_the_tiers_keep_their_lengths_in_words() -> None:
    for row in [*SENTENCES, *PAIRS]:
        low, high = (5, 12) if row["difficulty"] == "easy" else (15, 30)
        assert low <= len(row["text"].split()) <= high, row["id"]
        assert row.get("reference", [""])[0] in ("", *row["references"].values())


def test_nothing_is_both_asked_for_and_forbidden() -> None:
    for row in [*SUPPORT_REFERENCES, *RUBRICS]:
        wanted = [*row.get("facts", []), *row.get("rubric", {}).get("must_mention", [])]
        assert wanted, row["id"]
        assert row["topic_words"], row["id"]
        assert all(claim["any"] and all(phrase.strip() for phrase in claim["any"]) for claim in wanted), row["id"]
        banned = phrases(row.get("forbidden", []))
        clashes = [(want, ban) for want in phrases(wanted) for ban in banned if says(want, ban)]
        assert not clashes, row["id"]


def test_a_model_answer_says_the_facts_and_nothing_forbidden() -> None:
    for row in SUPPORT_REFERENCES:
        answer = row["reference"]
        missing = [claim for claim in row["facts"] if not any(says(answer, phrase) for phrase in claim["any"])]
        assert not missing, row["id"]
        assert not [phrase for phrase in phrases(row["forbidden"]) if says(answer, phrase)], row["id"]
        assert any(says(answer, word) for word in row["topic_words"]), row["id"]


def test_a_model_answer_knows_no_number_that_its_prompt_does_not_give() -> None:
    policy = (WORKLOADS / "templates" / "support.system.j2").read_text(encoding="utf-8")
    turns = {entry["id"]: entry["turns"] for entry in SUPPORT}
    digits = re.compile(r"\d+")
    for row in SUPPORT_REFERENCES:
        name, turn = row["id"].split("/")
        known = set(digits.findall("\n".join([policy, *turns[name][: int(turn)]]))) | DEDUCED.get(row["id"], set())
        for text in (row["reference"], *(claim["any"][0] for claim in row["facts"])):
            assert set(digits.findall(text)) <= known, (row["id"], text)


def test_facts_tell_an_answer_from_that_to_another_question() -> None:
    """Were the facts so loose that any answer held them, a model could answer anything."""
    wrong = asked = 0
    for shift in (17, 61, 97):  # further than a conversation is long
        for row, other in zip(SUPPORT_REFERENCES, SUPPORT_REFERENCES[shift:] + SUPPORT_REFERENCES[:shift], strict=True):
            asked += 1
            wrong += all(any(says(other["reference"], phrase) for phrase in claim["any"]) for claim in row["facts"])
    assert wrong <= 0.06 * asked


def test_facts_are_found_in_right_answers_of_other_words() -> None:
    """``support_answers.jsonl``: right answers of a chat model's manner, written without regard to synonyms."""
    lines = (Path(__file__).parent / "support_answers.jsonl").read_text(encoding="utf-8").splitlines()
    wanted = {row["id"]: row for row in SUPPORT_REFERENCES}
    found = []
    for line in lines:
        given = json.loads(line)
        row, answer = wanted[given["id"]], given["answer"]
        found += [any(says(answer, phrase) for phrase in claim["any"]) for claim in row["facts"]]
        assert not [phrase for phrase in phrases(row["forbidden"]) if says(answer, phrase)], answer
    assert len(lines) >= 24
    assert sum(found) >= 0.9 * len(found)


def test_a_rubric_asks_what_the_brief_asks() -> None:
    for entry, row in zip(BRIEFS, RUBRICS, strict=True):
        assert entry["id"] == row["id"]
        rubric, brief = row["rubric"], entry["brief"]
        assert rubric["min_words"] < entry["words"] < rubric["max_words"]
        assert set(rubric["format"].split("+")) <= FORMATS
        assert all(section in brief.casefold() for section in rubric.get("sections", []))
        ban = r"(?:[Dd]o not use|[Aa]void|[Ff]orbidden words:)((?:(?: the)? words?)?(?: '[^']+',?(?: or| and)?)+)"
        quoted = {word for found in re.findall(ban, brief) for word in re.findall(r"'([^']+)'", found)}
        assert quoted <= set(phrases(row.get("forbidden", []))), entry["id"]
        own = [claim for claim in rubric["must_mention"] if any(says(brief, phrase) for phrase in claim["any"])]
        assert len(own) >= 2, entry["id"]


def test_no_text_is_nearly_another() -> None:
    """Compared by the share of words that two texts have in common: a template filled in again has most of them."""
    groups: dict[str, list[str]] = defaultdict(list)
    for row in [*SENTENCES, *PAIRS]:
        groups[row["source_language"]].append(row["text"])
    groups["briefs"] = [entry["brief"] for entry in BRIEFS]
    groups["messages"] = [turn for entry in SUPPORT for turn in entry["turns"]]
    groups["answers"] = [row["reference"] for row in SUPPORT_REFERENCES]
    for found in groups.values():
        words = [(frozenset(re.findall(r"\w+", text.casefold())), text) for text in found]
        close = [
            (a, b) for (left, a), (right, b) in combinations(words, 2) if len(left & right) > 0.6 * len(left | right)
        ]
        assert not close


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("support", {"180 messages": len(SUPPORT_REFERENCES), "60 conversations": len(SUPPORT)}),
        ("briefs", {"60 briefs": len(BRIEFS)}),
        ("sentences", {"300 sentences": len(SENTENCES) + len(PAIRS), "360": len(SENTENCE_REFERENCES)}),
    ],
)
def test_a_card_states_licence_origin_size_and_limits(name: str, sizes: dict[str, int]) -> None:
    card = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    headings = ["Licence", "How it was made", "Size", "Languages", "Fields", "Held out", "Intended use", "Known limits"]
    assert re.findall(r"^## (.+)$", card, re.MULTILINE) == headings
    assert "Apache-2.0" in card.split("## Licence")[1].split("##")[0]
    for said, count in sizes.items():
        assert said.split()[0] == str(count)
        assert said in card
    held = sum(row["split"] == "held-out" for row in SETS[name])
    assert f"{held} of {len(SETS[name])}" in card
