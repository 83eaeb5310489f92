"""Before a stack starts on real GPUs: is this the hardware that it is about, is it free, and can the model fit?

A number measured on another GPU says nothing of the stack's own, so a mismatch is refused unless the user asked for
it (``--allow-other-gpu``), and then the run is marked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence

from harness.errors import ServerError
from harness.records import GpuFacts, Record
from harness.roofline import Machine, does_not_fit, memory_fit
from harness.spec import Emulation, Gpu, Scenario, Stack
from servers.gpus import Found, gpus_here, gpus_over_ssh

BUSY_SHARE = 0.05
"""Of a GPU's memory. What the driver keeps for itself stays below: some 3% of a T4, under 1% of an A100."""
MEMORY_TOLERANCE = 0.1
"""Between the catalog's usable memory and the driver's: ECC and driver versions move it by a few percent."""
BFLOAT16_CAPABILITY = 8.0
NEEDED_CAPABILITY: dict[str, tuple[str, float]] = {
    "vllm": ("vLLM", 7.5),
    "triton-trtllm": ("TensorRT-LLM", 8.0),
}
"""A stack's ``engine`` to its name and the least NVIDIA compute capability that it supports."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Placement(Record):
    """Which GPUs a stack gets."""

    gpus: tuple[GpuFacts, ...] = ()
    gpu: Gpu | None = None
    """The catalog's entry of what was found; None when it has none."""
    other: str = ""
    """What was found where it is not the stack's own hardware; empty: it is."""

    @property
    def indices(self) -> tuple[int, ...]:
        return tuple(each.index for each in self.gpus)


def preflight(
    stack: Stack,
    scenario: Scenario,
    target: Gpu,
    known: Iterable[Gpu],
    *,
    allow_other: bool = False,
    found: Found | None = None,
) -> Placement:
    """Compare the stack's target with the GPUs of the machine where it is to run, and choose from them.

    Parameters
    ----------
    known
        The catalog's GPUs, among which what was found is looked up.
    found
        The machine's GPUs; None: they are read, here or over ssh.

    Raises
    ------
    ServerError
        One sentence that names what is wanted and what is there.
    """
    if found is None:
        host = stack.launch.ssh_host
        found = gpus_here() if host is None else gpus_over_ssh(host)
        if host is None:
            found = _visible(found)
    wanted = f"the stack '{stack.name}' wants {stack.gpu_count} x {target.title}"
    if not found.gpus:
        why = f" ({found.problem})" if found.problem else ""
        raise ServerError(f"{wanted}, and {found.machine} has no GPU{why}; without --real it runs on the emulator")
    own = [gpu for gpu in found.gpus if is_a(gpu, target)]
    other = not own
    if other and not allow_other:
        raise ServerError(
            f"{wanted}, {found.machine} has {describe(found.gpus)}; --allow-other-gpu runs it there all the same, "
            "and marks the run"
        )
    chosen = _choose(stack, own or list(_alike(found.gpus)), wanted, found)
    _require_capability(stack, chosen)
    _require_memory(stack, scenario, target, chosen)
    entry = next((gpu for gpu in known if is_a(chosen[0], gpu)), None) if other else target
    return Placement(gpus=tuple(chosen), gpu=entry, other=describe(chosen) if other else "")


def is_a(found: GpuFacts, gpu: Gpu) -> bool:
    """Whether a GPU is the catalog's: by a whole word of its name, its memory and its compute capability."""
    named = any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", found.name) for name in gpu.nvml_names)
    roomy = abs(found.memory_gib - gpu.memory_gib) <= MEMORY_TOLERANCE * gpu.memory_gib
    capability = (found.compute_capability, gpu.compute_capability)
    return named and roomy and (None in capability or capability[0] == capability[1])


def describe(gpus: Sequence[GpuFacts]) -> str:
    """``2 x NVIDIA H200``, kinds in the order in which they are found."""
    names = [each.name for each in gpus]
    return " and ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def why_busy(gpu: GpuFacts) -> str:
    """Who holds more of a GPU's memory than an idle driver does; empty: nobody."""
    large = [each for each in gpu.processes if (each.memory_gib or 0.0) > BUSY_SHARE * gpu.memory_gib]
    if large:
        held = ", ".join(
            f"process {each.pid}{f' ({each.name})' if each.name else ''} holds {each.memory_gib:.1f}" for each in large
        )
        return f"GPU {gpu.index} is in use: {held} of {gpu.memory_gib:.1f} GiB"
    if gpu.used_gib > BUSY_SHARE * gpu.memory_gib:
        pids = ", ".join(str(each.pid) for each in gpu.processes)
        by = f"process {pids}" if pids else "processes that cannot be seen from here"
        return f"GPU {gpu.index} is in use: {gpu.used_gib:.1f} of {gpu.memory_gib:.1f} GiB, by {by}"
    return ""


def lacks(engine: str, capability: float | None) -> str:
    """Why an engine does not run on a GPU of this compute capability; empty: it does, or nobody knows."""
    name, least = NEEDED_CAPABILITY.get(engine, (engine, 0.0))
    if capability is None or capability >= least:
        return ""
    return f"{name} needs compute capability {least:.1f} or newer"


def _choose(stack: Stack, candidates: Sequence[GpuFacts], wanted: str, found: Found) -> list[GpuFacts]:
    """The first free GPUs, as many as the stack wants."""
    if len(candidates) < stack.gpu_count:
        raise ServerError(f"{wanted}, {found.machine} has only {describe(candidates)}")
    whole = [gpu for gpu in candidates if not gpu.mig]
    if len(whole) < stack.gpu_count:
        first = next(gpu.index for gpu in candidates if gpu.mig)
        raise ServerError(
            f"{wanted}, and GPU {first} of {found.machine} is cut into MIG instances: "
            f"nvidia-smi -i {first} -mig 0 makes it whole"
        )
    free = [gpu for gpu in whole if not why_busy(gpu)]
    if len(free) < stack.gpu_count:
        reasons = "; ".join(filter(None, map(why_busy, whole)))
        raise ServerError(f"{wanted}, and {len(free)} of {describe(whole)} on {found.machine} are free: {reasons}")
    return free[: stack.gpu_count]


def _alike(gpus: Sequence[GpuFacts]) -> list[GpuFacts]:
    """The most numerous kind: one stack runs on one kind of GPU."""
    names = [each.name for each in gpus]
    most = max(dict.fromkeys(names), key=names.count)
    return [gpu for gpu in gpus if gpu.name == most]


def _require_capability(stack: Stack, chosen: Sequence[GpuFacts]) -> None:
    for gpu in chosen:
        reason = lacks(stack.engine, gpu.compute_capability)
        too_old = gpu.compute_capability is not None and gpu.compute_capability < BFLOAT16_CAPABILITY
        if not reason and stack.launch.dtype == "bfloat16" and too_old:
            reason = f"launch.dtype bfloat16 needs compute capability {BFLOAT16_CAPABILITY:.1f} or newer"
        if reason:
            raise ServerError(
                f"the stack '{stack.name}' cannot run on {gpu.name}: {reason}, it has {gpu.compute_capability:.1f}"
            )


def _require_memory(stack: Stack, scenario: Scenario, target: Gpu, chosen: Sequence[GpuFacts]) -> None:
    """Refuse by the memory that is there; a prompt of unknown length counts as one token, so the refusal is certain."""
    if stack.model is None:
        return
    efficiency = (stack.emulation or Emulation()).efficiency
    if stack.launch.memory_share is not None:
        efficiency = efficiency.model_copy(update={"memory": stack.launch.memory_share})
    there = target.model_copy(update={"memory_gib": min(gpu.memory_gib for gpu in chosen)})
    machine = Machine(stack.model, there, stack.tensor_parallel, efficiency)
    tokens = (scenario.workload.input_tokens or 1) + scenario.workload.output_tokens
    if not memory_fit(machine, tokens).fits:
        raise ServerError(f"the stack '{stack.name}' on {chosen[0].name} {does_not_fit(machine, tokens)}")


def _visible(found: Found, variables: Mapping[str, str] = os.environ) -> Found:
    """Leave out what CUDA_VISIBLE_DEVICES hides: a scheduler gave the rest to somebody else."""
    allowed = variables.get(VISIBLE)
    if allowed is None:
        return found
    words = [word.strip() for word in allowed.split(",") if word.strip()]
    gpus = tuple(
        gpu for gpu in found.gpus if str(gpu.index) in words or any(gpu.uuid.startswith(word) for word in words)
    )
    problem = found.problem or ("" if gpus else f"{VISIBLE}={allowed} hides what there is")
    return Found(gpus, problem, found.machine, found.absent)
