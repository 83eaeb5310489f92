"""The script that completes an environment of Triton; what it makes is run in ``tests/engines``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from servers.environments import triton_setup_main
from servers.environments.triton_setup_main import STUB, main, missing_libraries


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package laid out as nvidia-pytriton, whose server says how it was called; the stub runs anywhere."""
    triton = tmp_path / "site-packages" / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for folder in ("bin", "backends/python", f"python_backend_stubs/{version}"):
        (triton / folder).mkdir(parents=True)
    (triton.parent / "__init__.py").touch()
    (triton / "bin" / "tritonserver").write_text('#!/bin/sh\necho "$PYTHONPATH" "$LD_LIBRARY_PATH" "$@"\n')
    (triton / "python_backend_stubs" / version / STUB).write_text("#!/bin/sh\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "it's here"))
    (tmp_path / "it's here" / "bin").mkdir(parents=True)
    return triton


def test_the_command_tells_the_server_where_everything_is(package: Path, tmp_path: Path) -> None:
    assert main() == 0
    assert os.access(package / "backends" / "python" / STUB, os.X_OK)
    command = tmp_path / "it's here" / "bin" / "tritonserver"
    said = subprocess.run([command, "--id=a b"], capture_output=True, text=True, check=True).stdout.split(" ", 2)
    assert said[0] == str(tmp_path / "site-packages")
    assert said[1].split(":")[1] == str(tmp_path / "site-packages" / "nvidia_pytriton.libs")
    assert said[2] == f"--backend-directory={package / 'backends'} --id=a b\n"


def test_a_python_that_triton_has_no_stub_for(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next(package.glob(f"python_backend_stubs/*/{STUB}")).unlink()
    assert main() == 1
    assert "this Triton has no Python backend for Python 3." in capsys.readouterr().err


def test_a_python_without_its_shared_library(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = "stub: error while loading shared libraries: libpython3.so.1.0: cannot open shared object file"
    next(package.glob(f"python_backend_stubs/*/{STUB}")).write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 127\n")
    assert main() == 1
    assert f"cannot be loaded: {said}; it needs the shared library of Python 3." in capsys.readouterr().err
    assert missing_libraries(Path("/bin/true"), "/nowhere") == ""


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(triton_setup_main, "find_spec", lambda name: None)
    assert main() == 1
    assert capsys.readouterr().err == "nvidia-pytriton is not installed here\n"
