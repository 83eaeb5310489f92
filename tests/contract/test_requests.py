"""What a client sends: the path, the body, the headers, and what a Target refuses."""

from __future__ import annotations

import re
import socket
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from harness.clients import CLIENTS, Target, Timeouts
from harness.clients.base import shorten
from harness.errors import UsageError
from harness.records import Message, Outcome, Prompt
from tests.contract.scripted import Script, ScriptedServer, closing

PROMPT = Prompt("p1", (Message("system", "Translate."), Message("user", "Guten Tag")), output_tokens=7)
KEY = "sk-very-secret-0123456789"
HTTP = ["openai-chat", "triton-generate-stream"]
"""What gRPC sends is no JSON: test_grpc.py."""
FORCED = Prompt("p1", PROMPT.messages, output_tokens=7, forced=True)


def sent(protocol: str, prompt: Prompt = PROMPT, **target: Any) -> tuple[bytes, dict[str, Any]]:
    client = CLIENTS[protocol](Target(**{"url": "http://127.0.0.1:8000", "model": "m", **target}))
    head, _, body = client.encode(prompt, "run/0/0/0").partition(b"\r\n\r\n")
    return head, msgspec.json.decode(body)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://127.0.0.1:8000", b"/v1/chat/completions"),
        ("http://127.0.0.1:8000/", b"/v1/chat/completions"),
        ("https://host/v1", b"/v1/chat/completions"),
        ("https://host/v1/", b"/v1/chat/completions"),
        ("https://host/team/v1", b"/team/v1/chat/completions"),
        ("https://host/team", b"/team/v1/chat/completions"),
        ("https://host/v1beta/openai/chat/completions", b"/v1beta/openai/chat/completions"),
    ],
)
def test_openai_path(url: str, path: bytes) -> None:
    head, _ = sent("openai-chat", url=url)
    assert head.startswith(b"POST " + path + b" HTTP/1.1\r\n")


@pytest.mark.parametrize(("stream", "verb"), [(True, b"generate_stream"), (False, b"generate")])
def test_triton_path(stream: bool, verb: bytes) -> None:
    head, _ = sent("triton-generate-stream", url="http://h/base", model="a/b", stream=stream)
    assert head.startswith(b"POST /base/v2/models/a%2Fb/" + verb + b" HTTP/1.1\r\n")


def test_openai_body() -> None:
    _, body = sent("openai-chat")
    assert body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Translate."}, {"role": "user", "content": "Guten Tag"}],
        "max_tokens": 7,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_openai_body_without_streaming() -> None:
    head, body = sent("openai-chat", stream=False)
    assert body["stream"] is False
    assert "stream_options" not in body
    assert b"\r\nAccept: application/json\r\n" in head


def test_triton_body() -> None:
    _, body = sent("triton-generate-stream")
    assert body == {
        "text_input": "System: Translate.\nUser: Guten Tag\nAssistant:",
        "streaming": True,
        "stream": True,
        "sampling_param_max_tokens": 7,
        "max_tokens": 7,
        "sampling_param_temperature": 0.0,
        "sampling_param_exclude_input_from_output": True,
        "return_finish_reason": True,
    }
    _, body = sent("triton-generate-stream", Prompt("p", (Message("user", "Guten Tag"),), 7))
    assert body["text_input"] == "Guten Tag"


@pytest.mark.parametrize("protocol", HTTP)
def test_a_forced_length(protocol: str) -> None:
    _, natural = sent(protocol)
    _, forced = sent(protocol, FORCED)
    assert forced == natural | {"ignore_eos": True, "min_tokens": 7}
    _, own = sent(protocol, FORCED, forced_length_body={"min_new_tokens": "$output_tokens"})
    assert own == natural | {"min_new_tokens": 7}


@pytest.mark.parametrize("protocol", HTTP)
def test_extra_body_beats_everything(protocol: str) -> None:
    extra = {"temperature": 0.7, "ignore_eos": False, "max_tokens": None, "n_predict": "$output_tokens"}
    _, body = sent(protocol, FORCED, extra_body=extra)
    assert (body["temperature"], body["ignore_eos"], body["n_predict"]) == (0.7, False, 7)
    assert "max_tokens" not in body


def test_the_new_name_of_the_length_replaces_the_old() -> None:
    _, body = sent("openai-chat", extra_body={"max_completion_tokens": "$output_tokens"})
    assert body["max_completion_tokens"] == 7
    assert "max_tokens" not in body


def test_own_headers_replace_ours() -> None:
    head, _ = sent("openai-chat", api_key="sk-123456", headers={"authorization": "Basic 100%", "X-Org": "o"})
    assert head.count(b"uthorization:") == 1
    assert b"\r\nauthorization: Basic 100%\r\nX-Org: o\r\n" in head


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://h:80", b"h"),
        ("https://h", b"h"),
        ("http://h:443", b"h:443"),
        ("https://h:80", b"h:80"),
        ("http://[::1]:8000", b"[::1]:8000"),
    ],
)
def test_host(url: str, host: bytes) -> None:
    head, _ = sent("openai-chat", url=url)
    assert b"\r\nHost: " + host + b"\r\n" in head


@pytest.mark.parametrize("url", ["h:8000", "ftp://h", "http://", "http://h:x", "http://h:99999", "http://u:pw@h"])
def test_a_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Target(url=url, model="m")
    assert "pw" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize("headers", [{"X": "a\r\nY: b"}, {"X Y": "a"}, {"X:": "a"}])
def test_a_header_that_would_be_two(headers: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        Target(url="http://h", model="m", headers=headers)


def test_a_time_out_of_nothing() -> None:
    with pytest.raises(UsageError, match="idle_s"):
        Timeouts(idle_s=0)


def test_an_error_is_one_short_line() -> None:
    assert shorten("a\n b\t" + "c" * 300, ("b",)) == "a *** " + "c" * 191 + "..."


@pytest.mark.parametrize("protocol", HTTP)
def test_the_request_is_the_same_every_time(protocol: str) -> None:
    client = CLIENTS[protocol](Target(url="http://[::1]:8000/base/", model="m"))
    request = client.encode(PROMPT, "run/0/0/0\r\nX-Evil: 1")
    head, _, body = request.partition(b"\r\n\r\n")
    names = [line.split(b":")[0] for line in head.split(b"\r\n")[1:]]
    assert names == [b"Host", b"User-Agent", b"Accept", b"Content-Type", b"X-Request-Id", b"Content-Length"]
    assert b"\r\nHost: [::1]:8000\r\n" in head
    assert b"\r\nX-Request-Id: run/0/0/0??X-Evil: 1\r\n" in head
    assert head.startswith(b"POST /base/v")
    assert b"Content-Length: %d" % len(body) in head
    assert msgspec.json.decode(body)
    assert client.encode(PROMPT, "run/0/0/0\r\nX-Evil: 1") == request


def test_a_name_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(*_: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("gevent.socket.getaddrinfo", lookup)
    reply = CLIENTS["openai-chat"](Target(url="http://no.such.host.invalid", model="m")).send(PROMPT, "r/0/0/0")
    assert reply.outcome is Outcome.REFUSED
    assert "Name or service not known" in reply.error


@pytest.mark.parametrize("protocol", HTTP)
def test_no_secret_in_what_can_be_printed(protocol: str) -> None:
    body = b'{"error":{"message":"Incorrect API key: %b, and %b"}}' % (KEY.encode(), b"header-secret-42")
    answer = b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with ScriptedServer([Script([answer])]) as server:
        headers = {"api-key": "header-secret-42"}
        client: Any = CLIENTS[protocol](Target(server.url, "m", api_key=SecretStr(KEY), headers=headers))
        with closing(client):
            reply = client.send(PROMPT, "run/0/0/0")
    assert reply.error == "HTTP 401: Incorrect API key: ***, and ***"
    assert b"Authorization: Bearer " + KEY.encode() in server.requests[0]
    assert b"api-key: header-secret-42" in server.requests[0]
    for thing in (client.target, client, reply):
        assert not re.search(f"{KEY}|header-secret", repr(thing) + str(thing))
