"""A stand-in for ``pynvml`` at its own functions: two GPUs that draw 300 W and 100 W since the machine started.

The second supports neither the energy counter nor clocks, as an older card does. Put into ``sys.modules`` as
``pynvml``, or into a folder on ``PYTHONPATH`` under that name. The real module was never run against a GPU here.
"""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

NVML_TEMPERATURE_GPU = 0
NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2
WATTS = (300.0, 100.0)


class NVMLError(Exception):
    """As NVML's: of one class here."""


def nvmlInit() -> None:  # noqa: N802
    if os.environ.get("FAKE_NVML") == "no driver":
        raise NVMLError("Driver Not Loaded")


def nvmlShutdown() -> None:  # noqa: N802
    return


def nvmlSystemGetDriverVersion() -> str:  # noqa: N802
    return "570.1"


def nvmlDeviceGetCudaComputeCapability(handle: int) -> tuple[int, int]:  # noqa: N802
    return 8, 0


def nvmlDeviceGetMigMode(handle: int) -> tuple[int, int]:  # noqa: N802
    return 0, 0


def nvmlDeviceGetUUID(handle: int) -> str:  # noqa: N802
    return f"GPU-{handle}"


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return len(WATTS)


def nvmlDeviceGetHandleByIndex(index: int) -> int:  # noqa: N802
    return index


def nvmlDeviceGetName(handle: int) -> str:  # noqa: N802
    return ("NVIDIA H100", "Tesla P4")[handle]


def nvmlDeviceGetUtilizationRates(handle: int) -> SimpleNamespace:  # noqa: N802
    return SimpleNamespace(gpu=(90, 10)[handle], memory=5)


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:  # noqa: N802
    return SimpleNamespace(used=(64 << 30, 1 << 30)[handle], total=80 << 30)


def nvmlDeviceGetPowerUsage(handle: int) -> int:  # noqa: N802
    return round(1000 * WATTS[handle])


def nvmlDeviceGetTemperature(handle: int, sensor: int) -> int:  # noqa: N802
    return (61, 40)[handle]


def nvmlDeviceGetClockInfo(handle: int, kind: int) -> int:  # noqa: N802
    if handle == 1:
        raise NVMLError("Not Supported")
    return {NVML_CLOCK_SM: 1755, NVML_CLOCK_MEM: 2619}[kind]


def nvmlDeviceGetCurrentClocksThrottleReasons(handle: int) -> int:  # noqa: N802
    return (0x4, 0x1)[handle]


def nvmlDeviceGetTotalEnergyConsumption(handle: int) -> int:  # noqa: N802
    if handle == 1:
        raise NVMLError("Not Supported")
    return round(1000 * WATTS[handle] * time.monotonic())


def nvmlDeviceGetComputeRunningProcesses(handle: int) -> list[SimpleNamespace]:  # noqa: N802
    pid = os.environ.get("FAKE_NVML_PID")
    return [SimpleNamespace(pid=int(pid))] if pid and handle == 0 else []
