"""``manifest.json``: everything that says what a run was, so that it can be judged and repeated without its machine."""

from __future__ import annotations

from harness.records import RUN_FORMAT, GpuFacts, LoadFacts, Record, ServerFacts, SpendFacts, WorkerFacts
from harness.spec import Gpu, Scenario, Stack


class Manifest(Record):
    """One run. Written before the load, rewritten at each phase, sealed with digests at the end.

    ``scenario`` and ``stack`` are the specifications *as run*, overrides and reductions applied.
    """

    format: int = RUN_FORMAT
    run: str
    profile: str
    scenario: Scenario
    stack: Stack
    gpu: Gpu | None = None
    """Data sheet of the GPU that it ran on: the stack's own, or the other one that was found, if the catalog has it."""
    other_gpu: str = ""
    """GPUs that it ran on in place of the stack's own hardware; empty: on its own."""
    gpu_facts: tuple[GpuFacts, ...] = ()
    """GPUs that the server was given, as their driver described them before the start."""
    reduced: bool = False
    overrides: dict[str, str] = {}
    """Options that changed the scenario, as given (users, think time, output tokens, run time)."""
    shortened_from: int = 0
    """Output tokens of the scenario where fewer were asked for; 0: none fewer."""
    region: str = ""
    stream: bool = True
    """False: answers came whole, so nothing before their end has a time."""
    confidence: float = 0.95
    seeds: dict[str, int] = {}
    load: LoadFacts
    workers: tuple[WorkerFacts, ...] = ()
    server: ServerFacts = ServerFacts()
    spend: SpendFacts | None = None
    """None: nothing is paid by the token."""
    harness_version: str = ""
    git: str = ""
    python: str = ""
    locust: str = ""
    host: str = ""
    cores: int = 0
    gpus: tuple[str, ...] = ()
    """GPUs of the host that made the load, by NVML: name, memory, compute capability and driver."""
    started: str = ""
    """ISO 8601, UTC."""
    command: str = ""
    repeat: str = ""
    sealed: bool = False
    digests: dict[str, str] = {}
    """File name to ``sha256:...`` of every other file, at seal."""
    compacted: dict[str, str] = {}
    """File name to the digest that it had at seal, before retention dropped the gaps between tokens from it."""
    problems: tuple[str, ...] = ()
    """What went wrong on the harness's side, in plain sentences; each makes the run INVALID."""
