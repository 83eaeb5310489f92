"""What this machine can run: the facts behind ``harness doctor``, which shows them."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path

import psutil

from harness.catalog import Catalog, load_catalog
from harness.errors import ServerError
from harness.records import Record
from harness.spec import Gpu
from servers.environments import ENVIRONMENTS, problems
from servers.gpus import Found, gpus_here
from servers.haproxy import find_haproxy
from servers.models.listing import listed
from servers.preflight import is_a, preflight, why_busy
from servers.runtimes.ask import ask_here
from servers.runtimes.container import ENGINE_VARIABLE, find
from servers.runtimes.container import ENGINES as CONTAINER_ENGINES

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
    found, catalog = gpus_here(), load_catalog()
    return [
        _python(),
        _cores(),
        _memory(),
        _disk(directory),
        _open_files(),
        _ports(),
        _haproxy(),
        _containers(),
        _ssh(),
        *_gpus(found, catalog.gpus.values()),
        _stacks(found, catalog),
        *(_engine(name, check) for name, check in ENGINES.items()),
        *_models(),
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


def _haproxy() -> Finding:
    try:
        return _finding("HAProxy", State.OK, find_haproxy())
    except ServerError as error:
        return _finding("HAProxy", State.LIMITED, "not there", str(error))


def _containers() -> Finding:
    if not any(
        shutil.which(name) for name in (os.environ.get(ENGINE_VARIABLE, "").strip(), *CONTAINER_ENGINES) if name
    ):
        return _finding("containers", State.OK, "no docker or podman; only stacks with runtime: container need one")
    try:
        engine = find()
    except ServerError as error:
        return _finding("containers", State.LIMITED, str(error), "start its daemon, for stacks with runtime: container")
    return _finding("containers", State.OK, f"{engine.program} {engine.version}")


def _ssh() -> Finding:
    if shutil.which("ssh") is None:
        return _finding("ssh", State.OK, "none; only stacks with an ssh_host need it")
    answer = ask_here(("ssh", "-V"))
    return _finding("ssh", State.OK, answer.reason)


def _gpus(found: Found, known: Iterable[Gpu]) -> Iterator[Finding]:
    if found.absent or not (found.gpus or found.problem):
        why = found.problem or "the driver sees no GPU"
        yield _finding("GPU", State.OK, f"none ({why}); emulated GPUs and llama.cpp on the CPU need none")
    elif found.problem:
        yield _finding("GPU", State.LIMITED, found.problem, "nvidia-smi says more")
    for gpu in found.gpus:
        entry = next((each.name for each in known if is_a(gpu, each)), None)
        used = f", {gpu.used_gib:.1f} GiB in use" if why_busy(gpu) else ""
        mig = ", MIG on" if gpu.mig else ""
        said = f"{gpu.text}{used}{mig}; " + (f"'{entry}' of the catalog" if entry else "not in the catalog")
        if gpu.mig:
            remedy = f"stacks want whole GPUs: nvidia-smi -i {gpu.index} -mig 0"
        else:
            remedy = why_busy(gpu) and "end what holds it, or stacks start on other GPUs"
        yield _finding(f"GPU {gpu.index}", State.LIMITED if remedy else State.OK, said, remedy)


def _stacks(found: Found, catalog: Catalog) -> Finding:
    """Which stacks on GPUs this machine has the hardware for."""
    fitting, others = [], []
    shortest = min(catalog.scenarios.values(), key=lambda scenario: scenario.workload.output_tokens)
    for stack in catalog.stacks.values():
        if stack.hardware is None:
            continue
        try:
            preflight(
                stack,
                shortest,
                catalog.gpus[stack.hardware.gpu],
                (),
                found=found,
            )
        except ServerError:
            others.append(stack.name)
        else:
            fitting.append(stack.name)
    name = "stacks on GPUs"
    if fitting:
        return _finding(name, State.OK, f"with --real: {', '.join(fitting)}")
    if not found.gpus:
        return _finding(name, State.OK, f"none for real, all {len(others)} on the emulator")
    return _finding(
        name,
        State.LIMITED,
        f"none of {len(others)} has its own hardware here, all run on the emulator",
        "--real --allow-other-gpu runs one on what is here, and marks the run",
    )


def _models() -> Iterator[Finding]:
    for model in listed():
        size = f", {model.size_mb:,.0f} MB" if model.size_mb else ""
        if model.state == "ready":
            yield _finding(f"model {model.name}", State.OK, f"{model.path}{size}")
        else:
            found = f"{'unfinished' if model.state == 'incomplete' else 'not there'}{size}"
            yield _finding(f"model {model.name}", State.MISSING, found, f"harness models {model.name}")


def _environment(name: str) -> Finding:
    wanted = ENVIRONMENTS[name]
    missing = problems(wanted)
    if missing:
        size = f" (takes {wanted.size_mb:,} MB)" if wanted.size_mb else ""
        return _finding("", State.MISSING, "; ".join(missing) + size, wanted.command)
    return _finding("", State.OK, ", with ".join([str(wanted.directory), *(model.name for model in wanted.models)]))


def _made(name: str) -> Callable[[], Finding]:
    """An engine whose environment the harness makes, as soon as it knows one."""
    if name in ENVIRONMENTS:
        return lambda: _environment(name)
    found = "not started by the harness: its stacks run on the emulator"
    return lambda: _finding("", State.LIMITED, found, "start it yourself and give its URL")


def _always(found: str) -> Callable[[], Finding]:
    return lambda: _finding("", State.OK, found)


ENGINES: dict[str, Callable[[], Finding]] = {
    "emulator": _always("part of the harness"),
    "attach": _always("any URL"),
    "openai": _always("a URL, with the key in the environment variable that the stack names"),
    "llamacpp": _made("llamacpp"),
    "vllm": _made("vllm"),
    "triton-trtllm": _made("triton"),
    "triton-onnx": _made("triton-onnx"),
    "triton-ctranslate2": _made("triton-onnx"),
    "transformers": _made("transformers"),
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
