"""Another machine, over ssh: the recipe's command runs there, and its ports are forwarded to 127.0.0.1 here.

::

    here                                          there
    guard ── ssh_main ══ pipe ══ ssh ── ── ── sshd ── remote_main ── guard ── server ── its children

Whatever of it dies, the server's guard sees the end of its input and ends the whole family; a network that is cut
without a word is noticed by both ends within a minute. Needed there: ``python3``, 3.7 or newer. Host keys and users'
keys are the business of the user's own ssh configuration; nothing is ever asked for (``BatchMode``).
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.errors import ServerError
from servers.ports import free_ports
from servers.recipe import Recipe, no_words
from servers.runtimes import ssh_main
from servers.runtimes.ask import NOT_THERE, TOO_LATE, Answer, Ask, ask_here
from servers.runtimes.remote_main import SAYS

COMMAND_VARIABLE = "LLM_HARNESS_SSH_COMMAND"
"""Instead of ``ssh``, with options if need be, as git's ``GIT_SSH_COMMAND``."""
OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    # A shared connection would outlive the command, and keep its ports.
    "ControlMaster=no",
    "ControlPath=none",
    "ForwardAgent=no",
    "ForwardX11=no",
)
CONNECTION_GRACE_S = 3.0
"""For the word to get there and the exit code to come back, beyond the server's own grace."""
# Reads its own source byte by byte: what follows on standard input is for that source.
BOOT = 'f=open(0,"rb",0,closefd=False);n=int(f.readline());exec(b"".join(f.read(1) for _ in range(n)))'
FREE_PORT = "import socket;s=socket.socket();s.bind(('127.0.0.1',0));print(s.getsockname()[1])"
PASSED = ("HF_TOKEN",)
"""Of the harness's own environment, where it is set."""

_FAILURES = (
    (r"host key verification failed|@ +warning: remote host identification", "host key"),
    (r"\S+@\S+: permission denied \(|received disconnect from .*too many authentication failures", "key"),
    (r"ssh: could not resolve hostname", "name"),
    (
        r"ssh: connect to host|kex_exchange_identification|banner exchange|timeout, server"
        r"|connection (to \S+ )?(closed|reset|timed out)( by| during)|client_loop: send disconnect",
        "reach",
    ),
    (r"bind \[127.*address already in use|could not request local forwarding|channel_setup_fwd_listener", "forward"),
    (r"(\S+: )?(line )?(\d+: )?(exec: )?python3['\"]?: (command )?not found", "python"),
)
"""How ssh's own lines begin, in lower case, to the kind of failure. A server's lines may hold any of these words."""


def ssh_command(
    host: str, remote: str, ports: Mapping[int, int] | None = None, variables: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """The words that run ``remote``, a line for the other machine's shell; ``ports``: there to here."""
    words = [*(shlex.split(variables.get(COMMAND_VARIABLE, "")) or ["ssh"]), "-T"]
    for option in (*OPTIONS, *(("ExitOnForwardFailure=yes",) if ports else ())):
        words += ["-o", option]
    for there, here in (ports or {}).items():
        words += ["-L", f"127.0.0.1:{here}:127.0.0.1:{there}"]
    return (*words, "--", host, remote)


def ask_there(host: str, timeout_s: float = 30.0) -> Ask:
    """A way to ask on another machine.

    Raises
    ------
    ServerError
        When asking, for a host that is not reached; in one sentence.
    """

    def ask(words: Sequence[str]) -> Answer:
        answer = ask_here(ssh_command(host, shlex.join(words)), timeout_s)
        if answer.code == TOO_LATE:
            raise ServerError(f"{host} gave no answer to '{shlex.join(words)[:80]}' in {timeout_s:g} s")
        if answer.code == NOT_THERE and not answer.out and answer.err.startswith(ssh_command(host, "")[0] + ":"):
            raise ServerError("ssh is not on this machine: install OpenSSH's client, or unset launch.ssh_host")
        if answer.code == 255:
            raise ServerError(explained(host, answer.err.splitlines()) or f"ssh {host} failed: {answer.reason}")
        return answer

    return ask


def remote_output(host: str, command: Sequence[str], timeout_s: float = 30.0) -> str:
    """What a command prints on another machine.

    Raises
    ------
    ServerError
        When the host is not reached, or the command is not there or fails.
    """
    answer = ask_there(host, timeout_s)(command)
    if answer.code == NOT_THERE:
        raise ServerError(f"{host} has no program {command[0]}")
    if answer.code != 0:
        raise ServerError(f"{command[0]} failed on {host}: {answer.reason}")
    return answer.out


def free_port(host: str) -> int:
    """A port of 127.0.0.1 that nobody listens on, on another machine."""
    said = remote_output(host, ["python3", "-c", FREE_PORT]).split()
    if not said or not said[-1].isdigit():
        raise ServerError(f"python3 on {host} does not say which port is free")
    return int(said[-1])


def forwards(there: Sequence[int], wanted: int | None = None) -> dict[int, int]:
    """A port here for each port there; ``wanted`` for the first of them."""
    free = [
        port for port in free_ports(2 * len(there) + 1) if port not in (*there, wanted)
    ]  # "there" may be this machine
    return dict(zip(there, [*([] if wanted is None else [wanted]), *free], strict=False))


def wrapped(host: str, recipe: Recipe, work_dir: Path, port: int | None = None) -> Recipe:
    """The recipe with its command on another machine; everything that it writes here goes into ``work_dir``."""
    assert recipe.port is not None
    folder = f"/tmp/llm-harness-{secrets.token_hex(8)}"
    files, places = _sent(recipe.generated, work_dir, folder)
    command = [_elsewhere(word, places) for word in recipe.command]
    variables = {each: os.environ[each] for each in PASSED if each in os.environ} | dict(recipe.variables)
    ports = forwards((recipe.port, *recipe.ports), port)
    order = {
        "folder": folder,
        "command": command,
        "programs": [command[0]],
        "needed": [str(path) for path in recipe.mounts],
        "directory": None if recipe.directory is None else _elsewhere(str(recipe.directory), places),
        "ports": list(ports),
        "grace_s": recipe.grace_s,
        "files": files,
        "variable_names": list(variables),
    }
    order_file = work_dir / f"ssh-{secrets.token_hex(4)}.json"
    try:
        order_file.write_text(json.dumps(order))
    except OSError as error:
        raise ServerError(f"cannot write {order_file}: {error.strerror}") from error
    near = (sys.executable, "-I", "-S", str(Path(ssh_main.__file__)), str(order_file), "--")
    inner = recipe.explain
    return replace(
        recipe,
        command=(*near, *ssh_command(host, f"exec python3 -c {shlex.quote(BOOT)}", ports)),
        port=ports[recipe.port],
        ports=tuple(ports[each] for each in recipe.ports),
        metrics_path=re.sub(
            r"(?<=127\.0\.0\.1:)\d+", lambda match: str(ports.get(int(match[0]), match[0])), recipe.metrics_path
        ),
        variables=variables,
        directory=None,
        details={**recipe.details, "ssh_host": host, "remote_command": shlex.join(command)},
        grace_s=recipe.grace_s + CONNECTION_GRACE_S,
        here=False,
        explain=lambda lines: explained(host, lines) or (inner(lines) if inner is not no_words else ""),
    )


def _sent(generated: Sequence[Path], work_dir: Path, folder: str) -> tuple[dict[str, str], dict[str, str]]:
    """Names in the far folder to paths here, and paths here to where they are there."""
    files, places = {}, {str(work_dir): f"{folder}/work"}
    for number, path in enumerate(generated):
        if path.is_relative_to(work_dir):
            files[f"work/{path.relative_to(work_dir)}"] = str(path)
        else:
            files[f"file{number}/{path.name}"] = str(path)
            places[str(path)] = f"{folder}/file{number}/{path.name}"
    return files, places


def _elsewhere(word: str, places: Mapping[str, str]) -> str:
    """Paths of this machine replaced by where they are there, the longest first."""
    for here in sorted(places, key=len, reverse=True):
        there = places[here].replace("\\", r"\\")
        word = re.sub(rf"(?<![\w/.-]){re.escape(here)}(?![^/,:=\s])", there, word)
    return word


def explained(host: str, lines: Sequence[str]) -> str:
    """What ssh or the far end mean by their last lines, in one sentence; empty where the words are the server's."""
    for line in lines:
        said = line.strip()
        if said.startswith(SAYS):
            return f"{host} does not start the server: {said.removeprefix(SAYS).strip()}"
    kind, line = next(
        (
            (kind, line.strip())
            for pattern, kind in _FAILURES
            for line in lines
            if re.match(pattern, line.strip(), re.IGNORECASE)
        ),
        ("", ""),
    )
    match kind:
        case "host key":
            return f"the host key of {host} is not known here, or has changed: connect once by hand (ssh {host})"
        case "key":
            return f"{host} lets nobody in without a password: give ssh a key that it knows"
        case "name":
            return f"there is no host {host}, neither in the ssh configuration nor in the DNS"
        case "reach":
            return f"{host} cannot be reached: {line[:200]}"
        case "forward":
            return f"ssh cannot forward the port of the server on {host}: {line[:200]}"
        case "python":
            return f"{host} has no python3, which watches over the server there"
    return ""
