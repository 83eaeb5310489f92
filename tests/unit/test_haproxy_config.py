"""HAProxy without HAProxy: the configuration that is written, the counters that are read, the sentence without it."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import ServerError
from harness.records import BalancerCounters
from servers import haproxy
from servers.haproxy import Backend, Control, configuration, counters, find_haproxy, version_of

SERVERS = (Backend("replica-1", "127.0.0.1:9001"), Backend("replica-2", "127.0.0.1:9002"))


def test_the_configuration(golden: Callable[[str, str], None]) -> None:
    golden("haproxy.cfg", configuration(SERVERS, 9000, "/health", users=100, threads=2, files=65536))


def directives(**changes: object) -> list[str]:
    values: dict[str, object] = {"users": 100, "threads": 2, "files": 65536, "health": "/health", **changes}
    text = configuration(SERVERS, 9000, str(values.pop("health")), **values)  # type: ignore[arg-type]
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def test_a_server_without_a_health_route_is_asked_for_a_connection() -> None:
    assert any(line.startswith("option httpchk") for line in directives())
    assert not any("httpchk" in line or "http-check" in line for line in directives(health=""))
    assert any(line.startswith("default-server check") for line in directives(health=""))


@pytest.mark.parametrize(
    ("users", "files", "wanted"),
    [
        (100, 65536, 4096),
        (5000, 65536, 10_000),
        (100, 1024, 384),
        (100, resource.RLIM_INFINITY, 4096),
        (1000, 1024, 2000),  # too many for this machine: HAProxy says so, and no user waits unseen
    ],
)
def test_room_for_all_users(users: int, files: int, wanted: int) -> None:
    assert f"maxconn {wanted}" in directives(users=users, files=files)


@pytest.mark.parametrize(("threads", "wanted"), [(0, 1), (2, 2), (64, 4)])
def test_a_few_threads(threads: int, wanted: int) -> None:
    assert f"nbthread {wanted}" in directives(threads=threads)


TABLE = """# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,\
chkfail,chkdown,downtime,srv_abrt,last_chk,
clients,FRONTEND,,,3,30,4096,348,1,1,0,0,0,,,,,OPEN,,,,,,
replicas,replica-1,0,0,1,13,,145,1,1,,0,,0,0,0,0,UP,0,0,0,0,"said ""yes"", twice",
replicas,replica-2,0,0,0,9,,62,1,1,,0,,0,7,2,1,DOWN 1/2,1,1,6,7,,
replicas,replica-3,0,0,0,,,,,,,,,,,,,no check,,,,,,
replicas,BACKEND,0,0,1,30,410,348,1,1,0,0,,0,7,2,1,UP,,0,0,7,,
other,replica-1,0,0,1,13,,9,1,1,,0,,0,0,0,0,UP,0,0,0,0,,
"""


def test_counters_are_read_by_name() -> None:
    assert counters(TABLE) == {
        "replica-1": BalancerCounters(sessions=145, most_at_once=13, status="UP"),
        "replica-2": BalancerCounters(
            sessions=62,
            most_at_once=9,
            retries=2,
            redispatches=1,
            response_errors=7,
            cut_off=7,
            failed_checks=1,
            times_down=1,
            down_s=6.0,
            status="DOWN 1/2",
        ),
        "replica-3": BalancerCounters(status="no check"),
    }


def test_a_haproxy_that_is_gone_counts_nothing(tmp_path: Path) -> None:
    control = Control(tmp_path)
    assert control.counters() == {}
    control.drain()
    control.close()


def test_without_haproxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(haproxy, "SYSTEM_DIRECTORIES", (str(tmp_path),))
    with pytest.raises(ServerError, match=r"need HAProxy in front of them, .* not installed: apt-get install haproxy$"):
        find_haproxy(str(tmp_path))
    program = tmp_path / "haproxy"
    program.write_text("#!/bin/sh\necho 'HAProxy version 3.1.2-1ppa1 2026/01/01 - https://haproxy.org/'\n")
    program.chmod(0o755)
    assert find_haproxy("") == str(program)
    assert version_of(str(program)) == "HAProxy 3.1.2"
    program.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(ServerError, match="does not run"):
        version_of(str(program))
