"""The machine's limits: every shortage is named with the number needed, before any load."""

from __future__ import annotations

import socket

import pytest

from harness.errors import LoadError
from harness.loadgen.limits import Machine, await_master, check_limits, files_needed, master_of, shortages

MACHINE = Machine(open_files=1024, ports=(32768, 60999), cores=4)


def test_enough_of_everything() -> None:
    assert shortages(800, 1, MACHINE) == []
    assert shortages(3000, 4, MACHINE) == []


def test_every_shortage_names_the_number_needed() -> None:
    files, ports, cores = shortages(40_000, 5, MACHINE)
    assert files.startswith("40,000 users in 5 load processes need 8200 open files each, and 1024 are allowed")
    assert "ulimit -n 8200" in files
    assert ports.startswith("40,000 users need 40100 local ports to one server, and 32768 to 60999 are 28232")
    assert cores.startswith("5 load processes need 5 cores, and this one may use 4")


def test_an_unknown_port_range_is_no_shortage() -> None:
    assert shortages(100_000, 1, Machine(1 << 20, None, 1)) == []


def test_this_machine_can_make_a_small_load_and_not_an_absurd_one() -> None:
    assert Machine.here().cores >= 1
    check_limits(10, 1)
    with pytest.raises(LoadError, match=f"need {files_needed(10**9, 1)} open files"):
        check_limits(10**9, 1)


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        ((), {}, None),
        (("--master", "--master-host", "a"), {}, None),
        (("-f", "x.py", "--worker"), {}, ("127.0.0.1", 5557)),
        (("--worker", "--master-host=a", "--master-port", "6"), {}, ("a", 6)),
        ((), {"LOCUST_MODE_WORKER": "true", "LOCUST_MASTER_NODE_HOST": "b"}, ("b", 5557)),
    ],
)
def test_the_masters_address_is_that_of_locusts_options(
    arguments: tuple[str, ...], variables: dict[str, str], expected: tuple[str, int] | None
) -> None:
    assert master_of(arguments, variables) == expected


def test_a_master_is_awaited_and_its_absence_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await_master("127.0.0.1", listener.getsockname()[1], 1.0)
        port = listener.getsockname()[1]
    with pytest.raises(LoadError, match=f"no master at 127.0.0.1:{port} after 0 s .*--master-bind-host ADDRESS"):
        await_master("127.0.0.1", port, 0.0)
