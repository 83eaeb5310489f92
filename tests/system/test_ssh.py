"""A server on another machine, over a real sshd: it gives tokens here, and ends there however the connection ends.

The other machine is this one, behind an sshd of the test's own on 127.0.0.1. Needs root and openssh-server.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from harness.catalog import load_catalog
from harness.errors import ExitCode, ServerError
from harness.runlog import SERVER_LOG
from harness.spec import Stack
from servers import LAUNCHERS
from servers.runtimes.ssh import COMMAND_VARIABLE, remote_output
from tests.e2e.processes import (
    HARNESS,
    ROOT,
    assert_no_trace,
    assert_nothing_left,
    commands,
    free_port,
    harness,
    judgement_of,
    manifest_of,
    samples_of,
    started,
    wait_until,
)

pytestmark = pytest.mark.system

SSHD = "/usr/sbin/sshd"
SECRET = "hush-hush-0123"
ENGINE = """#!/bin/sh
# What llama.cpp's server would be started as, played by the emulator.
model= port=
while [ $# -gt 0 ]; do
    case $1 in --model) model=$2 ;; --port) port=$2 ;; esac
    shift
done
echo "the secret has ${{#SECRET}} characters"
cd {root}
exec {python} -m servers.emulator --fixed ttft_s=0.02,itl_s=0.002,tokens=8 --host 127.0.0.1 --port $port \\
    --truth-log $model.truth
"""


@dataclass(frozen=True)
class Box:
    """An sshd and what its client needs; ``folder`` is in the command line of everything that is started for it."""

    folder: Path
    process: subprocess.Popen[bytes]

    def variables(self) -> dict[str, str]:
        return {COMMAND_VARIABLE: f"ssh -F {self.folder / 'ssh_config'}", "MY_SECRET": SECRET}

    def configure(self, port: int, known: str = "known", key: str = "client") -> None:
        lines = ["Host box", "  HostName 127.0.0.1", f"  Port {port}", "  User root", "  IdentitiesOnly yes"]
        lines += [f"  IdentityFile {self.folder / key}", f"  UserKnownHostsFile {self.folder / known}"]
        (self.folder / "ssh_config").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int, subprocess.Popen[bytes]]]:
    assert os.geteuid() == 0, "an sshd of one's own needs root"
    assert Path(SSHD).exists(), "no sshd here: make test-system installs openssh-server"
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "client", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "client.pub", folder / "authorized")
    port = free_port()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "unknown").write_text(f"[127.0.0.1]:{port} {(folder / 'stranger.pub').read_text()}")
    lines = [f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {folder / 'host'}", "PidFile none"]
    lines += [f"AuthorizedKeysFile {folder / 'authorized'}", "StrictModes no", "UsePAM no", "PasswordAuthentication no"]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    Path("/run/sshd").mkdir(exist_ok=True)
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    try:
        yield folder, port, process
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def box(sshd: tuple[Path, int, subprocess.Popen[bytes]], tmp_path: Path) -> Box:
    folder, port, process = sshd
    for name in ("known", "unknown", "client", "stranger"):
        shutil.copy(folder / name, tmp_path / name)
        (tmp_path / name).chmod(0o600)
    box = Box(tmp_path, process)
    box.configure(port)
    engine = tmp_path / "engine"
    engine.write_text(ENGINE.format(root=ROOT, python=sys.executable))
    engine.chmod(0o755)
    (tmp_path / "model.gguf").touch()
    stack = {
        "kind": "stack",
        "name": "on-box",
        "title": "A server on another machine",
        "engine": "llamacpp",
        "price": {"kind": "none", "reason": "a test"},
        "launch": {
            "runtime": "path",
            "executable": str(engine),
            "ssh_host": "box",
            "model_file": str(tmp_path / "model.gguf"),
            "served_model": "emulated",
            "variables": {"SECRET": "${MY_SECRET}"},
        },
    }
    (tmp_path / "on-box.yaml").write_text(yaml.safe_dump(stack))
    return box


def there(box: Box) -> list[int]:
    """Processes of the far end: descendants of sshd."""
    return [child.pid for child in psutil.Process(box.process.pid).children(recursive=True)]


def test_a_run_on_another_machine(box: Box) -> None:
    run_dir = box.folder / "run"
    ended = harness(
        *("run", "chatbot", "--stack", "on-box", "--real", "--catalog", box.folder / "on-box.yaml"),
        *("--users", "3", "--think-time", "0.3", "--output-tokens", "8", "--run-time", "5", "--run-dir", run_dir),
        variables=box.variables(),
    )
    assert_no_trace(ended.out, ended.err)
    assert ended.code == judgement_of(run_dir).verdict.exit_code, "any verdict: the client may lack a core here"
    manifest = manifest_of(run_dir)
    assert manifest.load.samples_written > 10
    assert {*samples_of(run_dir)["outcome"].to_pylist()} <= {"ok", "in_flight"}
    assert not manifest.server.died
    assert manifest.server.details["ssh_host"] == "box"
    command = str(manifest.server.details["remote_command"])
    assert command.startswith(f"{box.folder / 'engine'} --model {box.folder / 'model.gguf'}")
    port = manifest.server.url.rpartition(":")[2]
    assert f"--port {port} " not in command, "one machine plays both, so the ports must differ"
    assert f"the secret has {len(SECRET)} characters" in (run_dir / SERVER_LOG).read_text()
    for path in run_dir.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    assert_nothing_left(box.folder)
    wait_until(lambda: not there(box), "the far end is empty")


@pytest.mark.parametrize("victim", ["nobody", "harness", "ssh", "far end", "engine"])
def test_nothing_stays_on_either_side(box: Box, victim: str) -> None:
    command = [*HARNESS, "serve", "on-box", "--catalog", box.folder / "on-box.yaml"]
    with started(command, box.folder / "out", box.variables()) as server:
        server.until(lambda: "Ctrl-C ends it" in server.out, "ready")
        (engine,) = [pid for pid, line in commands("servers.emulator", box.folder).items() if "guard.py" not in line]
        (far_end,) = [pid for pid, line in commands("python3 -c f=open").items() if pid in there(box)]
        (ssh,) = [pid for pid, line in commands("ssh -F", box.folder).items() if line.startswith("ssh ")]
        assert engine in there(box)
        assert SECRET in psutil.Process(engine).environ().values()
        assert not commands(SECRET), "in an argument list"
        if victim == "nobody":
            server.send(signal.SIGINT)
        else:
            os.kill({"harness": server.pid, "ssh": ssh, "far end": far_end, "engine": engine}[victim], signal.SIGKILL)
        wait_until(lambda: not there(box), "the far end is empty", 15)
        ended = server.end()
    assert_nothing_left(box.folder)
    assert_no_trace(ended.out, ended.err)
    expected = {"nobody": ExitCode.PASS, "harness": -signal.SIGKILL}
    assert ended.code == expected.get(victim, ExitCode.SERVER)
    if victim == "engine":
        assert "on-box ended by itself with code -9" in ended.err


def refusal(box: Box, port: int | None = None) -> str:
    """Why a start fails, as a door would print it."""
    made = Stack.model_validate(yaml.safe_load((box.folder / "on-box.yaml").read_text()))
    scenario = load_catalog().scenario("chatbot")
    with pytest.raises(ServerError) as caught:
        LAUNCHERS["llamacpp"].launch(
            made, scenario, log_file=box.folder / "log", work_dir=box.folder / "work", users=1, port=port
        )
    return str(caught.value).splitlines()[0]


def test_starts_that_fail(
    box: Box, sshd: tuple[Path, int, subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in box.variables().items():
        monkeypatch.setenv(name, value)
    assert remote_output("box", ["echo", "a  b"]) == "a  b"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refusal(box, port).startswith(f"port {port} on 127.0.0.1 is in use")
    (box.folder / "model.gguf").unlink()
    assert refusal(box).startswith(f"box does not start the server: {box.folder / 'model.gguf'} is not there")
    (box.folder / "engine").unlink()
    assert refusal(box).startswith(f"box does not start the server: there is no program {box.folder / 'engine'}")
    box.configure(sshd[1], known="unknown")
    assert refusal(box).startswith("the host key of box is not known here, or has changed")
    box.configure(sshd[1], key="stranger")
    assert refusal(box).startswith("box lets nobody in without a password")
    box.configure(free_port())
    assert refusal(box).startswith("box cannot be reached: ssh: connect to host 127.0.0.1")
    wait_until(lambda: not there(box), "the far end is empty")
