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
from servers.gpus import gpus_here
from tests.unit.gpu_support import FakeNvml, gpu


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
    assert llamacpp.remedy == "harness install llamacpp"


def test_no_limit_of_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    assert find("open files").state is State.OK


def with_gpus(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml) -> None:
    monkeypatch.setattr(doctor, "gpus_here", lambda: gpus_here(nvml))


def test_a_machine_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    a100 = "NVIDIA A100-SXM4-80GB"
    there = (gpu(a100, 0), gpu(a100, 1, used_gib=40.0), gpu("NVIDIA L40S", 2), gpu(a100, 3, mig=True))
    with_gpus(monkeypatch, FakeNvml(there))
    about = f"{a100}, 79.2 GiB, compute capability 8.0, driver 570.1"
    assert find("GPU 0") == Finding(name="GPU 0", state=State.OK, found=f"{about}; 'a100-80' of the catalog")
    busy, unknown, cut = find("GPU 1"), find("GPU 2"), find("GPU 3")
    assert busy.found == f"{about}, 40.0 GiB in use; 'a100-80' of the catalog"
    assert busy.state is State.LIMITED
    assert unknown.found.endswith("; not in the catalog")
    assert unknown.state is State.OK
    assert cut.found == f"{about}, MIG on; 'a100-80' of the catalog"
    assert "nvidia-smi -i 3 -mig 0" in cut.remedy
    stacks = find("stacks on GPUs").found.removeprefix("with --real: ").split(", ")
    assert "vllm-13b-a100" in stacks
    assert "trtllm-13b-2xa100" not in stacks  # one is free
    assert "vllm-7b-t4" not in stacks


def test_a_machine_with_none_of_the_catalogs_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, FakeNvml((gpu("NVIDIA L40S"),)))
    assert "--allow-other-gpu" in find("stacks on GPUs").remedy


def test_a_gpu_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml((gpu("Tesla T4"),), {"nvmlSystemGetDriverVersion": pynvml.NVML_ERROR_GPU_IS_LOST})
    with_gpus(monkeypatch, nvml)
    assert find("GPU").state is State.LIMITED


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, FakeNvml(refuses={"nvmlInit": pynvml.NVML_ERROR_LIBRARY_NOT_FOUND}))
    assert find("GPU").found.startswith("none (no NVIDIA driver: ")
    assert find("GPU").state is State.OK
    assert find("stacks on GPUs").found.startswith("none for real, all ")


def test_models_and_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    assert find("model smollm2-gguf").remedy == "harness models smollm2-gguf"


def test_container_engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LLM_HARNESS_CONTAINER_ENGINE", raising=False)
    assert find("containers").found.startswith("no docker or podman")
    assert find("ssh").found.startswith("none;")
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\n[ $1 = --version ] && echo Docker version 28 || { echo no daemon >&2; exit 1; }\n")
    docker.chmod(0o755)
    assert find("containers").state is State.LIMITED
    assert find("containers").found == "docker does not work here: no daemon"
    docker.write_text("#!/bin/sh\n[ $1 = --version ] && echo Docker version 28 || echo 28.2.2\n")
    assert find("containers").found == "docker 28.2.2"
