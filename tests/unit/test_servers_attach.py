"""What is checked of a server that somebody else started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from servers_support import END, TOKEN, Wire, answer, scenario, serving, sse, stack

from harness.connection import Connection
from harness.errors import ServerError
from servers import LAUNCHERS, RunningServer
from servers.attach import endpoint_of

KEY = "sk-very-secret"


def models(*names: str) -> bytes:
    return answer(200, json.dumps({"data": [{"id": name} for name in names]}).encode())


def attach(tmp_path: Path, wire: Wire, **options: Any) -> RunningServer:
    protocol = options.pop("protocol", "openai-chat")
    made = stack(**options.pop("launch", {})).model_copy(
        update={"protocol": protocol, "engine": "attach", "model": None}
    )
    connection = Connection(protocol="openai_chat", url=wire.endpoint().url, **options)
    files = {"log_file": tmp_path / "log", "work_dir": tmp_path}
    return LAUNCHERS["attach"].launch(made, scenario(), users=2, connection=connection, **files)


def test_a_server_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    monkeypatch.setenv("TENANT", "tenant-of-mine")
    with serving(models("a", "b"), sse(TOKEN, END)) as wire:
        server = attach(
            tmp_path,
            wire,
            model="b",
            api_key_env="MY_KEY",
            headers={"X-Tenant": "${TENANT}"},
            extra_body={"max_completion_tokens": "$output_tokens"},
        )
        with server:
            assert (server.model, server.poll(), server.pid) == ("b", None, None)
    assert len(wire.requests) == 2, "one look at the list and one tiny request; it may cost money"
    for _, headers, _ in wire.requests:
        assert headers["Authorization"] == f"Bearer {KEY}"
        assert headers["X-Tenant"] == "tenant-of-mine"
    body = wire.requests[1][2]
    assert body["max_completion_tokens"] > 0
    assert "max_tokens" not in body
    shown = server.facts().model_dump_json() + repr(server.endpoint)
    assert KEY not in shown
    assert "tenant-of-mine" not in shown
    assert server.facts().launcher == "attach"
    assert not server.facts().died


def test_a_wrong_model_lists_what_is_served(tmp_path: Path) -> None:
    with (
        serving(models("llama", "mistral")) as wire,
        pytest.raises(ServerError, match=r"does not serve 'lama'; it serves llama, mistral$"),
    ):
        attach(tmp_path, wire, model="lama")
    with serving(models(*map(str, range(12)))) as wire, pytest.raises(ServerError, match=r"8, 9 and 2 more$"):
        attach(tmp_path, wire, model="lama")


def test_a_lone_model_needs_no_name(tmp_path: Path) -> None:
    with serving(models("only"), sse(TOKEN)) as wire, attach(tmp_path, wire) as server:
        assert server.model == "only"
    with (
        serving(models("a", "b")) as wire,
        pytest.raises(ServerError, match=r"serves several models: name one of a, b$"),
    ):
        attach(tmp_path, wire)


def test_a_server_without_a_list_is_probed(tmp_path: Path) -> None:
    with serving(answer(404), sse(TOKEN)) as wire, attach(tmp_path, wire, model="m") as server:
        assert server.model == "m"
    with serving(answer(404)) as wire, pytest.raises(ServerError, match=r"lists no models: name the one to ask for$"):
        attach(tmp_path, wire)
    error = answer(404, b'{"error": {"message": "The model m does not exist"}}')
    with serving(answer(404), error) as wire, pytest.raises(ServerError, match=r"the server answered 404: The model m"):
        attach(tmp_path, wire, model="m")


def test_triton_has_no_list(tmp_path: Path) -> None:
    with serving(sse({"text_output": "Hi"}, done=False)) as wire:
        with attach(tmp_path, wire, model="m", protocol="triton-generate-stream") as server:
            assert server.model == "m"
        assert len(wire.requests) == 1


def test_a_server_that_still_loads_is_waited_for(tmp_path: Path) -> None:
    with serving(answer(503), answer(503), sse(TOKEN)) as wire, attach(tmp_path, wire, model="m") as server:
        assert server.facts().ready_s is not None


def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    refused = answer(401, f'{{"error": "bad key {KEY}"}}'.encode())
    with serving(refused) as wire, pytest.raises(ServerError, match=r"it wants a key: set \$MY_KEY$"):
        attach(tmp_path, wire, model="m", launch={"api_key_env": "MY_KEY"})
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(refused) as wire, pytest.raises(ServerError, match=r"the key in \$MY_KEY was refused$") as caught:
        attach(tmp_path, wire, model="m", launch={"api_key_env": "MY_KEY"})
    assert KEY not in str(caught.value)


def test_nobody_there(tmp_path: Path) -> None:
    with serving(b"") as wire:
        pass
    with pytest.raises(ServerError, match=r"^no token came from http://127.0.0.1:\d+: the server refuses connections$"):
        attach(tmp_path, wire, model="m")


def test_the_stack_may_name_it_all(tmp_path: Path) -> None:
    with serving(models("m"), sse(TOKEN)) as wire:
        made = stack(url=wire.endpoint().url + "/v1/", served_model="m").model_copy(update={"engine": "openai"})
        files = {"log_file": tmp_path / "log", "work_dir": tmp_path}
        with LAUNCHERS["openai"].launch(made, scenario(), users=2, **files) as server:
            assert server.url.endswith("/v1")
    assert wire.requests[1][0].startswith("POST /v1/chat/completions ")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"url": ""}, "must look like"),
        ({"url": "localhost:8000"}, "must look like"),
        ({"url": "http://h:x"}, "must look like"),
        ({"url": "http://user:word@h"}, "carries a password"),
        ({"url": "http://h", "ca_file": "/no/such.pem"}, "the CA file /no/such.pem is not there"),
        ({"url": "http://h", "headers": {"X": "${NOT_SET}"}}, "header X needs the environment variable NOT_SET"),
        ({"url": "http://h", "headers": {"X": "${TWO}"}}, "the header X holds a line break"),
    ],
)
def test_mistakes_before_the_first_request(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ServerError, match=sentence) as caught:
        endpoint_of(Connection(protocol="openai_chat", **changes), {"TWO": "a\nb"})
    assert "word" not in str(caught.value).replace("password", "")
