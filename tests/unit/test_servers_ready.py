"""Ready means that a token came back."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from servers_support import END, ROLE, TOKEN, answer, serving, sse

from servers import ready
from servers.ready import (
    REQUEST_ID,
    Endpoint,
    NoTokenError,
    first_token,
    openai_path,
    served_models,
    wait_ready,
)

CERTIFICATES = Path(__file__).resolve().parents[1] / "contract" / "certs"


def nothing() -> None:
    return None


def wait(
    endpoint: Endpoint, seconds: float = 5.0, check: Callable[[], None] = nothing, patient: bool = True
) -> list[str]:
    said: list[str] = []
    wait_ready(endpoint, deadline=time.monotonic() + seconds, check=check, progress=said.append, patient=patient)
    return said


def test_a_token_makes_it_ready() -> None:
    with serving(sse(ROLE, TOKEN, END)) as wire:
        wait(wire.endpoint(headers={"Authorization": "Bearer k"}, extra_body={"top_k": 1, "temperature": None}))
    line, headers, body = wire.requests[0]
    assert line == "POST /v1/chat/completions HTTP/1.1\r\n"
    assert headers["Authorization"] == "Bearer k"
    assert headers["X-Request-Id"] == REQUEST_ID
    assert body["model"] == "m"
    assert body["top_k"] == 1
    assert "temperature" not in body


@pytest.mark.parametrize(
    ("event", "is_token"),
    [
        (TOKEN, True),
        ({"choices": [{"delta": {"reasoning_content": "Hm"}}]}, True),
        ({"choices": [], "usage": {"completion_tokens": 1}}, True),
        ({"choices": [{"delta": {"content": ""}}]}, False),
        ({"choices": None}, False),
        (["not", "an", "object"], False),
    ],
)
def test_what_is_a_token(event: object, is_token: bool) -> None:
    with serving(sse(ROLE, event, END)) as wire:
        if is_token:
            first_token(wire.endpoint(), timeout_s=5)
        else:
            with pytest.raises(NoTokenError, match=r"^answered without a token$"):
                first_token(wire.endpoint(), timeout_s=5)


def test_triton() -> None:
    with serving(sse({"text_output": ""}, {"text_output": "Hi"}, done=False)) as wire:
        wait(wire.endpoint(model="a/b", protocol="triton-generate-stream"))
    assert wire.requests[0][0] == "POST /v2/models/a%2Fb/generate_stream HTTP/1.1\r\n"
    assert wire.requests[0][2]["sampling_param_max_tokens"] == wire.requests[0][2]["max_tokens"]


def test_loading_is_waited_out() -> None:
    """Refused with 503, then 404 while routes load, then a stream that breaks, and then a token."""
    loading = answer(503, b'{"error": {"message": "Loading model"}}')
    with serving(loading, answer(404), b"", sse(ROLE), sse(ROLE, TOKEN)) as wire:
        wait(wire.endpoint())
    assert len(wire.requests) == 5


def test_the_deadline_holds_and_says_why() -> None:
    with serving(answer(503, b'{"error": {"message": "Loading model"}}')) as wire:
        began = time.monotonic()
        with pytest.raises(NoTokenError, match=r"^answered 503: Loading model$"):
            wait(wire.endpoint(), 0.5)
        assert time.monotonic() - began < 3


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "SAY_EVERY_S", 0.0)
    with serving(answer(503), sse(TOKEN)) as wire:
        said = wait(wire.endpoint())
    assert said == ["no token yet after 0 s: the server answered 503"]


def test_a_death_ends_the_wait_at_once() -> None:
    with serving(answer(503)) as wire:

        def check() -> None:
            if len(wire.requests) >= 2:
                raise RuntimeError("it died")

        with pytest.raises(RuntimeError, match="it died"):
            wait(wire.endpoint(), 60, check)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (answer(401, b'{"error": "who are you, sk-secret?"}'), r"^answered 401: who are you, \*\*\*\?$"),
        (answer(404, b"<html>no"), "^answered 404: <html>no$"),
        (b"220 mail.example.org ESMTP\r\n", "^does not speak HTTP there$"),
        (b"", "^closed the connection before its answer ended$"),
    ],
)
def test_a_server_that_is_up_is_not_asked_twice(raw: bytes, reason: str) -> None:
    with serving(raw) as wire, pytest.raises(NoTokenError, match=reason) as caught:
        wait(wire.endpoint(secrets=("sk-secret",)), 60, patient=False)
    assert caught.value.permanent
    assert len(wire.requests) == 1


def test_errors_inside_a_stream() -> None:
    stream = sse(ROLE, {"error": {"message": "no memory"}})
    with serving(stream) as wire, pytest.raises(NoTokenError, match=r"^answered with an error: no memory$"):
        first_token(wire.endpoint(), timeout_s=5)
    stream = b"HTTP/1.1 200 OK\r\n\r\ndata: {oops\n\n"
    with serving(stream) as wire, pytest.raises(NoTokenError, match=r"^answered with something that is not JSON"):
        first_token(wire.endpoint(), timeout_s=5)


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = Endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}", "m")
        with pytest.raises(NoTokenError, match=r"^did not answer within 0.2 s$") as caught:
            first_token(endpoint, timeout_s=0.2)
    assert not caught.value.permanent


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(NoTokenError, match=r"^refuses connections$"):
        wait(Endpoint(f"http://127.0.0.1:{port}", "m"), 60, patient=False)


def test_an_unknown_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(NoTokenError, match=r"^has a host name that cannot be resolved$"):
        wait(Endpoint("http://no-such-host.invalid", "m"), 60, patient=False)


def test_tls_with_its_own_ca() -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATES / "test_only_server.pem", CERTIFICATES / "test_only_server.key")
    with serving(sse(TOKEN), tls=tls) as wire:
        first_token(wire.endpoint(ca_file=str(CERTIFICATES / "test_only_ca.pem")), timeout_s=5)
        for ca_file in (None, str(CERTIFICATES / "test_only_other_ca.pem")):
            with pytest.raises(NoTokenError, match=r"^shows a certificate that is not trusted") as caught:
                first_token(wire.endpoint(ca_file=ca_file), timeout_s=5)
            assert caught.value.permanent


def test_served_models() -> None:
    listing = answer(200, json.dumps({"data": [{"id": "a"}, {"id": "b"}]}).encode())
    with serving(listing, answer(404), answer(503), answer(200, b"[]"), answer(401)) as wire:
        assert served_models(wire.endpoint()) == ("a", "b")
        assert served_models(wire.endpoint()) is None
        assert served_models(wire.endpoint()) is None
        assert served_models(wire.endpoint()) is None
        with pytest.raises(NoTokenError, match="answered 401"):
            served_models(wire.endpoint())
    assert wire.requests[0][0] == "GET /v1/models HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        ("", "/v1/models"),
        ("/", "/v1/models"),
        ("/v1", "/v1/models"),
        ("/openai/v1/", "/openai/v1/models"),
        ("/v1/chat/completions", "/v1/models"),
    ],
)
def test_openai_path(prefix: str, path: str) -> None:
    assert openai_path(prefix, "models") == path


def test_the_key_is_not_shown() -> None:
    assert "sk-" not in repr(Endpoint("http://h", "m", headers={"Authorization": "Bearer sk-1"}, secrets=("sk-1",)))


def test_a_whole_answer_is_asked_for_when_nothing_is_to_be_streamed() -> None:
    body = json.dumps({"choices": [{"message": {"content": "Hello"}}]}).encode()
    with serving(answer(200, body), answer(200, b'{"choices": [{"message": {"content": ""}}]}')) as wire:
        endpoint = wire.endpoint(stream=False)
        first_token(endpoint, timeout_s=5)
        with pytest.raises(NoTokenError, match="without a token"):
            first_token(endpoint, timeout_s=5)
    assert wire.requests[0][2]["stream"] is False
    assert "stream_options" not in wire.requests[0][2]
    with serving(answer(200, b'{"text_output": "Hi"}')) as wire:
        first_token(wire.endpoint(protocol="triton-generate-stream", stream=False), timeout_s=5)
    assert wire.requests[0][0].endswith("/generate HTTP/1.1\r\n")


def test_grpc_that_nobody_serves_is_refused_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(NoTokenError, match=r"^refuses connections$") as caught:
        first_token(Endpoint(f"http://127.0.0.1:{port}", "m", "triton-grpc"), timeout_s=5)
    assert caught.value.permanent
