"""A docker that needs no kernel: ``fake_docker.py daemon`` keeps containers, which are plain processes, and any other
call is the command. As with the real one, a container outlives the command that started it; its standard input ends
when that command does; nothing of its environment comes from the command but what ``--env`` names.

State lies beside the socket that ``FAKE_DOCKER`` names.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

SOCKET = os.environ["FAKE_DOCKER"]
STATE = Path(SOCKET).parent
FLAGS = {"--rm", "--init", "--interactive"}
DIGEST = "sha256:" + "ab" * 32


def note(line: str) -> None:
    with (STATE / "calls.txt").open("a") as file:
        file.write(line + "\n")


# The daemon ------------------------------------------------------------------------------------

containers: dict[str, subprocess.Popen[bytes]] = {}


def daemon() -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(SOCKET)
    listener.listen()
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def serve(connection: socket.socket) -> None:
    with connection, connection.makefile("rwb", buffering=0) as wire:
        asked = json.loads(wire.readline())
        if asked["do"] == "run":
            run(asked, wire)
            return
        container = containers.get(asked["id"])
        if container is not None:
            if asked["do"] == "stop":
                container.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    container.wait(asked["time"])
            if container.poll() is None:
                container.kill()
            container.wait()
        wire.write(b"{}\n")


def run(asked: dict[str, Any], wire: Any) -> None:
    container = subprocess.Popen(
        asked["command"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=asked["directory"],
        env={"PATH": os.environ["PATH"], **asked["env"]},
        start_new_session=True,
    )
    containers[asked["id"]] = container
    assert container.stdin is not None
    assert container.stdout is not None

    def until_the_command_is_gone() -> None:
        while wire.read(4096):
            pass
        container.stdin.close()

    def output() -> None:
        for line in container.stdout:
            try:
                wire.write(json.dumps({"out": line.decode()}).encode() + b"\n")
            except OSError:
                continue

    threading.Thread(target=until_the_command_is_gone, daemon=True).start()
    reader = threading.Thread(target=output, daemon=True)
    reader.start()
    code = container.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(container.pid, signal.SIGKILL)  # the end of the process namespace
    reader.join()
    with contextlib.suppress(OSError):
        wire.write(json.dumps({"code": code if code >= 0 else 128 - code}).encode() + b"\n")


# The command -----------------------------------------------------------------------------------


def main(words: list[str]) -> int:
    if words[0] == "--version":
        print("Docker version 28.2.2, build e6534b4")
        return 0
    note(" ".join(words[:2] if words[0] == "run" else words))
    if words[0] == "version":
        if not Path(SOCKET).exists():
            print("Cannot connect to the Docker daemon. Is the docker daemon running?", file=sys.stderr)
            return 1
        print("28.2.2")
        return 0
    if words[:2] == ["image", "inspect"]:
        if not (STATE / "pulled").exists():
            print(f"Error response from daemon: No such image: {words[2]}", file=sys.stderr)
            return 1
        digests = [f"{words[2].partition(':')[0]}@{DIGEST}"]
        print(json.dumps([{"Id": "sha256:1", "RepoDigests": digests, "Config": {"Entrypoint": ["vllm", "serve"]}}]))
        return 0
    if words[0] == "pull":
        if "nobody" in words[1]:
            print("Error response from daemon: pull access denied for nobody", file=sys.stderr)
            return 1
        print("f1: Pulling fs layer\nf1: Pull complete")
        (STATE / "pulled").touch()
        return 0
    if words[0] == "run":
        return run_and_wait(words[1:])
    if words[0] == "stop":
        ask({"do": "stop", "time": float(words[2]), "id": words[3]})[1].readline()
    if words[0] == "rm":
        ask({"do": "kill", "id": words[2]})[1].readline()
    return 0


def run_and_wait(words: list[str]) -> int:
    options: dict[str, list[str]] = {}
    while words[0].startswith("-"):
        name = words.pop(0)
        options.setdefault(name, []).append("" if name in FLAGS else words.pop(0))
    identity = f"id-{options['--name'][0]}"
    with Path(options["--cidfile"][0]).open("x") as file:
        file.write(identity)
    sender, wire = ask(
        {
            "do": "run",
            "id": identity,
            "command": [options["--entrypoint"][0], *words[1:]],
            "directory": options.get("--workdir", [None])[0],
            "env": {name: os.environ[name] for name in options.get("--env", [])},
        }
    )

    def hand_on_input() -> None:
        while part := os.read(0, 4096):
            sender.sendall(part)
        sender.shutdown(socket.SHUT_WR)

    threading.Thread(target=hand_on_input, daemon=True).start()
    for line in wire:
        said = json.loads(line)
        if "code" in said:
            return int(said["code"])
        print(said["out"], end="", flush=True)
    return 125


def ask(what: dict[str, Any]) -> tuple[socket.socket, Any]:
    sender = socket.socket(socket.AF_UNIX)
    sender.connect(SOCKET)
    wire = sender.makefile("rwb", buffering=0)
    wire.write(json.dumps(what).encode() + b"\n")
    return sender, wire


if __name__ == "__main__":
    if sys.argv[1] == "daemon":
        daemon()
    sys.exit(main(sys.argv[1:]))
