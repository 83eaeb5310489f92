"""Reading a machine's GPUs: through NVML, whatever of it fails, and through another machine's nvidia-smi."""

from __future__ import annotations

import os
from pathlib import Path

import pynvml
import pytest

from harness.records import GpuProcess
from servers import gpus as module
from servers.gpus import gpus_here, gpus_over_ssh
from tests.unit.gpu_support import FakeNvml, gpu


def test_everything_that_nvml_says() -> None:
    nvml = FakeNvml((gpu("NVIDIA H200", 0, used_gib=20.0, mig=True, held={os.getpid(): 19.5, 2**30: None}),))
    found = gpus_here(nvml)
    [facts] = found.gpus
    assert (facts.name, facts.driver, facts.compute_capability, facts.mig) == ("NVIDIA H200", "570.1", 9.0, True)
    assert (facts.memory_gib, facts.used_gib) == (pytest.approx(139.8), pytest.approx(20.0))
    own, other = facts.processes
    assert own.pid == os.getpid()
    assert own.name
    assert own.memory_gib == pytest.approx(19.5)
    assert other == GpuProcess(pid=2**30, name="", memory_gib=None)
    assert facts.text == "NVIDIA H200, 139.8 GiB, compute capability 9.0, driver 570.1"
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("code", "said"),
    [(pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "Driver Not Loaded"), (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "Not Found")],
)
def test_no_driver(code: int, said: str) -> None:
    found = gpus_here(FakeNvml(refuses={"nvmlInit": code}))
    assert (found.gpus, found.absent) == ((), True)
    assert found.problem.startswith("no NVIDIA driver: ")
    assert said in found.problem


def test_a_driver_that_does_not_answer() -> None:
    nvml = FakeNvml((gpu("Tesla T4"),), {"nvmlSystemGetDriverVersion": pynvml.NVML_ERROR_GPU_IS_LOST})
    found = gpus_here(nvml)
    assert (found.gpus, found.absent, nvml.open) == ((), False, 0)
    assert found.problem.startswith("the driver does not answer: ")


def test_a_t4_knows_no_mig_and_a_container_no_processes() -> None:
    unsupported = pynvml.NVML_ERROR_NOT_SUPPORTED
    functions = ("nvmlDeviceGetMigMode", "nvmlDeviceGetComputeRunningProcesses")
    found = gpus_here(FakeNvml((gpu("Tesla T4", held={7: 1.0}),), dict.fromkeys(functions, unsupported)))
    [facts] = found.gpus
    assert (facts.mig, facts.processes, facts.compute_capability) == (False, (), 7.5)


def test_a_driver_that_sees_no_gpu() -> None:
    assert gpus_here(FakeNvml()).gpus == ()


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ``ssh`` of our own, first in the search path; it writes its arguments down and says what ``said`` holds."""
    program = tmp_path / "ssh"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/asked\ncat {tmp_path}/said\n. {tmp_path}/end\n")
    program.chmod(0o755)
    (tmp_path / "end").write_text("exit 0\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


def test_another_machine(ssh: Path) -> None:
    (ssh / "said").write_text(
        "0, NVIDIA A100-SXM4-80GB, 81920, 41000, 550.54, 8.0, Disabled, GPU-a\n"
        "1, Tesla T4, 15360, 3, 550.54, 7.5, [N/A], GPU-b\n"
        "--processes--\n"
        "GPU-a, 4711, /usr/bin/python3, 40960\n"
        "GPU-b, 12, tritonserver, [N/A]\n"
    )
    found = gpus_over_ssh("me@box")
    first, second = found.gpus
    assert found.machine == "me@box"
    assert (first.index, first.memory_gib, first.compute_capability, first.mig) == (0, 80.0, 8.0, False)
    assert first.processes == (GpuProcess(pid=4711, name="/usr/bin/python3", memory_gib=40.0),)
    assert (second.name, second.mig, second.processes[0].memory_gib) == ("Tesla T4", False, None)
    *options, separator, host, command = (ssh / "asked").read_text().splitlines()
    assert "BatchMode=yes" in options
    assert (separator, host) == ("--", "me@box")
    assert command.startswith("nvidia-smi --query-gpu=index,name,")


def test_another_machine_that_lets_nobody_in(ssh: Path) -> None:
    (ssh / "said").write_text("")
    (ssh / "end").write_text("echo 'me@box: Permission denied (publickey).' >&2; exit 255\n")
    assert gpus_over_ssh("me@box").problem == "me@box: Permission denied (publickey)."


def test_another_machine_that_says_something_else(ssh: Path) -> None:
    (ssh / "said").write_text("NVIDIA-SMI, has failed\n")
    assert "unexpected" in gpus_over_ssh("me@box").problem


def test_no_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus_over_ssh("me@box").problem == "there is no ssh command here"


def test_another_machine_that_does_not_answer(ssh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ssh / "said").write_text("")
    (ssh / "end").write_text("exec /bin/sleep 30\n")
    monkeypatch.setattr(module, "SSH_TIMEOUT_S", 0.3)
    assert gpus_over_ssh("me@box").problem == "no answer in 0.3 s"
