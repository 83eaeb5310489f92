"""Readiness: a server is ready when a token came back, not when its port is open.

A port opens before the weights are loaded, and a health route answers while the engine behind it is dead.
Blocking sockets and nothing but the standard library: this runs before any load, with or without gevent's patches.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

ATTEMPT_S = 15.0
"""One attempt: an engine can swallow a request that came too early, and the next one then succeeds."""
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
SAY_EVERY_S = 2.0
PROBE_TOKENS = 4
"""Not 1: some chat templates open with a token that has no text."""
PROBE_TEXT = "Say hello."
REQUEST_ID = "warm-up"
"""Sent as ``X-Request-Id``, so that a server's log shows which requests are no load."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go. ``headers`` hold the key, and so are never shown; ``secrets`` are their secret parts."""

    url: str
    model: str
    protocol: str = "openai-chat"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    extra_body: Mapping[str, object] = field(default_factory=dict)
    ca_file: str | None = None
    stream: bool = True
    secrets: tuple[str, ...] = field(default=(), repr=False)


class NoTokenError(Exception):
    """No token came back, in words that continue "the server ...".

    ``permanent``: a server that is up would not do better later (a refused key, an unknown model, nobody listening).
    """

    def __init__(self, reason: str, *, permanent: bool = False, status: int = 0) -> None:
        super().__init__(reason)
        self.permanent = permanent
        self.status = status


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How one protocol asks for a few tokens and what of an event is a token."""

    path: Callable[[str, Endpoint], str]
    body: Callable[[Endpoint, int], dict[str, object]]
    has_token: Callable[[dict[str, Any]], bool]


def openai_path(prefix: str, route: str) -> str:
    """Join a URL's path and a route of the OpenAI API; the URL may end in ``/v1`` or in the chat route itself."""
    prefix = prefix.rstrip("/").removesuffix("/chat/completions")
    return f"{prefix if prefix.endswith('/v1') else prefix + '/v1'}/{route}"


def _openai_body(endpoint: Endpoint, tokens: int) -> dict[str, object]:
    message = {"role": "user", "content": PROBE_TEXT}
    body: dict[str, object] = {
        "model": endpoint.model,
        "messages": [message],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": endpoint.stream,
    }
    return body | ({"stream_options": {"include_usage": True}} if endpoint.stream else {})


def chat_has_token(event: dict[str, Any]) -> bool:
    """Whether a chunk or an answer of a chat completion holds a token, as text or in its usage."""
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or choice.get("message") or {}
        if any(delta.get(name) for name in ("content", "reasoning_content", "reasoning", "refusal", "tool_calls")):
            return True
    return int((event.get("usage") or {}).get("completion_tokens") or 0) > 0


def _triton_path(prefix: str, endpoint: Endpoint) -> str:
    verb = "generate_stream" if endpoint.stream else "generate"
    return f"{prefix.rstrip('/')}/v2/models/{quote(endpoint.model, safe='')}/{verb}"


def _triton_body(endpoint: Endpoint, tokens: int) -> dict[str, object]:
    # Both the names of TensorRT-LLM's tensors and those of Triton's vLLM backend; each ignores the other's.
    return {
        "text_input": PROBE_TEXT,
        "streaming": endpoint.stream,
        "stream": endpoint.stream,
        "sampling_param_max_tokens": tokens,
        "max_tokens": tokens,
    }


_DIALECTS = {
    "openai-chat": _Dialect(
        lambda prefix, _endpoint: openai_path(prefix, "chat/completions"), _openai_body, chat_has_token
    ),
    "triton-generate-stream": _Dialect(_triton_path, _triton_body, lambda event: bool(event.get("text_output"))),
}
"""A stack's ``protocol`` to its dialect, where that is HTTP."""


def wait_ready(
    endpoint: Endpoint,
    *,
    deadline: float,
    check: Callable[[], None],
    progress: Progress,
    patient: bool = True,
) -> None:
    """Ask for a token again and again until one comes.

    ``deadline`` is on the monotonic clock. ``check`` is called between attempts and raises when waiting has become
    pointless (the process died). With ``patient`` even an answer such as 404 is waited out, since some engines
    give it while they load.

    Raises
    ------
    NoTokenError
        With the last reason, at the deadline or at once when it is permanent.
    """
    began = said = time.monotonic()
    pause = FIRST_PAUSE_S
    while True:
        check()
        remaining = deadline - time.monotonic()
        try:
            first_token(endpoint, timeout_s=max(0.1, min(ATTEMPT_S, remaining)))
            return
        except NoTokenError as error:
            check()
            now = time.monotonic()
            if now + pause >= deadline or (error.permanent and not patient):
                raise
            if now - said >= SAY_EVERY_S:
                progress(f"no token yet after {now - began:.0f} s: the server {error}")
                said = now
        time.sleep(pause)
        pause = min(LONGEST_PAUSE_S, pause * 1.5)


def first_token(endpoint: Endpoint, *, timeout_s: float, tokens: int = PROBE_TOKENS) -> None:
    """Send one tiny request in the stack's protocol and read it to its end.

    Raises
    ------
    NoTokenError
        When the answer holds no token, or none came in time.
    """
    if endpoint.protocol == "triton-grpc":
        _first_token_by_grpc(endpoint, timeout_s, tokens)
        return
    dialect = _DIALECTS[endpoint.protocol]
    body = _merged(dialect.body(endpoint, tokens), endpoint, tokens)
    path = dialect.path(urlsplit(endpoint.url).path, endpoint)
    deadline = time.monotonic() + timeout_s
    token = False
    with _Exchange(endpoint, timeout_s) as exchange:
        exchange.send("POST", path, body)
        exchange.require_ok()
        for payload in exchange.events(deadline) if endpoint.stream else (exchange.read(),):
            try:
                event = json.loads(payload)
            except ValueError:
                raise NoTokenError(f"answered with something that is not JSON: {payload[:80]!r}") from None
            if not isinstance(event, dict):
                continue
            if event.get("error"):
                raise NoTokenError(f"answered with an error: {_error_text(event)}")
            token = token or dialect.has_token(event)
    if not token:
        raise NoTokenError("answered without a token")


def _merged(body: dict[str, object], endpoint: Endpoint, tokens: int) -> dict[str, object]:
    """Put the endpoint's own fields over a body, as the client under load does."""
    if "max_completion_tokens" in endpoint.extra_body:
        body.pop("max_tokens", None)
    for name, value in endpoint.extra_body.items():
        if value is None:
            body.pop(name, None)
        else:
            body[name] = tokens if value == "$output_tokens" else value
    return body


def chat_probe(endpoint: Endpoint, tokens: int = PROBE_TOKENS) -> dict[str, object]:
    """Build the body of a tiny chat completion, for who sends it himself."""
    return _merged(_openai_body(endpoint, tokens), endpoint, tokens)


def _first_token_by_grpc(endpoint: Endpoint, timeout_s: float, tokens: int) -> None:
    """Ask in a process of its own, which costs a second: first see whether anybody listens."""
    parts = urlsplit(endpoint.url)
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    try:
        socket.create_connection(address, timeout_s).close()
    except OSError as error:
        raise _failure(error, endpoint, timeout_s) from error
    asked = {name: getattr(endpoint, name) for name in ("url", "model", "ca_file", "stream")}
    asked |= {"headers": dict(endpoint.headers), "extra_body": dict(endpoint.extra_body), "timeout_s": timeout_s}
    asked |= {"text": PROBE_TEXT, "tokens": tokens, "request_id": REQUEST_ID}
    command = [sys.executable, "-m", "harness.clients.triton_grpc_main"]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no word"]
        raise NoTokenError(
            f"cannot be asked over gRPC ({_shorten(said[-1].encode(), endpoint.secrets)})", permanent=True
        )
    answer = json.loads(done.stdout)
    if answer["outcome"] != "ok":
        status = answer["status"]
        permanent = answer["outcome"] == "refused" or (400 <= status < 500 and status not in (408, 429, 499))
        why = _shorten(answer["error"].encode(), endpoint.secrets)
        raise NoTokenError(f"answered with an error: {why}", permanent=permanent, status=status)
    if not answer["token"]:
        raise NoTokenError("answered without a token")


def served_models(endpoint: Endpoint, *, timeout_s: float = ATTEMPT_S) -> tuple[str, ...] | None:
    """The names under ``/v1/models``; None if the server has no such list, or not now.

    Raises
    ------
    NoTokenError
        When the server cannot be reached or refuses the key.
    """
    with _Exchange(endpoint, timeout_s) as exchange:
        exchange.send("GET", openai_path(urlsplit(endpoint.url).path, "models"), None)
        if exchange.status not in (200, 401, 403):
            return None
        exchange.require_ok()
        try:
            entries = json.loads(exchange.read())["data"]
            return tuple(str(entry["id"]) for entry in entries)
        except (ValueError, KeyError, TypeError):
            return None


class _Exchange:
    """One request on one connection; every failure becomes a NoTokenError."""

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        parts = urlsplit(endpoint.url)
        host = parts.hostname or ""
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=endpoint.ca_file)
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, parts.port, timeout=timeout_s, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
        self._answer: http.client.HTTPResponse | None = None

    def __enter__(self) -> _Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        if self._answer is not None:
            self._answer.close()
        self._connection.close()

    def send(self, method: str, path: str, body: dict[str, object] | None) -> None:
        headers = {"Accept": "text/event-stream, application/json", "Connection": "close"}
        headers |= {"X-Request-Id": REQUEST_ID, **self._endpoint.headers}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        try:
            self._connection.request(method, path, data, headers)
            self._answer = self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise self._failed(error) from error

    @property
    def status(self) -> int:
        assert self._answer is not None
        return self._answer.status

    def require_ok(self) -> None:
        if self.status == 200:
            return
        text = _shorten(self.read(), self._endpoint.secrets)
        permanent = 400 <= self.status < 500 and self.status not in (408, 425, 429)
        reason = f"answered {self.status}" + (f": {text}" if text else "")
        raise NoTokenError(reason, permanent=permanent, status=self.status)

    def read(self, limit: int = 1 << 20) -> bytes:
        assert self._answer is not None
        try:
            return self._answer.read(limit)
        except (OSError, http.client.HTTPException) as error:
            raise self._failed(error) from error

    def events(self, deadline: float) -> Iterator[bytes]:
        """The data of each server-sent event up to ``[DONE]``; several ``data:`` lines in one are not expected here."""
        assert self._answer is not None
        while True:
            if time.monotonic() > deadline:
                raise NoTokenError(f"did not finish a tiny request within {self._timeout_s:.2g} s")
            try:
                line = self._answer.readline(1 << 20)
            except (OSError, http.client.HTTPException) as error:
                raise self._failed(error) from error
            if not line:
                return
            data = line.strip()
            if data.startswith(b"data:"):
                data = data[5:].strip()
                if data == b"[DONE]":
                    return
                yield data

    def _failed(self, error: Exception) -> NoTokenError:
        return _failure(error, self._endpoint, self._timeout_s)


def _failure(error: Exception, endpoint: Endpoint, timeout_s: float) -> NoTokenError:
    match error:
        case ssl.SSLCertVerificationError():
            why = error.verify_message or "unknown reason"
            return NoTokenError(f"shows a certificate that is not trusted ({why}); name its CA file", permanent=True)
        case socket.gaierror():
            return NoTokenError("has a host name that cannot be resolved", permanent=True)
        case TimeoutError():
            return NoTokenError(f"did not answer within {timeout_s:.2g} s")
        case ConnectionRefusedError():
            return NoTokenError("refuses connections", permanent=True)
        case ConnectionError() | http.client.RemoteDisconnected() | http.client.IncompleteRead():
            return NoTokenError("closed the connection before its answer ended", permanent=True)
        case http.client.HTTPException():
            return NoTokenError("does not speak HTTP there", permanent=True)
        case ssl.SSLError():
            return NoTokenError("does not speak TLS there", permanent=True)
        case _:
            why = _shorten(str(error).encode(), endpoint.secrets)
            return NoTokenError(f"cannot be reached ({why})", permanent=True)


def _error_text(event: dict[str, Any]) -> str:
    error = event.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return _shorten(str(message).encode(), ())


def _shorten(data: bytes, secrets: tuple[str, ...], limit: int = 200) -> str:
    try:
        document = json.loads(data)
        if isinstance(document, dict) and document.get("error"):
            error = document["error"]
            data = str(error.get("message") if isinstance(error, dict) else error).encode()
    except ValueError:
        pass
    text = " ".join(data.decode("utf-8", "replace").split())
    for secret in secrets:
        text = text.replace(secret, "***")
    return text if len(text) <= limit else text[: limit - 3] + "..."
