"""Bad input: one clear message, the right exit code, no stack trace, nothing left behind, and no secret anywhere."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Protocol

import pytest

from harness import cli
from harness.errors import ExitCode
from harness.judgement import Verdict
from harness.runlog import MANIFEST
from tests.e2e.processes import (
    HARNESS,
    ROOT,
    Ended,
    Started,
    assert_no_trace,
    commands,
    harness,
    judgement_of,
    manifest_of,
    run,
    samples_of,
)

STACK = "vllm-7b-int8-a100"
NOBODY = "http://127.0.0.1:9"
SECRET = "sk-planted-7f3a9c51e2"


class InProcess(Protocol):
    def __call__(self, *arguments: str | Path) -> Ended: ...


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> InProcess:
    """The command line in this process: what it refuses, it refuses before it starts anything."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def play(*arguments: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["harness", *map(str, arguments)])
        return Ended(cli.main(), *capsys.readouterr())

    return play


def refused(ended: Ended, code: int, *words: str) -> None:
    """One message on standard error with these words, and nothing on standard output."""
    assert ended.code == code, ended
    assert ended.out == ""
    for word in words:
        assert word in ended.err
    assert_no_trace(ended.err)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "chatbto"), "unknown scenario 'chatbto'; did you mean 'chatbot'?"),
        (("run", "chatbot", "--stack", "vllm-7b-t5"), "unknown stack 'vllm-7b-t5'; did you mean 'vllm-7b-t4'?"),
        (("run", "chatbot", "--profile", "quik"), "unknown profile 'quik'; did you mean 'quick'?"),
        (("run", "chatbot", "--attach", NOBODY, "--protocol", "openai"), "did you mean 'openai-chat'?"),
        (("run", "chatbot", "--calibration", "claim"), "did you mean 'claims'?"),
        (("run", "chatbot", "--stack", STACK, "--faults", "gremlins:1"), "unknown fault 'gremlins'"),
        (("run", "chatbot", "--users", "-3"), "--users must be at least 1, not -3"),
        (("run", "chatbot", "--users", "0"), "--users must be at least 1, not 0"),
        (("run", "chatbot", "--think-time", "-1"), "--think-time must be 0 s or more"),
        (("run", "chatbot", "--think-time", "nan"), "--think-time must be 0 s or more"),
        (("run", "chatbot", "--run-time", "0"), "--run-time must be above 0 s"),
        (("run", "chatbot", "--output-tokens", "0"), "--output-tokens must be at least 1"),
        (("run", "chatbot", "--dataset", "/nowhere.jsonl"), "/nowhere.jsonl: there is no such file"),
        (("run", "chatbot", "--attach", NOBODY, "--stack", STACK), "not both"),
        (("run", "chatbot", "--attach", NOBODY, "--extra-body", "{bad"), "--extra-body is not JSON"),
        (("run", "chatbot", "--attach", NOBODY, "--header", "Authorization: Bearer abc123"), "${VARIABLE}"),
        (("run", "chatbot", "--catalog", "/nowhere.yaml"), "there is no such file"),
        (("plan", "chatbto"), "did you mean 'chatbot'?"),
        (("audit", "chatbto"), "did you mean 'chatbot'?"),
        (("serve", "vllm-7b-t5"), "did you mean 'vllm-7b-t4'?"),
        (("judge", "/nowhere"), "/nowhere is not a run directory"),
        (("report", "/nowhere"), "/nowhere is no run, capacity search or comparison"),
        (("validate", "/nowhere.yaml"), "/nowhere.yaml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_usage(arguments: tuple[str, ...], words: str, in_process: InProcess) -> None:
    ended = in_process(*arguments)
    refused(ended, ExitCode.USAGE, words)
    assert len(ended.err.strip().splitlines()) == 1
    assert ended.err.startswith("harness: ")
    assert "abc123" not in ended.err


@pytest.mark.parametrize("arguments", [("run", "chatbto"), ("judge", "/nowhere"), ("validate", "/nowhere.yaml")])
def test_a_process_says_and_exits_the_same(arguments: tuple[str, ...], in_process: InProcess) -> None:
    assert harness(*arguments) == in_process(*arguments)


def test_several_mistakes_of_a_file_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    text = (ROOT / "harness/catalog/scenarios/chatbot.yaml").read_text()
    text = text.replace("p95(e2e) < 2 s", "p95(speed) < 2 s").replace("users: 100", "users: many")
    assert text.count("p95(speed)") == 1
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    places = [
        number for number, line in enumerate(text.splitlines(), 1) if "p95(speed)" in line or "users: many" in line
    ]
    for ended in (harness("validate", path), harness("run", "chatbot", "--catalog", path)):
        refused(ended, ExitCode.USAGE, "unknown metric 'speed'", *(f"{path}:{place}: " for place in places))


@pytest.mark.parametrize("text", ["kind: stack\nname: [oops\n", "kind: stack\n\tname: x\n", "- 1\n", "kind: cluster\n"])
def test_malformed_yaml(text: str, tmp_path: Path, in_process: InProcess) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    for ended in (in_process("validate", path), in_process("plan", "--catalog", path)):
        refused(ended, ExitCode.USAGE, f"{path}:")


@pytest.mark.parametrize("check", ["p200(e2e) < 2 s", "p95(e2e) < -2 s", "p95(e2e) > 2 s", "error_rate < 200 %"])
def test_an_impossible_sla(check: str, tmp_path: Path, in_process: InProcess) -> None:
    text = (ROOT / "harness/catalog/scenarios/chatbot.yaml").read_text().replace("p95(e2e) < 2 s", check)
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    refused(in_process("validate", path), ExitCode.USAGE, f"{path}:", check)


def test_an_unreachable_host(tmp_path: Path) -> None:
    ended = harness("run", "chatbot", "--attach", NOBODY, "--run-dir", tmp_path / "run")
    refused(ended, ExitCode.SERVER, "refuses connections", NOBODY)
    assert not (tmp_path / "run" / MANIFEST).exists()


def test_a_host_that_does_not_exist(tmp_path: Path) -> None:
    ended = harness("run", "chatbot", "--attach", "http://nobody.invalid", "--run-dir", tmp_path / "run")
    refused(ended, ExitCode.SERVER, "cannot be resolved")


def test_a_wrong_model_name_is_answered_with_what_is_served(quick_server: str, tmp_path: Path) -> None:
    ended = harness("run", "chatbot", "--attach", quick_server, "--model", "gpt-5", "--run-dir", tmp_path / "run")
    refused(ended, ExitCode.SERVER, "does not serve 'gpt-5'", "it serves emulated")


def test_a_port_in_use() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        refused(harness("serve", STACK, "--port", port), ExitCode.SERVER, f"port {port} on 127.0.0.1 is in use")


@pytest.fixture(scope="module")
def attached(quick_server: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, Path, set[str]]:
    """A short run with a key in the environment: how it ended, where it wrote, every command line meanwhile."""
    folder = tmp_path_factory.mktemp("attached")
    run_dir = folder / "run"
    own = ("--users", "3", "--think-time", "0.1", "--run-time", "2", "--run-dir", run_dir)
    variables = {"OPENAI_API_KEY": SECRET, "MY_TOKEN": SECRET[::-1]}
    header = ("--header", "X-Auth: Bearer ${MY_TOKEN}")
    process = Started([*HARNESS, "run", "chatbot", "--attach", quick_server, *own, *header], folder, variables)
    lines: set[str] = set()
    try:
        while process.alive():
            lines.update(commands("").values())
        return process.end(), run_dir, lines
    finally:
        process.kill()


def test_a_key_is_written_nowhere(attached: tuple[Ended, Path, set[str]]) -> None:
    ended, run_dir, lines = attached
    assert ended.code == judgement_of(run_dir).verdict.exit_code
    assert samples_of(run_dir).num_rows > 0
    secrets = (SECRET, SECRET[::-1])
    assert any(str(run_dir) in line and "locust" in line for line in lines)
    files = [path for path in run_dir.parent.rglob("*") if path.is_file()]
    assert len(files) > 6
    for secret in secrets:
        assert not [line for line in lines if secret in line]
        assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert "${MY_TOKEN}" in (run_dir / MANIFEST).read_text()


def test_a_directory_that_holds_a_run_is_refused_untouched(attached: tuple[Ended, Path, set[str]]) -> None:
    _, run_dir, _ = attached
    before = {path.name: path.read_bytes() for path in run_dir.iterdir()}
    door = [sys.executable, "-m", "locust", "-f", "locustfiles/chatbot.py", "--headless", "-t", "2"]
    for ended in (
        harness("run", "chatbot", "--stack", STACK, "--run-dir", run_dir),
        run([*door, "--stack", STACK, "--run-dir", run_dir]),
    ):
        assert ended.code == ExitCode.USAGE
        assert "holds a run already" in ended.err
        assert_no_trace(ended.out, ended.err)
    assert {path.name: path.read_bytes() for path in run_dir.iterdir()} == before


NO_LARGE_FILE = ("bash", "-c", 'ulimit -f 146 && exec "$@"', "bash")
"""No file grows beyond 146 KiB: what a full disk does to a writer, without root."""


def test_a_full_disk_keeps_what_was_recorded(quick_server: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    own = ("--users", "10", "--think-time", "0", "--run-time", "30", "--run-dir", run_dir)
    ended = run([*NO_LARGE_FILE, *HARNESS, "run", "chatbot", "--attach", quick_server, *own])
    assert_no_trace(ended.out, ended.err)
    assert ended.code in (ExitCode.USAGE, ExitCode.LOAD, ExitCode.INVALID)
    assert "cannot write" in ended.err + ended.out + (run_dir / "load.log").read_text(errors="replace")
    again = harness("judge", run_dir)
    assert_no_trace(again.out, again.err)
    assert again.code == judgement_of(run_dir).verdict.exit_code
    assert judgement_of(run_dir).verdict is not Verdict.PASS
    assert samples_of(run_dir).num_rows > 100
    assert manifest_of(run_dir).load.samples_written >= 0


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = harness("run", "chatbot", "--stack", STACK, "--run-dir", tmp_path / "file" / "run")
    refused(ended, ExitCode.USAGE, "cannot make the run directory")


def test_help_is_quick_to_import() -> None:
    code = (
        "import sys; sys.argv = ['harness', *sys.argv[1:]]\n"
        "from harness.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'pandas', 'pyarrow', 'locust', 'gevent', 'numpy', 'altair'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    for arguments in (("--help",), ("run", "--help"), ("judge", "--help")):
        ended = run([sys.executable, "-W", "error", "-c", code, *arguments])
        assert ended.code == 0, ended.err
        assert "Usage: " in ended.out


def test_the_installed_script_answers() -> None:
    script = shutil.which("harness", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    assert script is not None
    ended = run([script, "--help"])
    assert ended.code == 0
    for command in ("run", "judge", "report", "serve", "list", "plan", "audit", "validate", "doctor"):
        assert f"\n  {command} " in ended.out
