"""NVIDIA GPUs through NVML. On a machine without any there is nothing to read, and that is no error.

Each value is asked for by itself: a GPU (or a MIG slice) that does not support one has the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

Values = dict[str, float]

CHEAP_S = 0.003
"""Power is read ten times a second only where one round over all GPUs takes no longer: 3% of a core."""


class Gpus:
    """The GPUs of this host, by NVML's index."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self._nvml: Any = None
        self._handles: dict[int, Any] = {}
        try:
            import pynvml
        except ImportError:
            return
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            for index in range(pynvml.nvmlDeviceGetCount()):
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                self.names[index] = str(pynvml.nvmlDeviceGetName(handle))
                self._handles[index] = handle
        except pynvml.NVMLError:  # no driver, no permission, or a GPU that fell off the bus
            return
        self._reads: dict[str, Callable[[Any], float]] = {
            "gpu_utilization": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
            "gpu_memory_bytes": lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).used,
            "gpu_power_w": lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
            "gpu_temperature_c": lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
            "gpu_sm_mhz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
            "gpu_memory_mhz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
            "gpu_throttle": pynvml.nvmlDeviceGetCurrentClocksThrottleReasons,
            "gpu_energy_j": lambda gpu: pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3,
        }

    def read(self, server: Collection[int]) -> dict[int, Values]:
        """Everything, of every GPU; ``server`` are the server's processes, by which its GPUs are known."""
        found = {index: self._all_of(handle) for index, handle in self._handles.items()}
        for index, handle in self._handles.items():
            on_gpu = self._processes(handle)
            if on_gpu is not None and server:
                found[index]["gpu_server_processes"] = float(len(on_gpu & set(server)))
        return {index: values for index, values in found.items() if values}

    def read_power(self) -> dict[int, Values]:
        """Power alone, in watts."""
        found = {}
        for index, handle in self._handles.items():
            watts = self._one("gpu_power_w", handle)
            if watts is not None:
                found[index] = {"gpu_power_w": watts}
        return found

    def power_is_cheap(self) -> bool:
        """Whether power can be read ten times a second without anybody noticing."""
        self.read_power()  # the first call looks its function up
        began = time.monotonic()
        return bool(self.read_power()) and time.monotonic() - began <= CHEAP_S

    def close(self) -> None:
        if self._nvml is not None and self._handles:
            with suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
            self._handles = {}

    def _all_of(self, handle: Any) -> Values:
        values = {name: self._one(name, handle) for name in self._reads}
        return {name: value for name, value in values.items() if value is not None}

    def _one(self, name: str, handle: Any) -> float | None:
        try:
            return float(self._reads[name](handle))
        except self._nvml.NVMLError:  # not supported by this GPU, or gone for the moment
            return None

    def _processes(self, handle: Any) -> set[int] | None:
        try:
            return {int(process.pid) for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
        except self._nvml.NVMLError:
            return None
