"""Replicas without HAProxy: their GPUs, their orders, and that all end when one of them does not stand up."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servers_support import ANSWERS, FakeEngine, Mark, scenario, script, stack, until

from harness.errors import ServerError, UsageError
from harness.spec import Stack
from servers import LAUNCHERS, launcher_for, replicas
from servers.base import Launcher, Order, RunningServer, stand_up
from servers.recipe import Recipe
from servers.replicas import Replicated, gpus_of, replica_log


def on_gpus(count: int, number: int, **launch: object) -> Stack:
    changes = {"hardware": {"gpu": "t4", "count": count}, "replicas": number, "engine": "vllm"}
    return Stack.model_validate({**stack(**launch).model_dump(), **changes})


# GPUs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "number", "allowed", "visible", "wanted"),
    [
        (1, 2, (), None, [(0,), (1,)]),
        (2, 3, (), None, [(0, 1), (2, 3), (4, 5)]),
        (2, 2, (7, 3, 5, 1), None, [(7, 3), (5, 1)]),
        (1, 2, (), "4, 6,7", [(4,), (6,)]),
        (1, 2, (1, 2), "4,6", [(1,), (2,)]),
        (1, 2, (), "", [(0,), (1,)]),
    ],
)
def test_gpus_are_disjoint_and_in_order(
    count: int, number: int, allowed: tuple[int, ...], visible: str | None, wanted: list[tuple[int, ...]]
) -> None:
    variables = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert gpus_of(on_gpus(count, number), allowed, variables) == wanted


def test_gpus_that_are_not_there() -> None:
    with pytest.raises(ServerError, match="'fake' needs 4 GPUs, 2 for each of 2 replicas, and may use 3: 0, 1, 2"):
        gpus_of(on_gpus(2, 2), (0, 1, 2), {})
    with pytest.raises(ServerError, match="CUDA_VISIBLE_DEVICES holds something else than numbers"):
        gpus_of(on_gpus(1, 2), (), {"CUDA_VISIBLE_DEVICES": "GPU-6ba7,GPU-77aa"})


def test_what_needs_no_gpus() -> None:
    assert gpus_of(stack().model_copy(update={"replicas": 2}), (), {"CUDA_VISIBLE_DEVICES": "5,6"}) == [(), ()]
    emulated = on_gpus(1, 2).model_copy(update={"engine": "emulator"})
    assert gpus_of(emulated, (), {}) == [(), ()]
    elsewhere = on_gpus(1, 2, runtime="path", executable="vllm", ssh_host="box")
    assert gpus_of(elsewhere, (), {"CUDA_VISIBLE_DEVICES": "5,6"}) == [(0,), (1,)], "that variable is of this machine"


# Orders ------------------------------------------------------------------------------------------


def order(tmp_path: Path, made: Stack, **changes: Any) -> Order:
    facts = {"log_file": tmp_path / "server.log.live", "work_dir": tmp_path, "users": 2, **changes}
    return Order(stack=made, scenario=scenario(), **facts)


def test_logs_have_numbers(tmp_path: Path) -> None:
    assert replica_log(tmp_path / "server.log.live", 2) == tmp_path / "server-2.log.live"
    assert replica_log(tmp_path / "server", 1) == tmp_path / "server-1"


class Told(Exception):  # noqa: N818 - no error
    pass


class Noting(Launcher):
    """Keeps its orders, and starts nothing."""

    name = "noting"

    def __init__(self) -> None:
        self.orders: list[Order] = []

    def start(self, order: Order) -> RunningServer:
        self.orders.append(order)
        raise Told


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "find_haproxy", lambda: "haproxy")
    monkeypatch.setattr(replicas, "version_of", lambda program: f"{program} 1")


@pytest.mark.usefixtures("installed")
def test_each_replica_gets_an_order_of_its_own(tmp_path: Path) -> None:
    noting = Noting()
    with pytest.raises(Told):
        Replicated(noting).start(order(tmp_path, on_gpus(2, 3), gpus=(1, 2, 3, 4, 5, 6), seed=7))
    found = sorted(noting.orders, key=lambda each: each.log_file)
    assert [each.gpus for each in found] == [(1, 2), (3, 4), (5, 6)]
    assert [each.log_file.name for each in found] == [f"server-{number}.log.live" for number in (1, 2, 3)]
    assert [each.work_dir.name for each in found] == ["replica-1", "replica-2", "replica-3"]
    assert all(each.work_dir.is_dir() for each in found)
    assert {(each.stack.replicas, each.port, each.seed) for each in found} == {(1, None, 7)}


@pytest.mark.usefixtures("installed")
def test_grpc_is_refused_before_anything_starts(tmp_path: Path) -> None:
    made = on_gpus(1, 2).model_copy(update={"protocol": "triton-grpc"})
    noting = Noting()
    with pytest.raises(UsageError, match="'fake' has 2 replicas and speaks triton-grpc, which is not balanced here"):
        Replicated(noting).start(order(tmp_path, made))
    assert not noting.orders


def test_haproxy_is_missed_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> str:
        raise ServerError("no haproxy")

    monkeypatch.setattr(replicas, "find_haproxy", find)
    noting = Noting()
    with pytest.raises(ServerError, match="no haproxy"):
        Replicated(noting).start(order(tmp_path, on_gpus(1, 2)))
    assert not noting.orders


def test_who_gets_a_balancer() -> None:
    two = stack().model_copy(update={"replicas": 2})
    assert isinstance(launcher_for(two, emulate=False), Replicated)
    assert launcher_for(two, emulate=True) is LAUNCHERS["emulator"], "one process plays all replicas"
    assert isinstance(launcher_for(two.model_copy(update={"engine": "emulator"}), emulate=False), Replicated)
    assert launcher_for(two.model_copy(update={"engine": "attach"}), emulate=False) is LAUNCHERS["attach"]


# Starts that fail --------------------------------------------------------------------------------


class OneFails(Launcher):
    """Its second replica ends while the first takes for ever."""

    name = "fake"

    def __init__(self, folder: Path, mark: Mark, last: str) -> None:
        loads = "import sys, time\nprint('loading', file=sys.stderr, flush=True)\ntime.sleep(600)\n"
        self.commands = [script(folder, loads, mark.text), script(folder, last, mark.text)]
        self.loading = threading.Event()

    def start(self, order: Order) -> RunningServer:
        number = int(order.work_dir.name.removeprefix("replica-")) - 1
        if number:
            assert self.loading.wait(10)
            return stand_up(order, self.name, Recipe(self.commands[1]))

        def started(process: Any) -> None:
            order.started(process)
            until(lambda: "loading" in process.tail())
            self.loading.set()

        return stand_up(replace(order, started=started), self.name, Recipe(self.commands[0]))


@pytest.mark.usefixtures("installed")
def test_one_that_does_not_stand_up_ends_the_others(tmp_path: Path, mark: Mark) -> None:
    last = "import sys\nprint('torch.OutOfMemoryError: CUDA out of memory.', file=sys.stderr)\nsys.exit(1)\n"
    made = stack(ready_timeout_s=600).model_copy(update={"replicas": 2})
    said: list[str] = []
    with pytest.raises(ServerError) as caught:
        Replicated(OneFails(tmp_path, mark, last)).start(order(tmp_path, made, progress=said.append))
    first = str(caught.value).splitlines()[0]
    assert first.startswith("replica 2 of 2 did not stand up: fake ran out of memory while starting (torch.OutOfMemory")
    assert mark.gone()
    assert "replica 1 of 2: starting fake" in said


@pytest.mark.usefixtures("installed")
def test_a_haproxy_that_does_not_start_ends_all(tmp_path: Path, mark: Mark, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is taken by a program that complains, as HAProxy does of a configuration."""
    program = tmp_path / "haproxy"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('[ALERT] no')\n")
    program.chmod(0o755)
    monkeypatch.setattr(replicas, "find_haproxy", lambda: str(program))
    engine = FakeEngine(script(tmp_path, ANSWERS + "listen().serve_forever()\n", mark.text))
    with pytest.raises(ServerError, match=r"(?s)haproxy ended with exit code 1 while starting; .*\[ALERT\] no"):
        Replicated(engine).start(order(tmp_path, stack().model_copy(update={"replicas": 2})))
    assert mark.gone()


@pytest.mark.usefixtures("installed")
def test_an_interrupt_while_they_start_ends_all(tmp_path: Path, mark: Mark) -> None:
    def interrupt(line: str) -> None:
        if "first token" in line:
            raise KeyboardInterrupt

    engine = FakeEngine(script(tmp_path, ANSWERS + "listen().serve_forever()\n", mark.text))
    with pytest.raises(KeyboardInterrupt):
        Replicated(engine).start(order(tmp_path, stack().model_copy(update={"replicas": 2}), progress=interrupt))
    assert mark.gone()
