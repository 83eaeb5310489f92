"""What the kernel accounts for: the host as a whole, and trees of processes."""

from __future__ import annotations

import os
from collections.abc import Collection

import psutil

Values = dict[str, float]


class Host:
    """CPU (a share of all cores since the last reading), memory in bytes, and the load average."""

    def __init__(self) -> None:
        psutil.cpu_percent(None)  # the first reading is of no interval and means nothing

    def read(self) -> Values:
        memory = psutil.virtual_memory()
        return {
            "host_cpu_share": psutil.cpu_percent(None) / 100,
            "host_memory_bytes": float(memory.total - memory.available),
            "host_load_1m": os.getloadavg()[0],
        }


class Tree:
    """Processes with all their descendants, but for the trees under ``without``.

    CPU seconds are added up as they grow, so that a child's end does not take them back. What a child spent after
    its last reading is lost.
    """

    def __init__(self, roots: Collection[int], without: Collection[int] = ()) -> None:
        self._roots = tuple(roots)
        self._without = frozenset(without)
        self._known: dict[tuple[int, float], tuple[psutil.Process, float]] = {}
        self._spent_s = 0.0

    def read(self, name: str, children: dict[int, list[int]]) -> Values:
        """``{name}_cpu_s``, ``_rss_bytes``, ``_threads`` and ``_processes``; nothing once the tree is gone.

        ``children`` maps every process of the host to its children (:func:`children_of_all`).
        """
        rss = threads = count = 0
        known: dict[tuple[int, float], tuple[psutil.Process, float]] = {}
        by_pid = {pid: process for (pid, _), (process, _) in self._known.items()}
        for pid in self.members(children):
            try:
                process = by_pid.get(pid)
                if process is None or not process.is_running():
                    process = psutil.Process(pid)
                with process.oneshot():
                    if process.status() == psutil.STATUS_ZOMBIE:
                        continue
                    times, memory = process.cpu_times(), process.memory_info()
                    threads += process.num_threads()
                    key = (pid, process.create_time())
            except psutil.Error:  # it ended, or belongs to somebody else
                continue
            spent = times.user + times.system
            # A process that is new within this tree began after the last reading, except at the first one.
            before = self._known[key][1] if key in self._known else 0.0 if self._known else spent
            self._spent_s += max(0.0, spent - before)
            known[key] = (process, spent)
            rss += memory.rss
            count += 1
        self._known = known or self._known
        if not count:
            return {}
        return {
            f"{name}_cpu_s": self._spent_s,
            f"{name}_rss_bytes": float(rss),
            f"{name}_threads": float(threads),
            f"{name}_processes": float(count),
        }

    def members(self, children: dict[int, list[int]]) -> list[int]:
        found: list[int] = []
        queue = [*self._roots]
        while queue:
            pid = queue.pop()
            if pid not in self._without:
                found.append(pid)
                queue += children.get(pid, ())
        return found


def children_of_all() -> dict[int, list[int]]:
    """Every process's children, from one look at ``/proc``."""
    found: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                with open(f"{entry.path}/stat", "rb") as file:  # noqa: PTH123  # hundreds of times a second
                    # "pid (name) state ppid ...", and the name may hold anything
                    parent = int(file.read(1024).rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            found.setdefault(parent, []).append(int(entry.name))
    return found
