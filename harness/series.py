"""What telemetry records: the name, unit and meaning of every series, the same for every server.

A *gauge* is a value at a moment; a *counter* only grows, and is shown as its growth per second. A series that a
server or a machine does not have is absent from a run, never zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["gauge", "counter", "mark"]
Unit = Literal["requests", "share", "tokens", "events", "s", "bytes", "threads", "processes", "W", "°C", "MHz", "J", ""]


@dataclass(frozen=True, slots=True)
class Series:
    """One name of the vocabulary. ``unit`` is the recorded value's; a counter's rate has ``rate_unit``.

    A *mark* is recorded for what is derived from it and has no statistics of its own. ``combined`` says how
    several GPUs make one value.
    """

    label: str
    unit: Unit
    kind: Kind = "gauge"
    rate_unit: str = ""
    combined: Literal["sum", "mean", "max"] = "sum"

    @property
    def shown_unit(self) -> str:
        return self.rate_unit if self.kind == "counter" else self.unit


SERIES: dict[str, Series] = {
    # As the server itself counts, scraped from its metrics page.
    "running": Series("Running at the server", "requests"),
    "waiting": Series("Waiting at the server", "requests"),
    "kv_use": Series("KV cache in use", "share"),
    "prompt_tokens_total": Series("Prompt tokens", "tokens", "counter", "tokens/s"),
    "cached_tokens_total": Series("Prompt tokens from the prefix cache", "tokens", "counter", "tokens/s"),
    "output_tokens_total": Series("Output tokens", "tokens", "counter", "tokens/s"),
    "preemptions_total": Series("Preemptions", "events", "counter", "events/s"),
    "finished_total": Series("Requests finished", "requests", "counter", "req/s"),
    "scrape_failed": Series("Scrapes that failed", "", "mark"),
    # As the kernel accounts for processes; CPU seconds per second are cores.
    "server_cpu_s": Series("CPU of the server", "s", "counter", "cores"),
    "server_rss_bytes": Series("Memory of the server", "bytes"),
    "server_threads": Series("Threads of the server", "threads"),
    "server_processes": Series("Processes of the server", "processes"),
    "load_cpu_s": Series("CPU of the load generator", "s", "counter", "cores"),
    "load_rss_bytes": Series("Memory of the load generator", "bytes"),
    "telemetry_cpu_s": Series("CPU of this telemetry", "s", "counter", "cores"),
    "host_cpu_share": Series("CPU of the host", "share"),
    "host_memory_bytes": Series("Memory of the host in use", "bytes"),
    "host_load_1m": Series("Load average, 1 min", "processes"),
    # As NVML reports them, for each GPU.
    "gpu_utilization": Series("GPU utilisation", "share", combined="mean"),
    "gpu_memory_bytes": Series("GPU memory in use", "bytes"),
    "gpu_power_w": Series("GPU power", "W"),
    "gpu_temperature_c": Series("GPU temperature", "°C", combined="max"),
    "gpu_sm_mhz": Series("SM clock", "MHz", combined="mean"),
    "gpu_memory_mhz": Series("Memory clock", "MHz", combined="mean"),
    "gpu_energy_j": Series("Energy counter", "J", "mark"),
    "gpu_throttle": Series("Reasons of lowered clocks", "", "mark"),
    "gpu_server_processes": Series("Processes of the server on the GPU", "processes", "mark"),
}
"""Name to meaning, in the order in which a reader sees them."""

THROTTLE_REASONS: dict[int, str] = {
    0x1: "idle",
    0x2: "application clocks setting",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks setting",
}
"""Bits of NVML's clocks event reasons. ``idle`` lowers clocks of a GPU without work and throttles nothing."""
IDLE = 0x1


def throttle_reasons(mask: int) -> tuple[str, ...]:
    """Name the bits of NVML's mask, idleness left out; an unknown bit is named by its number."""
    known = tuple(name for bit, name in THROTTLE_REASONS.items() if mask & bit & ~IDLE)
    rest = mask & ~sum(THROTTLE_REASONS)
    return (*known, f"reason {rest:#x}") if rest else known
