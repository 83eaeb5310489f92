"""A stand-in for the module ``pynvml`` at the functions that are used, and GPUs as drivers describe them."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

from harness.records import GpuFacts, GpuProcess

GIB = 1 << 30
SIZES = {
    "Tesla T4": (15.0, 7.5),
    "NVIDIA A100-SXM4-40GB": (39.5, 8.0),
    "NVIDIA A100-SXM4-80GB": (79.2, 8.0),
    "NVIDIA H200": (139.8, 9.0),
    "NVIDIA L4": (22.5, 8.9),
    "NVIDIA L40S": (44.4, 8.9),
}
"""GiB and compute capability by the driver's name."""


def gpu(
    name: str, index: int = 0, *, used_gib: float = 0.4, mig: bool = False, held: dict[int, float | None] | None = None
) -> GpuFacts:
    memory_gib, capability = SIZES[name]
    return GpuFacts(
        index=index,
        name=name,
        memory_gib=memory_gib,
        used_gib=used_gib,
        driver="570.1",
        compute_capability=capability,
        mig=mig,
        uuid=f"GPU-{index}",
        processes=tuple(GpuProcess(pid=pid, name="python", memory_gib=gib) for pid, gib in (held or {}).items()),
    )


def gpus(name: str, count: int) -> tuple[GpuFacts, ...]:
    return tuple(gpu(name, index) for index in range(count))


@dataclass
class FakeNvml:
    """Answers for ``gpus``; ``refuses`` names the functions that raise, and the error code that they raise."""

    gpus: tuple[GpuFacts, ...] = ()
    refuses: dict[str, int] = field(default_factory=dict)
    open: int = 0
    NVMLError: type[Exception] = pynvml.NVMLError

    def _ask(self, function: str) -> None:
        if function in self.refuses:
            raise pynvml.NVMLError(self.refuses[function])

    def nvmlInit(self) -> None:  # noqa: N802
        self._ask("nvmlInit")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        self._ask("nvmlSystemGetDriverVersion")
        return "570.1"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> GpuFacts:  # noqa: N802
        return self.gpus[index]

    def nvmlDeviceGetName(self, handle: GpuFacts, /) -> str:  # noqa: N802
        return handle.name

    def nvmlDeviceGetUUID(self, handle: GpuFacts, /) -> str:  # noqa: N802
        return handle.uuid

    def nvmlDeviceGetMemoryInfo(self, handle: GpuFacts, /) -> Any:  # noqa: N802
        return SimpleNamespace(total=int(handle.memory_gib * GIB), used=int(handle.used_gib * GIB))

    def nvmlDeviceGetCudaComputeCapability(self, handle: GpuFacts, /) -> list[int]:  # noqa: N802
        assert handle.compute_capability is not None
        return [int(handle.compute_capability), round(handle.compute_capability * 10) % 10]

    def nvmlDeviceGetMigMode(self, handle: GpuFacts, /) -> list[int]:  # noqa: N802
        self._ask("nvmlDeviceGetMigMode")
        return [int(handle.mig), 0]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: GpuFacts, /) -> list[Any]:  # noqa: N802
        self._ask("nvmlDeviceGetComputeRunningProcesses")
        return [
            SimpleNamespace(pid=each.pid, usedGpuMemory=None if each.memory_gib is None else int(each.memory_gib * GIB))
            for each in handle.processes
        ]
