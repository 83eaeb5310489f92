"""A key or a header's value is in no text that the harness makes of the objects that carry it."""

from __future__ import annotations

import logging
import pickle
import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr

from harness.catalog import load_catalog
from harness.cell import Overrides, attached_stack, build_cell
from harness.clients import Target
from harness.clients.base import shorten
from harness.connection import Connection
from harness.errors import UsageError

with pytest.MonkeyPatch.context() as _patch:
    # The package imports Locust, which would patch this process and with it every other test.
    _patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from harness.connection import parse_headers
    from harness.loadgen.target import target_of

KEY = "sk-hunter2-0123456789"
TOKEN = "tok-correct-horse-battery"


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Connection:
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    return Connection(
        protocol="openai-chat",
        url="http://127.0.0.1:8000/v1",
        model="m",
        api_key_env="MY_KEY",
        headers=parse_headers(["X-Auth: Bearer ${MY_TOKEN}", "X-Tenant: blue"]),
    )


@pytest.fixture
def target(connection: Connection) -> Target:
    return target_of(connection)


def texts(thing: object) -> str:
    return "\n".join((repr(thing), str(thing), f"{thing}", f"{thing!r}", repr([thing]), repr({"it": thing})))


def test_the_target_holds_the_secrets(target: Target) -> None:
    """Otherwise the other tests would look for what is not there."""
    assert target.api_key is not None
    assert target.api_key.get_secret_value() == KEY
    assert target.headers["X-Auth"] == f"Bearer {TOKEN}"


def test_a_targets_texts_hold_neither_key_nor_header(target: Target) -> None:
    assert KEY not in texts(target)
    assert TOKEN not in texts(target)
    assert "127.0.0.1:8000" in repr(target), "a repr without anything would pass too"


def test_a_plain_text_key_is_hidden_as_well() -> None:
    target = Target(url="http://h", model="m", api_key=KEY)  # type: ignore[arg-type]
    assert isinstance(target.api_key, SecretStr)
    assert KEY not in texts(target)


def test_a_logged_target_holds_no_secret(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        logging.getLogger("test").info("target %s %r", target, target)
    assert "target" in caplog.text
    assert KEY not in caplog.text
    assert TOKEN not in caplog.text


def test_a_connection_names_variables_and_never_their_values(connection: Connection) -> None:
    written = texts(connection) + connection.model_dump_json() + str(connection.model_dump())
    assert "MY_KEY" in written
    assert "${MY_TOKEN}" in written
    assert KEY not in written
    assert TOKEN not in written
    assert KEY.encode() not in pickle.dumps(connection)


def test_what_is_written_to_a_run_directory_or_sent_to_workers_holds_no_secret(connection: Connection) -> None:
    catalog = load_catalog()
    cell = build_cell(
        catalog,
        catalog.scenario("chatbot"),
        attached_stack("m"),
        catalog.profile("quick"),
        Overrides(),
        connection,
        run_dir=Path("unused"),
    )
    for written in (cell.model_dump_json(), cell.manifest().model_dump_json(), texts(cell)):
        assert "chatbot" in written
        assert KEY not in written
        assert TOKEN not in written


def test_the_secrets_of_a_target_are_cut_out_of_server_texts(target: Target) -> None:
    assert KEY in target.secrets
    assert TOKEN in target.secrets, "a server may quote the token without its scheme"
    line = shorten(f"401: no such key {KEY}, token {TOKEN}, auth 'Bearer {TOKEN}'", target.secrets)
    assert line.startswith("401: no such key ***")
    assert KEY not in line
    assert TOKEN not in line


def test_a_missing_variable_is_named_and_no_other_shown(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_TOKEN")
    with pytest.raises(UsageError) as caught:
        target_of(connection)
    assert str(caught.value) == "the header 'X-Auth' needs the environment variable MY_TOKEN, which is not set"
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_no_key_is_fine(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY")
    assert target_of(connection).api_key is None


@pytest.mark.parametrize(
    "url", [f"http://user:{KEY}@127.0.0.1:8000", f"https://{KEY}@host/v1", f"ftp://host/{KEY}", f"{KEY}"]
)
def test_an_unusable_url_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Target(url=url, model="m")
    assert KEY not in str(caught.value)


def test_a_secret_with_a_line_break_is_refused_without_being_shown(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", TOKEN + "\r\nX-Evil: 1")
    with pytest.raises(UsageError) as caught:
        target_of(connection)
    assert TOKEN not in str(caught.value)
