"""What this machine allows, checked before load: a limit that is hit during a run looks like a failing server."""

from __future__ import annotations

import argparse
import os
import resource
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import LoadError

SPARE_FILES = 200
"""Descriptors besides one socket a user: libraries, logs, Locust's own sockets."""
SPARE_PORTS = 100
"""Local ports besides one a user: connections that are closed keep theirs for a minute."""
MASTER_WAIT_S = 30.0
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


@dataclass(frozen=True, slots=True)
class Machine:
    """``ports`` is the range that outgoing connections take theirs from; None where the system does not say."""

    open_files: int
    ports: tuple[int, int] | None
    cores: int

    @classmethod
    def here(cls) -> Machine:
        try:
            low, high = map(int, _PORT_RANGE.read_text(encoding="ascii").split())
            ports: tuple[int, int] | None = (low, high)
        except (OSError, ValueError):
            ports = None
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return cls(hard if hard != resource.RLIM_INFINITY else 1 << 62, ports, len(os.sched_getaffinity(0)))


def files_needed(users: int, processes: int) -> int:
    """Open files of each load process, which has its share of the users."""
    return -(-users // processes) + SPARE_FILES


def shortages(users: int, processes: int, machine: Machine) -> list[str]:
    """Everything that this machine lacks for ``users`` requests at once from ``processes`` processes on it."""
    found = []
    files = files_needed(users, processes)
    if machine.open_files < files:
        found.append(
            f"{users:,} users in {processes} load processes need {files} open files each, and {machine.open_files} are"
            f" allowed: raise it (ulimit -n {files}) or use more processes"
        )
    if machine.ports is not None:
        low, high = machine.ports
        have, need = high - low + 1, users + SPARE_PORTS
        if have < need:
            found.append(
                f"{users:,} users need {need} local ports to one server, and {low} to {high} are {have}: widen them"
                f" (sysctl -w net.ipv4.ip_local_port_range='1024 65535') or use more hosts"
            )
    if processes > machine.cores:
        found.append(
            f"{processes} load processes need {processes} cores, and this one may use {machine.cores}:"
            f" use --processes {machine.cores} or more hosts"
        )
    return found


def check_limits(users: int, processes: int) -> None:
    """Raise the limit of open files as far as needed, and refuse load that this machine cannot make.

    Raises
    ------
    LoadError
        With every shortage, each with the number needed.
    """
    found = shortages(users, processes, Machine.here())
    if found:
        raise LoadError("; ".join(found))
    need = files_needed(users, processes)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < need:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


def master_of(arguments: Sequence[str], variables: Mapping[str, str]) -> tuple[str, int] | None:
    """The master that Locust's own options make this process a worker of; None when it is none."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--worker", action="store_true", default=variables.get("LOCUST_MODE_WORKER", "") == "true")
    parser.add_argument("--master-host", default=variables.get("LOCUST_MASTER_NODE_HOST", "127.0.0.1"))
    parser.add_argument("--master-port", type=int, default=int(variables.get("LOCUST_MASTER_NODE_PORT", "5557")))
    options, _ = parser.parse_known_args(arguments)
    return (options.master_host, options.master_port) if options.worker else None


def await_master(host: str, port: int, wait_s: float = MASTER_WAIT_S) -> None:
    """Wait until a master listens: Locust itself would try for five minutes without a word.

    Raises
    ------
    LoadError
        When nothing listens there in time; a master listens on 127.0.0.1 unless it is told otherwise.
    """
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            socket.create_connection((host, port), timeout=5.0).close()
            return
        except OSError as error:
            if time.monotonic() >= deadline_s:
                raise LoadError(
                    f"no master at {host}:{port} after {wait_s:g} s ({error.strerror or error}): start it there with"
                    " --master --master-bind-host ADDRESS, and name that address by --master-host"
                ) from error
            time.sleep(0.5)
