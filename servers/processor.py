"""What this machine's processor computes fast."""

from __future__ import annotations

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def slow_in_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether PyTorch's kernels would emulate bfloat16 here: an x86 without AVX-512.

    SmolLM2 in vLLM took 0.8 s a step in bfloat16 on such a processor. False where the processor does not say.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return bool(flags) and "avx512f" not in flags
