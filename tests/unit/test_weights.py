"""``launch.weights``: what each form means, what is refused, and what random weights are."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ServerError
from harness.spec import Launch
from servers.environments import HOME_VARIABLE, EnvironmentFailedError
from servers.models import RANDOM_BILLIONS, random_weights_main
from servers.models.weights import Weights, digest_of, resolve


def find(named: str | None, **launch: Any) -> Weights:
    found = Launch.model_validate({"weights": named, **launch})
    return resolve(found, python=sys.executable, dtype=None, progress=lambda _line: None)


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    (tmp_path / ".models").mkdir()
    return tmp_path / ".models"


def model(directory: Path, header: bytes = b'{"a":{}}') -> Path:
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"data")
    return directory


def test_a_directory_by_its_path_or_its_name(models: Path) -> None:
    here = model(models / "mine")
    assert find(str(here)) == find("mine")
    assert find("mine").directory == here


def test_the_digest_follows_config_and_headers(models: Path) -> None:
    one, same = model(models / "one"), model(models / "same")
    other = model(models / "other", b'{"b":{}}')
    digests = [digest_of(each, sorted(each.glob("*.safetensors"))) for each in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]
    (same / "config.json").write_text("{}")
    assert digest_of(same, sorted(same.glob("*.safetensors"))) != digests[0]


def test_names_of_the_hub_and_of_another_machine_are_passed_on() -> None:
    assert find("hf:org/name") == Weights("org/name")
    remote = {"ssh_host": "me@box", "runtime": "path", "executable": "vllm"}
    assert find("/data/model", **remote) == Weights("/data/model")


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        (None, "launch.weights is missing"),
        ("nowhere", "launch.weights: unknown model 'nowhere'"),
        ("./nowhere", r"the weights .*/nowhere are not there"),
        ("smollm2-hf", r"the weights 'smollm2-hf' are not there; run: harness models smollm2-hf"),
        ("random:huge", "no shape 'huge' for random weights; there are 7b, 13b, tiny"),
    ],
)
def test_what_is_refused(named: str | None, sentence: str) -> None:
    with pytest.raises(ServerError, match=sentence):
        find(named)


def test_random_weights_need_room(monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 5e9

    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage)
    with pytest.raises(EnvironmentFailedError, match=r"random-7b-bfloat16 needs 13,800 MB of disk .* 5,000 MB free"):
        find("random:7b")


@pytest.mark.parametrize(("shape", "billions"), [("7b", 6.738), ("13b", 13.016)])
def test_shapes_have_the_published_number_of_parameters(shape: str, billions: float) -> None:
    found = random_weights_main.SHAPES[shape]
    total = sum(math.prod(size) for _, size in random_weights_main.tensors_of(found, found.vocabulary))
    assert total / 1e9 == pytest.approx(billions, abs=0.001)
    assert total / 1e9 < RANDOM_BILLIONS[shape]
