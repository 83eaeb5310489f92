"""The launcher of APIs: what the SDK's errors become, what is read from headers, and that no key is ever said."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.connection import Connection
from harness.errors import ServerError
from harness.records import ServerFacts
from harness.spec import Stack
from servers import LAUNCHERS
from tests.openai_like import CERTS, MODEL
from tests.unit.servers_support import scenario

RIGHT = "sk-right-key-0123456789"
VARIABLE = "TEST_OPENAI_LIKE_KEY"


@contextmanager
def api(*options: str) -> Iterator[int]:
    command = [sys.executable, "-m", "tests.openai_like", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as server:
        assert server.stdout is not None
        try:
            yield int(json.loads(server.stdout.readline())["port"])
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., int]]:
    """One server for each set of options, kept for the module."""
    ports: dict[tuple[str, ...], int] = {}
    with ExitStack() as servers:

        def of(*options: str) -> int:
            if options not in ports:
                ports[options] = servers.enter_context(api(*options))
            return ports[options]

        yield of


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, RIGHT)


def launched(
    folder: Path, port: int, *, key: str | None = VARIABLE, scheme: str = "http", **changes: Any
) -> ServerFacts:
    launch = {"url": f"{scheme}://127.0.0.1:{port}", "served_model": MODEL, "api_key_env": key}
    about = {"kind": "stack", "name": "paid", "title": "Paid", "engine": "openai", "launch": launch | changes}
    price = {"kind": "tokens", "usd_per_million_input": 30, "usd_per_million_output": 60, "source": {"text": "made up"}}
    stack = Stack.model_validate(about | {"price": price})
    connection = Connection(protocol="openai-chat", api_key_env="", **given(folder))
    said: list[str] = []
    files = {"log_file": folder / "log", "work_dir": folder}
    with LAUNCHERS["openai"].launch(
        stack, scenario(), users=2, connection=connection, progress=said.append, **files
    ) as server:
        facts = server.facts()
    (folder / "said").write_text("\n".join(said), encoding="utf-8")
    return facts


def given(folder: Path) -> dict[str, Any]:
    """Options of the connection that a test left in its folder."""
    path = folder / "connection.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def give(folder: Path, **options: Any) -> None:
    (folder / "connection.json").write_text(json.dumps(options), encoding="utf-8")


def test_what_a_good_answer_says(start: Callable[..., int], tmp_path: Path) -> None:
    facts = launched(tmp_path, start("--rpm", "3", "--tpm", "40000"))
    assert (facts.launcher, facts.model) == ("openai", MODEL)
    assert facts.details["requests/min allowed"] == 3
    assert facts.details["tokens/min allowed"] == 40_000
    assert facts.details["requests left before load"] == 2
    assert facts.details["model that answered"] == f"{MODEL}-0101"
    assert facts.details["preflight output tokens"] == 4
    assert 0 < float(facts.details["seconds until the request limit resets"]) <= 21
    said = str(facts.details["rate limits"])
    assert said.startswith("the API allows 3 requests a minute, and this load asks for about ")
    assert said.endswith("this run will measure the limit, not the model")
    assert said in (tmp_path / "said").read_text(encoding="utf-8")
    assert RIGHT not in facts.model_dump_json()


def test_limits_above_the_load_are_no_warning(start: Callable[..., int], tmp_path: Path) -> None:
    facts = launched(tmp_path, start())
    assert facts.details["requests/min allowed"] == 1_000_000
    assert "rate limits" not in facts.details


def test_a_whole_answer_will_do(start: Callable[..., int], tmp_path: Path) -> None:
    give(tmp_path, stream=False)
    assert launched(tmp_path, start()).details["preflight output tokens"] == 4


@pytest.mark.parametrize(
    ("options", "changes", "sentences"),
    [
        ((), {"key": "TEST_WRONG_KEY"}, ["refused the key in $TEST_WRONG_KEY (invalid_api_key)"]),
        ((), {"key": "TEST_NO_KEY"}, ["stack 'paid' needs a key: set the environment variable TEST_NO_KEY"]),
        ((), {"key": None}, ["wants a key: set the environment variable OPENAI_API_KEY"]),
        ((), {"served_model": "gpt-99"}, [f"does not serve 'gpt-99'; it serves {MODEL}"]),
        (("--no-credit",), {}, ["has no credit left", "waiting will not help"]),
        (("--context", "4"), {}, ["too small a context", "maximum context length is 4"]),
        (("--new-length-name",), {}, ["""add --extra-body '{"max_completion_tokens": "$output_tokens"}'"""]),
        (
            ("--fault", "503", "--retry-after", "0.05"),
            {},
            ["is overloaded or down (503), 3 times in a row", "currently overloaded"],
        ),
        (("--fault", "500", "--retry-after", "0.05"), {}, ["failed (500), 3 times in a row"]),
        (
            ("--rpm", "1", "--tpm", "1", "--retry-after", "0.1"),
            {},
            ["limits the key", "1 tokens a minute, try again in 0.1 s"],
        ),
    ],
)
def test_each_error_is_one_sentence(
    start: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    changes: dict[str, Any],
    sentences: list[str],
) -> None:
    wrong = "sk-wrong-key-9876543210"
    monkeypatch.setenv("TEST_WRONG_KEY", wrong)
    with pytest.raises(ServerError) as caught:
        launched(tmp_path, start(*options), **changes)
    text = str(caught.value)
    assert "\n" not in text
    for each in sentences:
        assert each in text
    assert wrong not in text
    assert RIGHT not in text


def test_a_newer_name_of_the_length_can_be_asked_for(start: Callable[..., int], tmp_path: Path) -> None:
    give(tmp_path, extra_body={"max_completion_tokens": "$output_tokens"})
    assert launched(tmp_path, start("--new-length-name")).model == MODEL


def test_a_moment_of_overload_is_no_reason_to_give_up(start: Callable[..., int], tmp_path: Path) -> None:
    # The first request is refused, its repetition is not.
    assert (
        launched(tmp_path, start("--fault", "503", "--retry-after", "0.05", "--every", "2", "--good-first", "1")).model
        == MODEL
    )
    assert (
        launched(tmp_path, start("--fault", "503", "--retry-after", "0.05", "--every", "2", "--good-first", "1")).model
        == MODEL
    )


def test_over_tls_with_a_ca_of_ones_own(start: Callable[..., int], tmp_path: Path) -> None:
    port = start("--tls")
    give(tmp_path, ca_file=str(CERTS / "test_only_ca.pem"))
    assert launched(tmp_path, port, scheme="https").model == MODEL
    give(tmp_path, ca_file=str(CERTS / "test_only_other_ca.pem"))
    with pytest.raises(ServerError, match="shows a certificate that is not trusted: name its CA file"):
        launched(tmp_path, port, scheme="https")


def test_nobody_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(ServerError, match="refuses connections"):
        launched(tmp_path, port)


def test_what_is_no_api(tmp_path: Path, start: Callable[..., int]) -> None:
    with pytest.raises(ServerError, match=r"does not know the model .* Unknown request URL"):
        launched(tmp_path, start(), url=f"http://127.0.0.1:{start()}/elsewhere")
