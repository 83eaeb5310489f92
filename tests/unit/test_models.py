"""Models: what a recipe names is found or its command is said, and weights are known by their digests."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import ServerError, UsageError
from harness.install_console import check_models, fetch_model, print_models
from servers import environments, models
from servers.environments import ENVIRONMENTS, HOME_VARIABLE, Environment, EnvironmentFailedError
from servers.models import GGUF, MODELS, Model, described, is_complete, resolve_weights
from servers.models.digests import QUICK_BYTES, damage, model_digest

SCRIPT = """
import argparse, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("--target", type=pathlib.Path)
parser.add_argument("--source")
parser.add_argument("--fail")
options = parser.parse_args()
print("a library says much", flush=True)
print("progress: converting", flush=True)
options.target.mkdir()
(options.target / "config.json").write_text("{}")
(options.target / "parts").mkdir()
(options.target / "parts" / "weights.bin").write_bytes(bytes(1000))
if options.fail:
    print(f"error: {options.fail}")
    sys.exit(1)
"""


def quiet(_line: str) -> None:
    pass


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model ``tiny`` that a script makes with an environment which is complete: this interpreter's."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    monkeypatch.setattr(models, "SCRIPTS", tmp_path)
    (tmp_path / "made.txt").write_text("nothing==1.0\n")
    (tmp_path / "convert.py").write_text(SCRIPT)
    made = Environment("made", "made.txt", "harness install made")
    made.python.parent.mkdir(parents=True)
    made.python.symlink_to(sys.executable)
    made.stamp.write_text(environments._recipe(made))
    monkeypatch.setitem(ENVIRONMENTS, "made", made)
    model = Model("tiny", "hf", "made", "convert.py", about="a test", licence="MIT")
    monkeypatch.setitem(MODELS, "tiny", model)
    for name in [name for name in MODELS if name != "tiny"]:
        monkeypatch.delitem(MODELS, name)
    return model


def test_the_whole_life_of_a_model(tiny: Model, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ServerError, match=r"^the weights 'tiny' are not there; run: harness models tiny$"):
        resolve_weights("tiny", quiet)
    assert fetch_model("tiny") == 0
    said = capsys.readouterr().out.splitlines()
    assert "tiny: converting" in said
    assert not any("a library" in line for line in said)
    assert said[-1] == f"tiny: {tiny.path} is complete"
    assert resolve_weights("tiny", quiet) == tiny.path

    digests = json.loads((tiny.path / "digests.json").read_text())
    assert digests["parts/weights.bin"] == {"bytes": 1000, "sha256": hashlib.sha256(bytes(1000)).hexdigest()}
    assert set(digests) == {"config.json", "parts/weights.bin"}
    assert check_models("tiny") == 0
    assert check_models(None) == 0
    capsys.readouterr()

    assert print_models(as_json=True) == 0
    [row] = [each for each in json.loads(capsys.readouterr().out) if each["name"] == "tiny"]
    assert (row["state"], row["format"], row["licence"]) == ("ready", "hf", "MIT")

    # another script: it has to be made again
    Path(models.SCRIPTS / "convert.py").write_text(SCRIPT + "\n")
    with pytest.raises(ServerError, match="are unfinished or were made by another version; run: harness models tiny"):
        resolve_weights("tiny", quiet)
    assert check_models("tiny") == 3


def test_damage_is_found(tiny: Model, capsys: pytest.CaptureFixture[str]) -> None:
    fetch_model("tiny")
    weights = tiny.path / "parts" / "weights.bin"
    weights.write_bytes(b"x" * 1000)
    (tiny.path / "config.json").unlink()
    (tiny.path / "more.txt").touch()
    assert check_models("tiny") == 3
    said = capsys.readouterr().out
    for sentence in ("config.json is not there", "more.txt is not among its digests", "weights.bin is damaged"):
        assert sentence in said
    assert "run: harness models tiny" in said


def test_a_script_that_says_why(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "tiny", Model("tiny", "hf", "made", "convert.py", arguments=("--fail", "no tokenizer")))
    with pytest.raises(EnvironmentFailedError, match=r"^no tokenizer$"):
        fetch_model("tiny")
    assert not is_complete(MODELS["tiny"])


def test_a_conversion_that_was_killed_is_repeated(tiny: Model) -> None:
    left = tiny.path.with_name("tiny.partial")
    left.mkdir(parents=True)
    (left / "half").touch()
    assert print_models(as_json=False) == 0
    assert fetch_model("tiny") == 0
    assert not left.exists()
    assert not (tiny.path / "half").exists()


def test_the_digest_of_a_model_is_that_of_its_files(tiny: Model, tmp_path: Path) -> None:
    fetch_model("tiny")
    listing = subprocess.run(
        "sha256sum config.json parts/weights.bin", shell=True, cwd=tiny.path, capture_output=True, check=True
    )
    expected = f"sha256:{hashlib.sha256(listing.stdout).hexdigest()}"
    assert model_digest(tiny.path) == expected
    (tiny.path / "digests.json").unlink()
    (tiny.path / "complete").unlink()
    assert model_digest(tiny.path) == expected  # small enough to be hashed
    assert model_digest(tiny.path / "config.json") == f"sha256:{hashlib.sha256(b'{}').hexdigest()}"


def test_large_weights_are_not_read_at_a_launch(tmp_path: Path) -> None:
    large = tmp_path / "large.gguf"
    large.touch()
    os.truncate(large, QUICK_BYTES + 1)
    assert model_digest(large) == ""
    assert model_digest(tmp_path) == ""


def test_files_of_another_size_have_no_digest(tiny: Model) -> None:
    fetch_model("tiny")
    (tiny.path / "config.json").write_text("{ }")
    assert model_digest(tiny.path) == ""


def test_a_directory_without_digests(tmp_path: Path) -> None:
    assert damage(tmp_path) == [f"{tmp_path} has no digests.json"]


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    assert resolve_weights(str(tmp_path / "weights"), quiet) == tmp_path / "weights"
    assert resolve_weights("weights", quiet) == tmp_path / "weights"
    with pytest.raises(ServerError, match="/nowhere/weights are not there: there is no such file or directory"):
        resolve_weights("/nowhere/weights", quiet)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (GGUF, f"are not there; run: harness models {GGUF}$"),
        ("hf:org/model", "are not there; run: harness models hf:org/model$"),
        ("hf:org/model@v1", "are not there; run: harness models hf:org/model@v1$"),
        ("hf:model", "^launch.weights: 'hf:model' names no model of a hub: hf:ORGANISATION/NAME"),
        ("hf:../..", "names no model of a hub"),
        ("random:../7b", "^launch.weights: no shape '../7b' for random weights"),
        ("smolm2-gguf", f"^launch.weights: unknown model 'smolm2-gguf'; did you mean '{GGUF}'\\?, or give a directory"),
    ],
)
def test_what_is_not_there(weights: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    with pytest.raises(ServerError, match=said) as caught:
        resolve_weights(weights, quiet)
    assert caught.value.exit_code == 3


def test_models_of_a_hub_lie_apart_by_revision() -> None:
    one, other = described("hf:org/model"), described("hf:org/model@v1")
    assert one.path != other.path
    assert "--revision=main" in one.arguments
    assert "--revision=v1" in other.arguments


def test_random_weights_of_a_shape() -> None:
    assert described("random:7b").command == "harness models random:7b"
    assert described("random:7b").path.name == "random-7b-bfloat16"
    assert described("random:7b-bfloat16") == described("random:7b")
    assert described("random:13b-float16").command == "harness models random:13b-float16"


def test_an_unknown_model() -> None:
    with pytest.raises(UsageError, match="unknown model 'x'"):
        fetch_model("x")


def test_every_environment_says_what_it_is_and_how_to_get_it() -> None:
    for name, wanted in ENVIRONMENTS.items():
        assert wanted.name == name
        assert wanted.command == f"harness install {name}"
        assert wanted.about
        assert wanted.size_mb > 0
