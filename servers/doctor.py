"""What this machine can run: the facts behind ``harness doctor``, which shows them."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

import psutil
import pynvml

from harness.records import Record
from servers.environments import ENVIRONMENTS, problems

PYTHONS = ((3, 11), (3, 14))
"""From, and up to but not including."""
USERS = 1000
"""The largest scenario of the catalog."""
SPARE_FILES = 200
"""Descriptors besides one socket a user."""
MEMORY_GIB = 4.0
"""Harness with 1,000 users some 0.7, llama.cpp 0.7, and room for the system."""
DISK_GIB = 2.0
"""Environments 0.7, models 0.1, a full run some 0.1."""
GIB = 1 << 30


class State(StrEnum):
    OK = "ok"
    LIMITED = "limited"
    """It works, but not everything."""
    MISSING = "missing"


class Finding(Record):
    """One line: what it is, what was found, and what to do about it where there is something to do."""

    name: str
    state: State
    found: str
    remedy: str = ""


def examine(directory: Path = Path("runs")) -> list[Finding]:
    """All findings; ``directory`` is where runs are to be written."""
    return [
        _python(),
        _cores(),
        _memory(),
        _disk(directory),
        _open_files(),
        _ports(),
        *_gpus(),
        *(_engine(name, check) for name, check in ENGINES.items()),
    ]


def _python() -> Finding:
    version = sys.version.split()[0]
    if PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]:
        return _finding("Python", State.OK, version)
    return _finding("Python", State.MISSING, version, "Python 3.11 to 3.13 is needed: make setup PYTHON=python3.12")


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0))
    quota = _cgroup_cores()
    found = f"{usable} cores" + ("" if quota is None or quota >= usable else f", limited to {quota:g} by the cgroup")
    if min(usable, quota or usable) >= 2:
        return _finding("CPU", State.OK, found)
    return _finding("CPU", State.LIMITED, found, "server and load generator share one core: expect INVALID under load")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    limit = _cgroup_memory()
    total = memory.total if limit is None else min(memory.total, limit)
    found = f"{total / GIB:.1f} GiB, {min(memory.available, total) / GIB:.1f} free"
    if min(memory.available, total) >= MEMORY_GIB * GIB:
        return _finding("memory", State.OK, found)
    return _finding("memory", State.LIMITED, found, f"{MEMORY_GIB:g} GiB free are enough for {USERS:,} users")


def _disk(directory: Path) -> Finding:
    there = next(path for path in (directory, *directory.resolve().parents) if path.exists())
    free = shutil.disk_usage(there).free
    found = f"{free / GIB:.1f} GiB free at {there}"
    if free >= DISK_GIB * GIB:
        return _finding("disk", State.OK, found)
    return _finding("disk", State.LIMITED, found, f"{DISK_GIB:g} GiB hold the environments and some runs")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = USERS + SPARE_FILES
    shown = "no limit" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    found = f"{soft:,} now, {shown} at most; {USERS:,} users need {need:,}"
    if hard == resource.RLIM_INFINITY or hard >= need:
        return _finding("open files", State.OK, found)
    return _finding("open files", State.LIMITED, found, f"raise it (ulimit -Hn {need}) or take more worker processes")


def _ports() -> Finding:
    """Each connection to one server address takes one local port."""
    text = _read("/proc/sys/net/ipv4/ip_local_port_range").split()
    if len(text) != 2:
        return _finding("local ports", State.LIMITED, "unknown")
    first, last = int(text[0]), int(text[1])
    found = f"{last - first + 1:,} ({first} to {last}); {USERS:,} users need {USERS:,}"
    if last - first + 1 >= 2 * USERS:
        return _finding("local ports", State.OK, found)
    return _finding("local ports", State.LIMITED, found, "sysctl net.ipv4.ip_local_port_range='32768 60999'")


def _gpus() -> Iterator[Finding]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield _finding("GPU", State.OK, f"none ({error}); emulated GPUs and llama.cpp on the CPU need none")
        return
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            name = f"{pynvml.nvmlDeviceGetName(handle)}, {memory.total / GIB:.1f} GiB"
            used = f", {memory.used / GIB:.1f} in use" if memory.used > memory.total / 20 else ""
            yield _finding(f"GPU {index}", State.OK, f"{name}{used}, driver {driver}")
    except pynvml.NVMLError as error:
        yield _finding("GPU", State.LIMITED, f"a driver that does not answer ({error})", "nvidia-smi says more")
    finally:
        pynvml.nvmlShutdown()


def _llamacpp() -> Finding:
    environment = ENVIRONMENTS["llamacpp"]
    missing = problems(environment)
    if missing:
        return _finding("", State.MISSING, "; ".join(missing), environment.command)
    return _finding("", State.OK, f"{environment.directory}, with {environment.models[0].name}")


def _always(found: str) -> Callable[[], Finding]:
    return lambda: _finding("", State.OK, found)


def _elsewhere(how: str) -> Callable[[], Finding]:
    return lambda: _finding("", State.LIMITED, "not started by the harness: its stacks run on the emulator", how)


ENGINES: dict[str, Callable[[], Finding]] = {
    "emulator": _always("part of the harness"),
    "attach": _always("any URL"),
    "openai": _always("a URL, with the key in the environment variable that the stack names"),
    "llamacpp": _llamacpp,
    "vllm": _elsewhere("start it yourself (vllm serve MODEL) and give its URL"),
    "triton-trtllm": _elsewhere("start it yourself (tritonserver) and give its URL"),
    "triton-onnx": _elsewhere("start it yourself (tritonserver) and give its URL"),
    "transformers": _elsewhere("start it yourself (transformers serve) and give its URL"),
}
"""A stack's ``engine`` to whether it runs here."""


def _engine(name: str, check: Callable[[], Finding]) -> Finding:
    finding = check()
    return finding.model_copy(update={"name": f"engine {name}"})


def _finding(name: str, state: State, found: str, remedy: str = "") -> Finding:
    return Finding(name=name, state=state, found=found, remedy=remedy)


def _cgroup_cores() -> float | None:
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.strip().isdigit() else None


def _cgroup_memory() -> int | None:
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return int(limit) if limit.isdigit() else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
