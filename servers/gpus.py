"""What GPUs a machine has: read with NVML here, with ``nvidia-smi`` over ssh elsewhere."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import psutil
import pynvml

from harness.records import GpuFacts, GpuProcess
from servers.runtimes.ask import NOT_THERE, ask_here
from servers.runtimes.ssh import ssh_command

GIB = 1 << 30
MIB_PER_GIB = 1024
SSH_TIMEOUT_S = 30.0
GPU_FIELDS = (
    "index",
    "name",
    "memory.total",
    "memory.used",
    "driver_version",
    "compute_cap",
    "mig.mode.current",
    "uuid",
)
PROCESS_FIELDS = ("gpu_uuid", "pid", "process_name", "used_gpu_memory")
_SEPARATOR = "--processes--"


class Nvml(Protocol):
    """What is used of the module ``pynvml``."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: N802
    def nvmlShutdown(self) -> None: ...  # noqa: N802
    def nvmlSystemGetDriverVersion(self) -> str: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> Any: ...  # noqa: N802
    def nvmlDeviceGetName(self, handle: Any, /) -> str: ...  # noqa: N802
    def nvmlDeviceGetMemoryInfo(self, handle: Any, /) -> Any: ...  # noqa: N802
    def nvmlDeviceGetCudaComputeCapability(self, handle: Any, /) -> Sequence[int]: ...  # noqa: N802
    def nvmlDeviceGetMigMode(self, handle: Any, /) -> Sequence[int]: ...  # noqa: N802
    def nvmlDeviceGetUUID(self, handle: Any, /) -> str: ...  # noqa: N802
    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any, /) -> Sequence[Any]: ...  # noqa: N802


@dataclass(frozen=True, slots=True)
class Found:
    """The GPUs of a machine; ``problem`` says why there are none, or why they could not be read."""

    gpus: tuple[GpuFacts, ...] = ()
    problem: str = ""
    machine: str = "this machine"
    absent: bool = False
    """There is no driver, so there is nothing to repair."""


def gpus_here(nvml: Nvml = pynvml) -> Found:
    """Read the GPUs of this machine; a machine without any is no error."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Found(problem=f"no NVIDIA driver: {error}", absent=True)
    try:
        driver = nvml.nvmlSystemGetDriverVersion()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return Found(tuple(_facts(nvml, index, handle, driver) for index, handle in enumerate(handles)))
    except nvml.NVMLError as error:
        return Found(problem=f"the driver does not answer: {error}")
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _facts(nvml: Nvml, index: int, handle: Any, driver: str) -> GpuFacts:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    capability: float | None = None
    mig, uuid = False, ""
    processes: tuple[GpuProcess, ...] = ()
    # Each of these is missing on some GPU or driver: MIG on a T4, processes in some containers.
    with suppress(nvml.NVMLError):
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
        capability = major + minor / 10
    with suppress(nvml.NVMLError):
        mig = nvml.nvmlDeviceGetMigMode(handle)[0] == 1
    with suppress(nvml.NVMLError):
        uuid = nvml.nvmlDeviceGetUUID(handle)
    with suppress(nvml.NVMLError):
        processes = tuple(
            GpuProcess(
                pid=each.pid,
                name=_name_of(each.pid),
                memory_gib=None if each.usedGpuMemory is None else each.usedGpuMemory / GIB,
            )
            for each in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        )
    return GpuFacts(
        index=index,
        name=nvml.nvmlDeviceGetName(handle),
        memory_gib=memory.total / GIB,
        used_gib=memory.used / GIB,
        driver=driver,
        compute_capability=capability,
        mig=mig,
        uuid=uuid,
        processes=processes,
    )


def _name_of(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:  # of another container, or ended
        return ""


def gpus_over_ssh(host: str) -> Found:
    """Read the GPUs of another machine with its ``nvidia-smi``; keys must let us in without a question."""
    asked = (
        f"nvidia-smi --query-gpu={','.join(GPU_FIELDS)} --format=csv,noheader,nounits && echo {_SEPARATOR} && "
        f"nvidia-smi --query-compute-apps={','.join(PROCESS_FIELDS)} --format=csv,noheader,nounits"
    )
    command = ssh_command(host, asked)
    answer = ask_here(command, SSH_TIMEOUT_S)
    if answer.code == NOT_THERE and answer.err.startswith(f"{command[0]}:"):
        return Found(problem=f"there is no {command[0]} command here", machine=host)
    if answer.code != 0:
        return Found(problem=answer.reason, machine=host)
    gpus, _, processes = answer.out.partition(_SEPARATOR)
    try:
        return Found(tuple(_from_csv(gpus, list(_processes(processes)))), machine=host)
    except ValueError as error:
        return Found(problem=f"nvidia-smi said something unexpected: {error}", machine=host)


def _from_csv(text: str, processes: Sequence[tuple[str, GpuProcess]]) -> Iterator[GpuFacts]:
    for row in _rows(text):
        if len(row) != len(GPU_FIELDS):
            raise ValueError(", ".join(row))
        index, name, total, used, driver, capability, mig, uuid = row
        yield GpuFacts(
            index=int(index),
            name=name,
            memory_gib=float(total) / MIB_PER_GIB,
            used_gib=float(used) / MIB_PER_GIB,
            driver=driver,
            compute_capability=_number(capability),
            mig=mig == "Enabled",
            uuid=uuid,
            processes=tuple(process for on, process in processes if on == uuid),
        )


def _processes(text: str) -> Iterator[tuple[str, GpuProcess]]:
    for row in _rows(text):
        if len(row) == len(PROCESS_FIELDS) and row[1].isdigit():
            memory = _number(row[3])
            yield (
                row[0],
                GpuProcess(pid=int(row[1]), name=row[2], memory_gib=None if memory is None else memory / MIB_PER_GIB),
            )


def _rows(text: str) -> Iterator[list[str]]:
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if row:
            yield [word.strip() for word in row]


def _number(text: str) -> float | None:
    """None for nvidia-smi's ``[N/A]``."""
    try:
        return float(text)
    except ValueError:
        return None
