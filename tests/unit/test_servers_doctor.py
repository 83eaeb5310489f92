"""What ``harness doctor`` finds, here and on machines that this one is not."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import psutil
import pynvml
import pytest

from harness.spec import Stack
from servers import doctor
from servers.doctor import ENGINES, Finding, State, examine
from servers.environments import HOME_VARIABLE


def find(name: str) -> Finding:
    return next(finding for finding in examine() if finding.name == name)


def test_every_engine_of_a_stack_is_looked_at() -> None:
    assert set(ENGINES) == set(get_args(Stack.model_fields["engine"].annotation))


def test_this_machine() -> None:
    findings = examine()
    assert len({finding.name for finding in findings}) == len(findings)
    assert find("engine emulator").state is State.OK
    assert find("Python").found == sys.version.split()[0]
    for finding in findings:
        assert finding.found
        assert (finding.state is State.OK) == (not finding.remedy), finding


def test_a_poor_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 << 30, available=60 << 30))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    files = {
        "/sys/fs/cgroup/cpu.max": "150000 100000\n",
        "/sys/fs/cgroup/memory.max": f"{2 << 30}\n",
        "/proc/sys/net/ipv4/ip_local_port_range": "60000\t60999\n",
    }
    monkeypatch.setattr(doctor, "_read", lambda path: files.get(path, ""))
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    assert find("open files") == Finding(
        name="open files",
        state=State.LIMITED,
        found="256 now, 1,024 at most; 1,000 users need 1,200",
        remedy="raise it (ulimit -Hn 1200) or take more worker processes",
    )
    assert find("CPU").found == "4 cores, limited to 1.5 by the cgroup"
    assert find("memory").found == "2.0 GiB, 2.0 free"
    assert find("disk").state is State.LIMITED
    assert find("local ports").found.startswith("1,000 (60000 to 60999)")
    llamacpp = find("engine llamacpp")
    assert llamacpp.state is State.MISSING
    assert llamacpp.remedy == "make engine-llamacpp"


def test_no_limit_of_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    assert find("open files").state is State.OK


def test_a_machine_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    memories = [SimpleNamespace(total=80 << 30, used=1 << 30), SimpleNamespace(total=80 << 30, used=40 << 30)]
    for name, value in {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "570.1",
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda handle: memories[handle],
        "nvmlDeviceGetName": lambda _: "NVIDIA A100-SXM4-80GB",
    }.items():
        monkeypatch.setattr(pynvml, name, value)
    assert find("GPU 0").found == "NVIDIA A100-SXM4-80GB, 80.0 GiB, driver 570.1"
    assert find("GPU 1").found == "NVIDIA A100-SXM4-80GB, 80.0 GiB, 40.0 in use, driver 570.1"


def test_a_gpu_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", fail)
    assert find("GPU").state is State.LIMITED


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert find("GPU").found.startswith("none (")
