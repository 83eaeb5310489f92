"""Another machine over ssh: command lines, ports, what is sent, and every way in which it is not reached."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from test_runtimes_container import PODMAN, a_line_each, golden_recipe

from harness.errors import ServerError
from harness.spec import Launch
from servers.recipe import Recipe
from servers.runtimes import container, pinned_to, place, ssh, ssh_main
from servers.runtimes.container import Image
from servers.runtimes.ssh import COMMAND_VARIABLE, explained, forwards, free_port, remote_output, wrapped
from tests.conftest import Golden

RUN_DIR = "/runs/1"


def order_of(recipe: Recipe) -> dict[str, object]:
    """What was written for the near end."""
    words = recipe.command
    return dict(json.loads(Path(words[words.index("--") - 1]).read_text()))


def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """An ssh that runs this shell script; the host and the remote line are its last two arguments."""
    path = tmp_path / "ssh"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    monkeypatch.setenv(COMMAND_VARIABLE, f"{path} -F own")


def test_a_command_line(golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COMMAND_VARIABLE, raising=False)
    monkeypatch.setattr(ssh, "forwards", lambda there, wanted: dict(zip(there, (9000, 9002), strict=True)))
    monkeypatch.setattr(ssh.secrets, "token_hex", lambda _: "1234")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    recipe = golden_recipe()
    far = wrapped("me@box", Recipe(recipe.command, port=8000, ports=(8002,), variables={"A": "b"}), tmp_path)
    text = a_line_each(far.command).replace(str(tmp_path), RUN_DIR).replace(sys.executable, "python")
    golden("runtimes/ssh.txt", text.replace(str(Path(ssh.__file__).parents[2]), "/harness"))
    assert far.variables == {"HF_TOKEN": "hf_secret", "A": "b"}
    order = order_of(far)
    assert order["variable_names"] == ["HF_TOKEN", "A"]
    assert "hf_secret" not in json.dumps(order) + " ".join(far.command)
    assert (far.port, far.ports, far.here) == (9000, (9002,), False)
    assert far.details["remote_command"] == shlex.join(recipe.command)


def test_a_container_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its watcher and the files that were written for it are sent along, and named by where they are there."""
    made = tmp_path / "repository"
    made.mkdir()
    launch = Launch(runtime="container", image="some/image", ssh_host="box")
    recipe = Recipe(
        ("tritonserver", f"--model-repository={made}", f"--log={tmp_path}/log", f"{tmp_path}-not"),
        port=8000,
        ports=(8002,),
        generated=(made,),
        metrics_path="http://127.0.0.1:8002/metrics",
    )
    inside = container.wrapped(
        launch, recipe, PODMAN, Image("some/image", "sha256:1"), gpus=(1,), work_dir=tmp_path, python="python3"
    )
    far = wrapped("box", inside, tmp_path, 9000)
    order = order_of(far)
    folder, command = order["folder"], order["command"]
    assert isinstance(command, list)
    assert command[:4] == ["python3", "-I", "-S", f"{folder}/file1/container_main.py"]
    assert f"type=bind,source={folder}/work/repository,target={folder}/work/repository,readonly" in command
    assert command[-4:] == [
        "tritonserver",
        f"--model-repository={folder}/work/repository",
        f"--log={folder}/work/log",
        f"{tmp_path}-not",
    ]
    assert str(folder).startswith("/tmp/llm-harness-")
    assert set(order["files"]) == {"work/repository", "file1/container_main.py"}  # type: ignore[call-overload]
    assert far.port == 9000
    assert far.metrics_path == f"http://127.0.0.1:{far.ports[0]}/metrics"
    assert far.ports[0] not in (8000, 8002, 9000)
    assert far.details["image_digest"] == "sha256:1"


def test_ports_here_for_ports_there() -> None:
    pairs = forwards((8000, 8001, 8002))
    assert [*pairs] == [8000, 8001, 8002]
    assert len({*pairs.values(), *pairs}) == 6
    assert forwards((8000, 8001), 9000)[8000] == 9000
    for port in pairs.values():
        with socket.create_server(("127.0.0.1", port)):
            pass


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("Host key verification failed.", "the host key of box is not known here, or has changed"),
        ("@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @", "the host key of box"),
        ("me@box: Permission denied (publickey).", "box lets nobody in without a password"),
        ("ssh: Could not resolve hostname box: Name or service not known", "there is no host box"),
        ("ssh: connect to host box port 22: Connection refused", "box cannot be reached: ssh: connect to host"),
        ("Timeout, server box not responding.", "box cannot be reached: Timeout"),
        ("Connection to box closed by remote host.", "box cannot be reached"),
        ("bind [127.0.0.1]:8000: Address already in use", "ssh cannot forward the port"),
        ("bash: line 1: exec: python3: not found", "box has no python3"),
        ("sh: 1: exec: python3: not found", "box has no python3"),
        ("llm-harness: port 8000 is in use", "box does not start the server: port 8000 is in use"),
        # a server's own words, and a forwarded port on which nobody listens yet
        ("PermissionError: Permission denied (os error 13)", ""),
        ("channel 2: open failed: connect failed: Connection refused", ""),
    ],
)
def test_words_of_ssh(said: str, sentence: str) -> None:
    found = explained("box", ["Warning: something", said, "more"])
    assert sentence in found
    assert bool(found) == bool(sentence)


def test_output_of_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ssh(tmp_path, monkeypatch, 'while [ "$1" != -- ]; do shift; done; exec sh -c "$3"')
    assert remote_output("box", ["printf", "%s\\n", "a b", "$HOME"]) == "a b\n$HOME"
    assert free_port("box") > 1023
    with pytest.raises(ServerError, match=r"^box has no program nvidia-smi-x$"):
        remote_output("box", ["nvidia-smi-x"])
    with pytest.raises(ServerError, match=r"^sh failed on box: this is why$"):
        remote_output("box", ["sh", "-c", "echo first >&2; echo this is why >&2; exit 3"])
    with pytest.raises(ServerError, match=r"^box gave no answer to 'sleep 60' in 0.2 s$"):
        remote_output("box", ["sleep", "60"], timeout_s=0.2)
    monkeypatch.setattr(ssh, "FREE_PORT", "print('hello')")
    with pytest.raises(ServerError, match="does not say which port is free"):
        free_port("box")


def test_a_host_that_is_not_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ssh(tmp_path, monkeypatch, "echo 'Host key verification failed.' >&2; exit 255")
    with pytest.raises(ServerError, match="the host key of box is not known here"):
        remote_output("box", ["true"])
    fake_ssh(tmp_path, monkeypatch, "echo 'something new' >&2; exit 255")
    with pytest.raises(ServerError, match=r"^ssh box failed: something new$"):
        remote_output("box", ["true"])
    monkeypatch.setenv(COMMAND_VARIABLE, str(tmp_path / "no-ssh"))
    with pytest.raises(ServerError, match="ssh is not on this machine"):
        remote_output("box", ["true"])


def test_what_makes_no_sense() -> None:
    with pytest.raises(ValidationError, match="environments of runtime: venv lie on this machine"):
        Launch(ssh_host="box")
    for host in ("-oProxyCommand=x", "a b", ""):
        with pytest.raises(ValidationError, match="ssh_host"):
            Launch(runtime="path", executable="x", ssh_host=host)
    with pytest.raises(ValidationError, match="executable belongs to runtime: path or container"):
        Launch(executable="x")
    with pytest.raises(ValidationError, match="runtime: path needs executable"):
        Launch(runtime="path")


def test_gpus_are_pinned_outside_of_containers_too(tmp_path: Path) -> None:
    def variables(launch: Launch, gpus: container.Gpus) -> dict[str, str]:
        recipe = Recipe(("x",), port=1, variables={"A": "b"})
        return dict(place(launch, recipe, gpus=gpus, work_dir=tmp_path, progress=lambda _: None).variables)

    assert variables(Launch(), (0, 3)) == {**pinned_to((0, 3)), "A": "b"}
    assert variables(Launch(), "all") == {"A": "b"}
    far = variables(Launch(runtime="path", executable="x", ssh_host="box"), (2,))
    assert far == {**pinned_to((2,)), "A": "b"} | {n: os.environ[n] for n in ssh.PASSED if n in os.environ}


FAR_END = [sys.executable, "-c", ssh.BOOT]


def sent(tmp_path: Path, files: bytes, **changes: object) -> bytes:
    """What the near end sends."""
    order = {
        **{"folder": str(tmp_path / "far"), "command": ["true"], "programs": ["sh"], "needed": [], "directory": None},
        **{"ports": [], "grace_s": 1, "variables": {}, "archive": len(files)},
        **changes,
    }
    program = Path(ssh.__file__).with_name("remote_main.py").read_bytes()
    return b"%d\n" % len(program) + program + json.dumps(order).encode() + b"\n" + files


def far_end(tmp_path: Path, **changes: object) -> subprocess.CompletedProcess[bytes]:
    """The far end in a process of its own, with an archive of nothing; its input ends at once."""
    input_ = sent(tmp_path, b"\0" * 10240, **changes)
    return subprocess.run(FAR_END, input=input_, capture_output=True, timeout=30, check=False)


def test_the_far_end_runs_a_command_until_it_is_told_to_end_it(tmp_path: Path) -> None:
    far = tmp_path / "far"
    command = [
        "sh",
        "-c",
        f"trap 'echo told; exit 7' TERM; stat -c %a {far}; ls {far}; echo $A; while :; do sleep 0.1; done",
    ]
    with subprocess.Popen(FAR_END, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(sent(tmp_path, ssh_main._archive({}), command=command, variables={"A": "of the order"}))
        process.stdin.flush()
        lines = [process.stdout.readline().decode().strip() for _ in range(4)]
        assert lines == ["700", "guard.py", "work", "of the order"]
        process.stdin.write(b".s")
        process.stdin.flush()
        assert process.stdout.read() == b"told\n"
    assert process.returncode == 7
    assert not far.exists()


def test_the_far_end_looks_before_it_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = {
            f"port {port} is in use": {"ports": [port]},
            "the directory /nowhere is not there": {"directory": "/nowhere"},
            "there is no program no-such-engine that can be run": {"programs": ["no-such-engine"]},
            "/models/missing is not there": {"needed": ["/models/missing"]},
        }
        for sentence, changes in refused.items():
            done = far_end(tmp_path, **changes)
            assert done.stderr.decode() == f"llm-harness: {sentence}\n"
            assert done.returncode == 75
            assert not (tmp_path / "far").exists()


def test_a_connection_that_ends_before_everything_was_sent(tmp_path: Path) -> None:
    done = far_end(tmp_path, archive=1 << 20)
    assert done.stderr == b"llm-harness: the connection ended too early\n"
    assert not (tmp_path / "far").exists()
