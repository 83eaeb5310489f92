"""How servers end, in words: exit codes, memory that ran out, and what of it makes a run FAIL."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable

from harness.records import ReplicaFacts, ServerFacts

_OUT_OF_MEMORY = re.compile(
    r"\bCUDA (?:error: )?out of memory\b|\bOutOfMemoryError\b|\bcudaErrorMemoryAllocation\b"
    r"|\bCUBLAS_STATUS_ALLOC_FAILED\b",
    re.IGNORECASE,
)
"""PyTorch's, CUDA's and cuBLAS's words: they mean it wherever they stand in a log."""
_OUT_OF_MEMORY_AT_END = re.compile(
    r"\bstd::bad_alloc\b|^MemoryError\b|\bcannot allocate memory\b|\bout of memory\b(?!\?)|^Killed$", re.IGNORECASE
)
"""Those of C++, Python, the C library and a shell whose child the kernel killed: a server that lives on may have got
over them, so they count only in the last lines of one that ended. What only asks (:data:`_MAYBE`) is our own guess."""
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""The second is how a shell or a container says it."""
_MAYBE = " (out of memory?)"


def describe_exit(code: int) -> str:
    """Say how a process ended, to follow its name in a sentence."""
    if code >= 0:
        return f"ended with exit code {code}" + (_MAYBE if code in _KILLED else "")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (_MAYBE if code in _KILLED else "")


def memory_line(lines: Iterable[str], *, ended: bool = False) -> str:
    """The first line of a log that says that memory ran out; empty if none does. ``ended``: the last of its lines."""
    for line in map(str.strip, lines):
        if _OUT_OF_MEMORY.search(line) or (ended and _OUT_OF_MEMORY_AT_END.search(line)):
            return line
    return ""


def failures(server: ServerFacts) -> list[str]:
    """What befell the server, or one of its replicas, during the run: each a sentence that makes the run FAIL."""
    replicas, count = server.replicas, len(server.replicas)
    if not replicas:
        whole = _failure("the server", server)
    elif all(replica.died for replica in replicas):
        whole = f"all {count} replicas died during the run"
    else:
        whole = _failure("the load balancer", server)
    parts = [_failure(f"{replica.name} of {count}", replica) for replica in replicas]
    return [text for text in (whole, *parts) if text]


def _failure(who: str, facts: ServerFacts | ReplicaFacts) -> str:
    said = facts.out_of_memory or (memory_line(facts.log_tail, ended=True) if facts.died else "")
    code = facts.exit_code if facts.died else None
    if said:
        text = f"{who} ran out of memory during the run"
        text += " and was started again" if facts.restarted else ""
        text += "" if code is None else f" and {describe_exit(code).removesuffix(_MAYBE)}"
        return f"{text}; its log says: {said.rstrip('.')}"
    if facts.restarted:
        text = f"{who} was started again during the run"
    elif code is not None:
        text = f"{who} died during the run" + (
            f" with exit code {code}" if code >= 0 else f": it {describe_exit(code)}"
        )
    elif facts.died:
        text = f"{who} died during the run: nothing listens on its port any more"
    else:
        return ""
    last = next((line.strip() for line in reversed(facts.log_tail) if line.strip()), "")
    return f"{text}; its log ends with: {last.rstrip('.')}" if last else text
