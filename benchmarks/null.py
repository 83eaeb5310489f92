"""The server of known timing that benchmarks load, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from servers import null_server

PEM = Path(null_server.__file__).with_name("null_server.pem")


@dataclass(frozen=True)
class Timing:
    """Of every answer, seconds; ``tokens`` are what one read each brings."""

    ttft_s: float
    gap_s: float
    tokens: int

    @property
    def e2e_s(self) -> float:
        return self.ttft_s + (self.tokens - 1) * self.gap_s


@contextmanager
def null(timing: Timing, core: int, log: Path | None = None, tls: bool = False) -> Iterator[int]:
    """Its port. It has ``core``, and the benchmark's client another."""
    command = ["taskset", "-c", str(core), sys.executable, "-I", "-S", null_server.__file__]
    command += ["--ttft", str(timing.ttft_s), "--gap", str(timing.gap_s), "--tokens", str(timing.tokens)]
    command += ["--log", str(log)] if log is not None else []
    command += ["--tls", str(PEM)] if tls else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(json.loads(server.stdout.readline())["port"])
        finally:
            server.terminate()
            server.wait()


def two_cores() -> tuple[int, int]:
    """For the server and for the client; one and the same where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]
