"""What befalls a server during a run: it is found, named, and makes the run FAIL."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from servers_support import ANSWERS, FakeEngine, Mark, scenario, script, stack, until

from harness.judge import judge
from harness.judgement import Judgement, Verdict
from harness.lifecycle import failures, memory_line
from harness.records import BalancerCounters, ReplicaFacts, ServerFacts
from harness.runlog import RunReader
from harness.seal import live_logs, seal_run
from reports import html
from servers import base, ready
from servers.base import RunningServer
from servers.watch import Identity
from tests import factories
from tests.runs import Loop, load, loop_run, write_run
from tests.runs import scenario as judge_scenario

# Sentences ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({}, ""),
        ({"exit_code": -15}, ""),
        ({"died": True, "exit_code": 70}, "the server died during the run with exit code 70; its log ends with: bye"),
        (
            {"died": True, "exit_code": -9},
            "the server died during the run: it was killed by SIGKILL (out of memory?); its log ends with: bye",
        ),
        (
            {"died": True},
            "the server died during the run: nothing listens on its port any more; its log ends with: bye",
        ),
        ({"restarted": True}, "the server was started again during the run; its log ends with: bye"),
        (
            {"out_of_memory": "CUDA out of memory."},
            "the server ran out of memory during the run; its log says: CUDA out of memory",
        ),
        (
            {"out_of_memory": "CUDA out of memory.", "restarted": True},
            "the server ran out of memory during the run and was started again; its log says: CUDA out of memory",
        ),
        (
            {"died": True, "exit_code": 137, "log_tail": ("/run.sh: line 3:", "Killed")},
            "the server ran out of memory during the run and ended with exit code 137; its log says: Killed",
        ),
    ],
)
def test_what_befell_a_server(facts: dict[str, object], sentence: str) -> None:
    server = ServerFacts.model_validate({"log_tail": ("hello", "bye."), **facts})
    assert failures(server) == ([sentence] if sentence else [])


def test_each_replica_is_named() -> None:
    gone = ReplicaFacts(name="replica-2", died=True, exit_code=1, log_tail=("Bus error",))
    server = ServerFacts(replicas=(ReplicaFacts(name="replica-1"), gone))
    assert failures(server) == ["replica-2 of 2 died during the run with exit code 1; its log ends with: Bus error"]


def test_all_replicas_and_the_balancer_are_named_too() -> None:
    gone = [ReplicaFacts(name=f"replica-{number}", died=True, exit_code=1) for number in (1, 2)]
    assert failures(ServerFacts(replicas=tuple(gone), died=True)) == [
        "all 2 replicas died during the run",
        "replica-1 of 2 died during the run with exit code 1",
        "replica-2 of 2 died during the run with exit code 1",
    ]
    balancer = ServerFacts(replicas=(ReplicaFacts(name="replica-1"),), died=True, exit_code=-11)
    assert failures(balancer) == ["the load balancer died during the run: it was killed by SIGSEGV"]


@pytest.mark.parametrize(
    ("line", "alive", "ended"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", True, True),
        ("RuntimeError: CUDA error: out of memory", True, True),
        ("terminate called after throwing an instance of 'std::bad_alloc'", False, True),
        ("MemoryError", False, True),
        ("mmap: Cannot allocate memory", False, True),
        ("Killed", False, True),
        ("Killed 3 idle workers", False, False),
        ("memory is fine", False, False),
        ("the process of model 'm' was killed by SIGKILL (out of memory?)", False, False),
    ],
)
def test_lines_that_say_that_memory_ran_out(line: str, alive: bool, ended: bool) -> None:
    log = ("first", f"  {line}\n", "last")
    assert memory_line(log) == (line if alive else "")
    assert memory_line(log, ended=True) == (line if ended else "")


def judged(directory: Path, **changes: Any) -> Judgement:
    loop_run(directory, Loop(), **changes)
    return judge(directory)


# Verdicts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "server",
    [
        ServerFacts(died=True, exit_code=-9),
        ServerFacts(restarted=True),
        ServerFacts(out_of_memory="CUDA out of memory"),
        ServerFacts(replicas=(ReplicaFacts(name="replica-1", died=True, exit_code=-9),)),
    ],
)
def test_a_server_that_fell_is_a_fail_whatever_else_was_wrong(tmp_path: Path, server: ServerFacts) -> None:
    assert judged(tmp_path / "a", server=server).verdict is Verdict.FAIL
    judgement = judged(tmp_path / "b", server=server, problems=("the disk was full",))
    assert judgement.verdict is Verdict.FAIL
    assert judgement.sentence == f"FAIL: {failures(server)[0]}."
    assert "the disk was full" in judgement.reasons


# Watching a real process -------------------------------------------------------------------------

SUPERVISOR = """
import subprocess, sys, time
command = [sys.executable, *sys.argv[1:]]
while True:
    child = subprocess.Popen(command)
    print("child", child.pid, file=sys.stderr, flush=True)
    child.wait()
    if {once}:
        time.sleep(600)
"""
SAME_PORT = ANSWERS.replace('("127.0.0.1", 0)', '("127.0.0.1", int(sys.argv[2]))') + "listen().serve_forever()\n"


def supervised(tmp_path: Path, mark: Mark, free_port: int, *, once: bool) -> RunningServer:
    inner = script(tmp_path, SAME_PORT, mark.text, str(free_port))
    command = script(tmp_path, SUPERVISOR.replace("{once}", str(once)), *inner[1:])
    log = tmp_path / "server.log"
    return FakeEngine(command).launch(stack(), scenario(), log_file=log, work_dir=tmp_path, users=2)


def children(server: RunningServer) -> list[int]:
    return [int(line.split()[1]) for line in server.facts().log_tail if line.startswith("child")]


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_a_server_that_its_supervisor_starts_again_is_seen(tmp_path: Path, mark: Mark, free_port: int) -> None:
    with supervised(tmp_path, mark, free_port, once=False) as server:
        assert server.conclude().restarted is False
        os.kill(children(server)[0], signal.SIGKILL)
        until(lambda: len(children(server)) == 2 and listens(free_port))
        assert server.poll() is None, "the supervisor lives"
        facts = server.conclude()
        assert (facts.restarted, facts.died) == (True, False)
    assert server.facts().restarted


def test_a_server_that_its_supervisor_leaves_dead_is_seen(tmp_path: Path, mark: Mark, free_port: int) -> None:
    with supervised(tmp_path, mark, free_port, once=True) as server:
        os.kill(children(server)[0], signal.SIGKILL)
        until(lambda: not listens(free_port))
        facts = server.conclude()
        assert (facts.restarted, facts.died, facts.exit_code) == (False, True, None)


def test_memory_that_ran_out_in_a_server_that_lives_on(tmp_path: Path, mark: Mark) -> None:
    said = "print('torch.OutOfMemoryError: CUDA out of memory', file=sys.stderr, flush=True)"
    text = "import sys\n" + said + "\n" + ANSWERS + "server = listen()\nimport threading\n"
    text += "threading.Thread(target=server.serve_forever).start()\n"
    text += f"while not __import__('os').path.exists(sys.argv[2]): time.sleep(0.01)\n{said}\ntime.sleep(600)\n"
    trigger = tmp_path / "now"
    engine = FakeEngine(script(tmp_path, text, mark.text, str(trigger)))
    with engine.launch(stack(), scenario(), log_file=tmp_path / "log", work_dir=tmp_path, users=2) as server:
        assert server.conclude().out_of_memory == "", "before it was ready is no part of the run"
        trigger.touch()
        until(lambda: server.facts().log_tail.count("torch.OutOfMemoryError: CUDA out of memory") == 2)
        assert server.conclude().out_of_memory == "torch.OutOfMemoryError: CUDA out of memory"
        assert not server.conclude().died


def test_start_times_tell_where_processes_cannot_be_seen() -> None:
    assert Identity(started_s=100.0).is_another(Identity(started_s=200.0))
    assert not Identity(started_s=100.0).is_another(Identity(started_s=100.4))
    assert not Identity(started_s=100.0).is_another(Identity()), "a scrape that failed proves nothing"
    assert not Identity().is_gone(Identity())


def test_a_slow_start_says_what_the_log_says(tmp_path: Path, mark: Mark, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an engine that first loads weights, and then answers 503 for a while; each step waits for its line."""
    for module in (base, ready):
        monkeypatch.setattr(module, "SAY_EVERY_S", 0.05)
    listen, serve = tmp_path / "listen", tmp_path / "serve"
    text = "import os, sys, threading, time\ndef say(line): print(line, file=sys.stderr, flush=True)\n"
    text += "say('Loading shard 1 of 2')\nwhile not os.path.exists(sys.argv[2]): time.sleep(0.01)\n" + ANSWERS
    text += "Handler.status = 503\nsay('Loading shard 2 of 2')\nserver = listen()\n"
    text += "threading.Thread(target=server.serve_forever).start()\n"
    text += "while not os.path.exists(sys.argv[3]): time.sleep(0.01)\nHandler.status = 200\n"

    def progress(line: str) -> None:
        if "fake does not listen yet after" in line and line.endswith("; its log: Loading shard 1 of 2"):
            listen.touch()
        if "the server answered 503" in line and line.endswith("; its log: Loading shard 2 of 2"):
            serve.touch()

    engine = FakeEngine(script(tmp_path, text, mark.text, str(listen), str(serve)))
    log = tmp_path / "server.log"
    with engine.launch(stack(), scenario(), log_file=log, work_dir=tmp_path, users=2, progress=progress) as server:
        assert server.poll() is None


# Logs, seal and report ---------------------------------------------------------------------------


def test_the_seal_keeps_every_replicas_log(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [], judge_scenario(), load())
    for name in ("server.log", "server-1.log", "server-2.log"):
        (tmp_path / f"{name}.live").write_text(name)
    found = live_logs(tmp_path / "server.log.live")
    assert [path.name for path in found] == ["server.log.live", "server-1.log.live", "server-2.log.live"]
    manifest = seal_run(tmp_path / "run", RunReader(tmp_path / "run").manifest, found[0])
    assert {"server.log", "server-1.log", "server-2.log"} <= manifest.digests.keys()
    assert (tmp_path / "run" / "server-2.log").read_text() == "server-2.log"
    (tmp_path / "run" / "server-2.log").write_text("other")
    assert RunReader(tmp_path / "run").altered_files() == ("server-2.log",)


def test_the_report_shows_what_the_balancer_counted() -> None:
    served = BalancerCounters(sessions=1234, most_at_once=17, status="UP")
    hostile = "<script>alert(1)</script>"
    lost = BalancerCounters(sessions=99, redispatches=3, response_errors=7, cut_off=5, times_down=2, down_s=6.0)
    page = html.render(
        [
            factories.judgement(
                replicas=(
                    ReplicaFacts(name="replica-1", gpus=(0, 1), counters=served),
                    ReplicaFacts(name="replica-2", died=True, exit_code=-9, log_tail=(hostile,), counters=lost),
                    ReplicaFacts(name="replica-3", restarted=True),
                )
            )
        ]
    )
    assert "What the load balancer counted of each replica" in page
    for text in ("1,234", "GPU 0, 1", "runs, UP", "was killed by SIGKILL", "2 times", "was started again"):
        assert text in page
    assert hostile not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "load balancer" not in html.render([factories.judgement()])
