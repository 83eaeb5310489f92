"""Every way in which a server does not stand up, as one sentence, with nothing left running."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
from servers_support import ANSWERS, FakeEngine, Mark, scenario, script, stack, until

from harness.errors import ServerError
from harness.spec import Stack
from servers import LAUNCHERS, RunningServer, launcher_for
from servers.base import WARM_UP_REQUESTS
from servers.environments import HOME_VARIABLE
from servers.process import tail

ROOT = Path(__file__).resolve().parents[2]
GOOD = ANSWERS + "listen().serve_forever()\n"


def launch(tmp_path: Path, text: str, mark: Mark, **options: Any) -> RunningServer:
    made = stack(**options.pop("launch", {}))
    engine = FakeEngine(script(tmp_path, text, mark.text))
    return engine.launch(
        made, scenario(), log_file=tmp_path / "run" / "server.log", work_dir=tmp_path / "run", users=2, **options
    )


def test_a_server_that_works(tmp_path: Path, mark: Mark) -> None:
    said: list[str] = []
    text = GOOD.replace("def do_POST(self):", "def do_POST(self):\n        print('asked', file=sys.stderr, flush=True)")
    with launch(tmp_path, text, mark, progress=said.append) as server:
        facts = server.facts()
        assert (facts.launcher, facts.version, facts.model) == ("fake", "fake 1", "fake")
        assert server.model == "fake"
        assert facts.url == server.url
        assert server.url.startswith("http://127.0.0.1:")
        assert facts.ready_s is not None
        assert facts.ready_s > 0
        assert (facts.exit_code, facts.died, server.poll()) == (None, False, None)
        assert facts.log_tail.count("asked") == 1 + WARM_UP_REQUESTS
        assert server.pid is not None
    facts = server.facts()
    assert (facts.exit_code, facts.died) == (-signal.SIGTERM, False)
    server.stop()
    assert said[0] == "starting fake"
    assert "first token after" in said[1]
    assert not (tmp_path / "run" / "fake.stdout").exists()


def test_it_dies_while_starting(tmp_path: Path, mark: Mark) -> None:
    text = "import sys\nfor i in range(100): print('line', i, file=sys.stderr)\nsys.exit(9)\n"
    with pytest.raises(ServerError) as caught:
        launch(tmp_path, text, mark)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("fake ended with exit code 9 while starting; the end of ")
    assert lines[-1] == "  line 99"
    assert len(lines) == 16


def test_it_dies_without_a_word(tmp_path: Path, mark: Mark) -> None:
    with pytest.raises(ServerError, match=r"fake was killed by SIGKILL .* while starting; its log .* is empty"):
        launch(tmp_path, "import os\nos.kill(os.getpid(), 9)\n", mark)


def test_it_dies_between_listening_and_its_first_token(tmp_path: Path, mark: Mark) -> None:
    text = GOOD.replace("def do_POST(self):", "def do_POST(self):\n        import os\n        os._exit(6)")
    with pytest.raises(ServerError, match="fake ended with exit code 6 while starting"):
        launch(tmp_path, text, mark)


def test_it_never_listens(tmp_path: Path, mark: Mark) -> None:
    text = "import time\nprint('{\"ready\": false}', '{oops', '[]', sep='\\n')\ntime.sleep(600)\n"
    with pytest.raises(ServerError, match="fake did not listen in time"):
        launch(tmp_path, text, mark, launch={"ready_timeout_s": 0.5})


def test_it_listens_and_never_gives_a_token(tmp_path: Path, mark: Mark) -> None:
    text = ANSWERS + "Handler.status = 503\nlisten().serve_forever()\n"
    with pytest.raises(ServerError, match="fake was not ready in 1 s: the server answered 503"):
        launch(tmp_path, text, mark, launch={"ready_timeout_s": 1})


def test_a_role_is_no_token(tmp_path: Path, mark: Mark) -> None:
    text = ANSWERS + "Handler.events = Handler.events[:1]\nlisten().serve_forever()\n"
    with pytest.raises(ServerError, match="fake was not ready in 1 s: the server answered without a token"):
        launch(tmp_path, text, mark, launch={"ready_timeout_s": 1})


def test_the_port_is_in_use_before_the_start(tmp_path: Path, mark: Mark) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"^port {port} on 127.0.0.1 is in use; leave the port out"):
            launch(tmp_path, GOOD, mark, port=port)
    assert not (tmp_path / "run" / "server.log").exists()


def test_the_port_is_taken_in_the_last_moment(tmp_path: Path, mark: Mark) -> None:
    text = "import sys\nprint('OSError: [Errno 98] Address already in use', file=sys.stderr)\nsys.exit(1)\n"
    with pytest.raises(ServerError, match=r"^its port on 127.0.0.1 is in use"):
        launch(tmp_path, text, mark)


@pytest.mark.parametrize(("port", "sentence"), [(70000, "70000 is not a port"), (-1, "-1 is not a port")])
def test_a_port_that_is_none(tmp_path: Path, mark: Mark, port: int, sentence: str) -> None:
    with pytest.raises(ServerError, match=sentence):
        launch(tmp_path, GOOD, mark, port=port)


def test_it_dies_later(tmp_path: Path, mark: Mark) -> None:
    text = ANSWERS + "import os, threading\nserver = listen()\n"
    text += "threading.Thread(target=server.serve_forever).start()\n"
    text += "while not os.path.exists(sys.argv[2]): time.sleep(0.01)\n"
    text += "print('out of memory', file=sys.stderr)\nos._exit(8)\n"
    trigger = tmp_path / "die"
    engine = FakeEngine(script(tmp_path, text, mark.text, str(trigger)))
    with engine.launch(stack(), scenario(), log_file=tmp_path / "log", work_dir=tmp_path, users=2) as server:
        assert server.poll() is None
        trigger.touch()
        until(lambda: server.poll() is not None)
        assert server.poll() == 8
    facts = server.facts()
    assert (facts.exit_code, facts.died, facts.log_tail[-1]) == (8, True, "out of memory")


def test_a_failing_warm_up_is_no_reason_to_give_up(tmp_path: Path, mark: Mark) -> None:
    text = GOOD.replace("def do_POST(self):", "def do_POST(self):\n        type(self).status += 1")
    text = text.replace("status = 200", "status = 199")
    said: list[str] = []
    with launch(tmp_path, text, mark, progress=said.append):
        assert "a warm-up request failed: the server answered 201" in said[-1]


def test_an_interrupt_leaves_nothing(tmp_path: Path, mark: Mark) -> None:
    def interrupt(line: str) -> None:
        if "first token" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(tmp_path, GOOD, mark, progress=interrupt)
    assert mark.gone()


def test_an_error_inside_the_block_leaves_nothing(tmp_path: Path, mark: Mark) -> None:
    with pytest.raises(ZeroDivisionError), launch(tmp_path, GOOD, mark):
        raise ZeroDivisionError
    assert mark.gone()


@pytest.mark.parametrize("moment", ["starting", "serving"])
def test_ctrl_c_in_a_process_of_its_own(tmp_path: Path, mark: Mark, moment: str) -> None:
    """The whole foreground group gets SIGINT, as from a terminal."""
    text = (
        GOOD if moment == "serving" else "import sys, time\nprint('up', file=sys.stderr, flush=True)\ntime.sleep(600)\n"
    )
    engine = f"""
import sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
from pathlib import Path
from servers_support import FakeEngine, scenario, stack
engine = FakeEngine({script(tmp_path, text, mark.text)!r})
here = Path({str(tmp_path)!r})
with engine.launch(stack(), scenario(), log_file=here / "server.log", work_dir=here, users=2):
    (here / "serving").touch()
    time.sleep(600)
"""
    parent = subprocess.Popen(script(tmp_path, engine), stderr=subprocess.PIPE, start_new_session=True)
    try:
        if moment == "serving":
            until((tmp_path / "serving").exists)
        else:
            until(lambda: "up" in tail(tmp_path / "server.log"))
        os.killpg(parent.pid, signal.SIGINT)
        _, said = parent.communicate(timeout=20)
    finally:
        parent.kill()
        parent.wait()
    assert b"KeyboardInterrupt" in said
    assert b"Warning" not in said
    assert mark.gone()


def test_files_that_cannot_be_written(tmp_path: Path, mark: Mark) -> None:
    (tmp_path / "run").write_text("a file, where a directory should be")
    with pytest.raises(ServerError, match=r"^cannot make the directory .*/run: File exists$"):
        launch(tmp_path, GOOD, mark)
    (tmp_path / "run").unlink()
    (tmp_path / "run" / "server.log").mkdir(parents=True)
    with pytest.raises(ServerError, match=r"^fake cannot start: .*Is a directory"):
        launch(tmp_path, GOOD, mark)


def test_launcher_for() -> None:
    made = stack()
    assert launcher_for(made, emulate=False) is LAUNCHERS["llamacpp"]
    assert launcher_for(made, emulate=True) is LAUNCHERS["emulator"]


def test_every_engine_has_a_launcher() -> None:
    assert set(LAUNCHERS) == set(typing.get_args(Stack.model_fields["engine"].annotation))


def test_llamacpp_without_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    with pytest.raises(ServerError, match=r"llamacpp cannot start: .* is not there; .* run: harness install llamacpp$"):
        launcher_for(stack(), False).launch(stack(), scenario(), log_file=tmp_path / "log", work_dir=tmp_path, users=1)


def test_the_emulator_stands_up(tmp_path: Path) -> None:
    from harness.catalog import load_catalog

    catalog = load_catalog()
    chosen, wanted = catalog.stack("vllm-13b-a100"), catalog.scenario("chatbot")
    launcher = launcher_for(chosen, emulate=True)
    options: dict[str, Any] = {"log_file": tmp_path / "server.log", "work_dir": tmp_path, "users": 100}
    with launcher.launch(chosen, wanted, seed=3, **options) as server:
        facts = server.facts()
    assert facts.emulated
    assert facts.calibration == "roofline"
    assert facts.command[:3] == (sys.executable, "-m", "servers.emulator")
    with launcher.launch(chosen, wanted, calibration="claims", **options) as server:
        assert server.facts().calibration == "claims"
    with pytest.raises(ServerError, match="unknown fault 'nonsense'"):
        launcher.launch(chosen, wanted, faults="nonsense:1", **options)
    # a user's own scenario, which the emulator cannot look up by name
    own = wanted.model_copy(update={"name": "mine"})
    claims = {"mine": chosen.claims["chatbot"]}
    with launcher.launch(chosen.model_copy(update={"claims": claims}), own, calibration="claims", **options) as server:
        assert server.poll() is None
