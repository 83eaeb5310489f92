"""A stack may want its prompts in another form than the scenario's: a specialised model takes the bare sentence."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from harness.catalog import load_catalog
from harness.cell import Cell, Overrides, build_cell
from harness.connection import Connection
from harness.dataset import read_workload
from harness.workload import prompt_sources


def cell(stack: str, folder: Path) -> Cell:
    catalog = load_catalog()
    scenario, profile = catalog.scenario("translation"), catalog.profile("quick")
    return build_cell(
        catalog,
        scenario,
        catalog.stack(stack),
        profile,
        Overrides(),
        Connection(protocol="triton-generate-stream"),
        run_dir=folder,
    )


@pytest.mark.parametrize(("stack", "messages"), [("translation-ctranslate2", 1), ("llamacpp-smollm2", 2)])
def test_the_bare_sentence_and_its_target_language(stack: str, messages: int, tmp_path: Path) -> None:
    workload = cell(stack, tmp_path).scenario.workload
    data = read_workload(workload)
    sentences = {entry["id"]: entry["text"] for entry in data.entries}
    prompt = prompt_sources(workload, data)(random.Random(1)).next(None)
    entry, language = prompt.prompt_id.split("/")
    assert len(prompt.messages) == messages
    bare = f">>{language}<< {sentences[entry]}"
    assert prompt.messages[-1].content == (bare if messages == 1 else sentences[entry])
    assert (prompt.expected["target_language"], len(prompt.expected["reference"])) == (language, 2)
