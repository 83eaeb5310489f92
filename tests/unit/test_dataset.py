"""Reading a workload's files: every bad line is named, and nothing is dropped in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.catalog import load_catalog
from harness.dataset import WorkloadData, read_workload
from harness.errors import SpecError
from harness.spec import Workload

GOOD: dict[str, dict[str, Any]] = {
    "conversation": {"turns": ["hello"]},
    "brief": {"brief": "a text about tea"},
    "translation": {"text": "Good day.", "references": {"fr": "Bonjour."}},
    "dataset": {"prompt": "hello"},
}


def workload(kind: str, data: Path | str, **changes: Any) -> Workload:
    facts = {"kind": kind, "data": str(data), "output_tokens": 20, "target_languages": ("fr",)}
    return Workload.model_validate({**facts, **changes})


def jsonl(folder: Path, *entries: Any) -> Path:
    path = folder / "data.jsonl"
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def problems(kind: str, path: Path) -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        read_workload(workload(kind, path))
    return caught.value.problems


@pytest.mark.parametrize("kind", GOOD)
def test_entries_come_in_file_order_with_an_id_each(kind: str, tmp_path: Path) -> None:
    path = jsonl(tmp_path, {**GOOD[kind], "id": "first"}, "", GOOD[kind], "  ")
    assert [entry["id"] for entry in read_workload(workload(kind, path)).entries] == ["first", "line-3"]


@pytest.mark.parametrize("kind", GOOD)
def test_every_bad_line_is_reported_with_its_number(kind: str, tmp_path: Path) -> None:
    path = jsonl(tmp_path, GOOD[kind], '{"id": ', [1, 2], {"id": "no text"}, GOOD[kind])
    found = problems(kind, path)
    assert [line.split(": ")[0] for line in found] == [f"{path}:2", f"{path}:3", f"{path}:4"]
    assert "column 8" in found[0]
    assert found[1].endswith("expected a JSON object")
    assert "needs '" in found[2]


@pytest.mark.parametrize(
    ("kind", "entry", "word"),
    [
        ("conversation", {"turns": []}, "'turns'"),
        ("conversation", {"turns": "hello"}, "'turns'"),
        ("brief", {"brief": ""}, "'brief'"),
        ("translation", {"text": "Good day."}, "'references'"),
        ("translation", {"text": 3, "references": {"fr": "x"}}, "'text'"),
        ("translation", {"text": "x", "references": {"fr": ["x"]}}, "each of 'references'"),
        ("translation", {"text": "x", "reference": "y"}, "'target_language'"),
        ("conversation", {"turns": ["x"], "facts": [{"all": ["x"]}]}, "'facts.0.any'"),
        ("conversation", {"turns": ["x"], "facts": [{"any": []}]}, "'facts.0.any'"),
        ("brief", {"brief": "x", "rubric": {"min_words": 9, "max_words": 8}}, "min_words is above max_words"),
        ("dataset", {"prompt": "x", "target_language": "French"}, "'target_language'"),
        ("dataset", {"prompt": "x", "split": "test"}, "'split'"),
        ("dataset", {"prompt": ""}, "'prompt'"),
        ("dataset", {"messages": []}, "'messages'"),
        ("dataset", {"messages": ["hello"]}, "role"),
        ("dataset", {"messages": [{"role": "robot", "content": "x"}]}, "system, user or assistant"),
        ("dataset", {"messages": [{"role": "user", "content": None}]}, "'content'"),
        ("dataset", {"prompt": "x", "output_tokens": 0}, "'output_tokens'"),
        ("dataset", {"prompt": "x", "output_tokens": "20"}, "'output_tokens'"),
        ("dataset", {"prompt": "x", "output_tokens": True}, "'output_tokens'"),
    ],
)
def test_an_unusable_entry_is_refused_in_one_sentence(
    kind: str, entry: dict[str, Any], word: str, tmp_path: Path
) -> None:
    (found,) = problems(kind, jsonl(tmp_path, entry))
    assert word in found
    assert "\n" not in found


def test_messages_need_no_prompt(tmp_path: Path) -> None:
    entry = {"id": 1, "messages": [{"role": "system", "content": ""}, {"role": "user", "content": "x"}]}
    assert read_workload(workload("dataset", jsonl(tmp_path, entry))).entries == (entry,)


def test_a_missing_an_empty_and_an_undecodable_file(tmp_path: Path) -> None:
    assert problems("brief", tmp_path / "none.jsonl") == (f"{tmp_path / 'none.jsonl'}: there is no such file",)
    assert problems("brief", jsonl(tmp_path, "")) == (f"{tmp_path / 'data.jsonl'}: holds no prompt",)
    (tmp_path / "data.jsonl").write_bytes(b'{"brief": "caf\xe9"}')
    assert "cannot be read" in problems("brief", tmp_path / "data.jsonl")[0]
    assert "cannot be read" in problems("brief", tmp_path)[0]


def test_a_missing_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nonesuch\.system\.j2: there is no such file"):
        read_workload(workload("brief", jsonl(tmp_path, GOOD["brief"]), templates="nonesuch"))


def test_templates_are_not_put_around_a_users_own_prompts(tmp_path: Path) -> None:
    data = read_workload(workload("dataset", jsonl(tmp_path, GOOD["dataset"]), templates="support"))
    assert (data.system_template, data.user_template) == ("", "")


def test_difficulty_selects_entries(tmp_path: Path) -> None:
    entries = [{"id": f"{level}{n}", "difficulty": level, "brief": "x"} for n in (1, 2) for level in ("easy", "hard")]
    path = jsonl(tmp_path, *entries)
    chosen = {level: read_workload(workload("brief", path, difficulty=level)).entries for level in ("easy", "mixed")}
    assert [entry["id"] for entry in chosen["easy"]] == ["easy1", "easy2"]
    assert len(chosen["mixed"]) == 4
    with pytest.raises(SpecError, match="no entry has difficulty 'hard'"):
        read_workload(workload("brief", jsonl(tmp_path, entries[0]), difficulty="hard"))


def test_a_split_selects_entries_by_their_own_word_or_that_of_their_prompts(tmp_path: Path) -> None:
    entries = [
        {"id": "a", "turns": ["x"], "split": "train"},
        {"id": "b", "turns": ["x", "y"]},
        {"id": "of/both", "turns": ["x", "y"]},
        {"id": "unsaid", "turns": ["x"]},
    ]
    path = jsonl(tmp_path, *entries)
    beside = [("b/1", "held-out"), ("b/2", "held-out"), ("of/both/1", "held-out"), ("of/both/2", "train")]
    text = "\n".join(json.dumps({"id": prompt_id, "split": split}) for prompt_id, split in beside)
    path.with_name("data.references.jsonl").write_text(text)
    chosen = {
        split: [entry["id"] for entry in read_workload(workload("conversation", path, split=split)).entries]
        for split in ("all", "train", "held-out")
    }
    assert chosen == {"all": ["a", "b", "of/both", "unsaid"], "train": ["a"], "held-out": ["b"]}
    with pytest.raises(SpecError, match="no entry has split 'held-out'"):
        read_workload(workload("brief", jsonl(tmp_path, GOOD["brief"]), split="held-out"))


def test_several_files_are_one_set(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        jsonl(tmp_path / name, {"id": name, "brief": "x"}).with_name("data.references.jsonl").write_text(
            json.dumps({"id": name, "words": 100})
        )
    paths = [str(tmp_path / name / "data.jsonl") for name in ("one", "two")]
    data = read_workload(Workload.model_validate({"kind": "brief", "data": paths, "output_tokens": 20}))
    assert [entry["id"] for entry in data.entries] == ["one", "two"]
    assert data.expected.keys() == {"one", "two"}
    (tmp_path / "two" / "data.jsonl").write_text("{}")
    with pytest.raises(SpecError, match=f"{paths[1]}:1: needs 'brief'"):
        read_workload(Workload.model_validate({"kind": "brief", "data": paths, "output_tokens": 20}))


def test_synthetic_prompts_need_no_file() -> None:
    spec = Workload(kind="synthetic", input_tokens=5, output_tokens=5)
    assert read_workload(spec) == WorkloadData()


@pytest.mark.parametrize(("scenario", "count"), [("chatbot", 60), ("content", 60), ("translation", 60)])
def test_the_catalogs_own_data_is_sound(scenario: str, count: int) -> None:
    data = read_workload(load_catalog().scenario(scenario).workload)
    assert len(data.entries) == len({entry["id"] for entry in data.entries}) == count
    assert data.system_template
    assert data.user_template
