"""OpenAI's API, or one that behaves like it: nothing to launch, but a key, a model, limits and an account to check.

The ``openai`` SDK asks, before load and never during it. Its errors become one sentence each. A key is never part of
one: what the server says of a refused key is not repeated, because it repeats parts of the key.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from harness.dataset import read_workload
from harness.errors import HarnessError, ServerError
from harness.records import Message, Prompt, ServerFacts
from harness.spend import (
    PREFLIGHT_INPUT,
    PREFLIGHT_OUTPUT,
    demand_of,
    prompt_sizes,
    prompt_tokens_bound,
)
from servers.attach import connection_of, endpoint_of, served_by
from servers.base import Launcher, Order, RunningServer
from servers.process import without
from servers.rate_limits import RateLimits
from servers.ready import ATTEMPT_S, PROBE_TEXT, PROBE_TOKENS, REQUEST_ID, Endpoint, chat_has_token, chat_probe

if TYPE_CHECKING:
    import openai

TRIES = 2
"""Beyond the first, each after the pause that the server or the SDK asks for."""
NEW_LENGTH = """--extra-body '{"max_completion_tokens": "$output_tokens"}'"""
_SAID_AT_MOST = 200


class OpenAIApi(Launcher):
    name = "openai"
    holds_replicas = True

    def start(self, order: Order) -> RunningServer:
        began = time.monotonic()
        connection = connection_of(order)
        if order.stack.protocol != "openai-chat":
            raise ServerError(f"stack '{order.stack.name}' runs on an API, which speaks openai-chat alone")
        endpoint = endpoint_of(connection)
        variable = connection.api_key_env
        if order.stack.launch.api_key_env and not _has_key(endpoint):
            raise ServerError(f"stack '{order.stack.name}' needs a key: set the environment variable {variable}")
        order.progress(f"asking {endpoint.url} for its models, its limits and a token")
        endpoint, found = preflight(endpoint, variable)
        details = found | _expected(order, found)
        warning = str(details.get("rate limits", ""))
        if warning:
            order.progress(warning)
        facts = ServerFacts(
            launcher=self.name,
            url=endpoint.url,
            model=endpoint.model,
            ready_s=time.monotonic() - began,
            details=details,
        )
        return RunningServer(endpoint, facts)


Details = dict[str, str | int | float | bool]


def preflight(endpoint: Endpoint, key_variable: str) -> tuple[Endpoint, Details]:
    """List the models, ask for a token as the load will, and read what the answer says of limits.

    Raises
    ------
    ServerError
        In one sentence without a key.
    """
    import openai  # a second to import, and only here

    for name in ("httpx", "httpx2"):  # the SDK's transport, of which version ever: it would log each request
        logging.getLogger(name).setLevel(logging.WARNING)
    client = _client(endpoint)
    try:
        with client:
            keyless = {} if _has_key(endpoint) else {"Authorization": openai.Omit()}
            endpoint = served_by(endpoint, _models(client, keyless))
            return endpoint, _ask(client, endpoint, keyless)
    except openai.OpenAIError as error:
        raise ServerError(sentence(error, endpoint, key_variable)) from error


def _client(endpoint: Endpoint) -> openai.OpenAI:
    import openai

    parts = urlsplit(endpoint.url)
    prefix = parts.path.rstrip("/").removesuffix("/chat/completions")
    base = f"{parts.scheme}://{parts.netloc}{prefix if prefix.endswith('/v1') else prefix + '/v1'}"
    # What the SDK would add from its own environment variables, the client under load does not send either.
    own = {name.lower() for name in endpoint.headers}
    headers: dict[str, Any] = {
        name: openai.Omit() for name in ("OpenAI-Organization", "OpenAI-Project") if name.lower() not in own
    }
    return openai.OpenAI(
        api_key="given as a header",
        base_url=base,
        default_headers={**headers, **endpoint.headers, "X-Request-Id": REQUEST_ID},
        max_retries=TRIES,
        timeout=ATTEMPT_S,
        # The same way as the load: no proxy, and the same certificate authorities.
        http_client=openai.DefaultHttpxClient(
            trust_env=False, verify=ssl.create_default_context(cafile=endpoint.ca_file)
        ),
    )


def _has_key(endpoint: Endpoint) -> bool:
    return any(name.lower() == "authorization" for name in endpoint.headers)


def _models(client: openai.OpenAI, headers: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The models that the key may use; None where the server has no list."""
    import openai

    try:
        return tuple(model.id for model in client.models.list(extra_headers=headers))
    except openai.NotFoundError:
        return None


def _ask(client: openai.OpenAI, endpoint: Endpoint, headers: Mapping[str, Any]) -> Details:
    """Send one tiny chat completion and say what came with its answer."""
    import openai

    body = chat_probe(endpoint)
    messages: Any = body.pop("messages")
    model, stream = str(body.pop("model")), bool(body.pop("stream"))
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=messages, stream=stream, extra_body=body, extra_headers=headers
    )
    details: Details = {"openai SDK": openai.__version__, **RateLimits.of(dict(raw.headers.items())).details()}
    answered, usage = False, None
    for event in _events(raw.parse(), stream):
        answered = answered or chat_has_token(event)
        usage = event.get("usage") or usage
        if event.get("model"):
            details["model that answered"] = str(event["model"])
    if not answered:
        raise ServerError(f"{endpoint.url} answered a request to '{endpoint.model}' without a token")
    return details | _used(usage)


def _events(answer: Any, stream: bool) -> Iterator[dict[str, Any]]:
    for event in answer if stream else (answer,):
        if not hasattr(event, "model_dump"):
            raise ServerError("the API answered with something that is not a chat completion; its URL may be wrong")
        yield event.model_dump(warnings=False)


def _used(usage: Mapping[str, Any] | None) -> Details:
    """The tokens of the preflight: those that the API counted, else the most that they can be."""
    if usage is None:
        asked = Prompt("", (Message("user", PROBE_TEXT),), PROBE_TOKENS)
        return {PREFLIGHT_INPUT: prompt_tokens_bound(asked), PREFLIGHT_OUTPUT: PROBE_TOKENS}
    return {
        PREFLIGHT_INPUT: int(usage.get("prompt_tokens") or 0),
        PREFLIGHT_OUTPUT: int(usage.get("completion_tokens") or 0),
    }


def _expected(order: Order, found: Details) -> Details:
    """What the run will ask for a minute, and a warning where that is above a limit."""
    try:
        sizes = prompt_sizes(order.scenario.workload, read_workload(order.scenario.workload))
    except HarnessError as error:
        raise ServerError(str(error)) from error
    demand = demand_of(order.scenario, order.stack, sizes)
    if not demand.requests_per_min:  # a trace says nothing of its rate
        return {}
    limits = RateLimits(
        requests_per_min=_int(found.get("requests/min allowed")), tokens_per_min=_int(found.get("tokens/min allowed"))
    )
    said: Details = {
        "requests/min expected": round(demand.requests_per_min, 1),
        "tokens/min expected": round(demand.tokens_per_min),
    }
    warning = limits.shortfall(demand)
    return said | ({"rate limits": warning} if warning else {})


def _int(value: object) -> int | None:
    return value if isinstance(value, int) else None


def sentence(error: openai.OpenAIError, endpoint: Endpoint, key_variable: str) -> str:
    """Say in one sentence what an error of the SDK means and what to do, without any secret."""
    import openai

    where, model = endpoint.url, endpoint.model
    key = f"the key in ${key_variable}" if _has_key(endpoint) else "a request without a key"
    code = getattr(error, "code", None) or ""
    said = _said(error, endpoint)
    match error:
        case openai.AuthenticationError():
            if not _has_key(endpoint):
                return f"{where} wants a key: set the environment variable {key_variable or 'OPENAI_API_KEY'}"
            return f"{where} refused {key}{f' ({code})' if code else ''}: it is wrong, expired or of another account"
        case openai.PermissionDeniedError():
            return f"{where} does not allow {key} to use '{model}'{said}"
        case openai.NotFoundError():
            return f"{where} does not know the model '{model}', or does not let {key} use it{said}"
        case openai.RateLimitError() if code == "insufficient_quota":
            return f"the account behind {key} has no credit left at {where} (insufficient_quota): waiting will not help"
        case openai.RateLimitError():
            return f"{where} limits {key} already, before any load{_wait(error)}{said}"
        case openai.BadRequestError() if code == "context_length_exceeded":
            return f"'{model}' at {where} has too small a context for even a tiny request{said}"
        case openai.BadRequestError() if "max_completion_tokens" in str(error.body):
            return f"'{model}' at {where} wants the length of an answer under its newer name: add {NEW_LENGTH}{said}"
        case openai.APIStatusError() if error.status_code == 503:
            return f"{where} is overloaded or down (503), {TRIES + 1} times in a row{said}"
        case openai.APIStatusError() if error.status_code >= 500:
            return f"{where} failed ({error.status_code}), {TRIES + 1} times in a row{said}"
        case openai.APIStatusError():
            return f"{where} refused a request to '{model}' ({error.status_code}){said}"
        case openai.APITimeoutError():
            return f"{where} did not answer a tiny request within {ATTEMPT_S:g} s, {TRIES + 1} times in a row"
        case openai.APIConnectionError():
            return f"{where} {_unreached(error)}"
        case _:
            return f"{where} answered with an error, or with no chat completion{said}"


def _said(error: openai.OpenAIError, endpoint: Endpoint) -> str:
    """The server's own words, short and without secrets, to follow a sentence."""
    body = getattr(error, "body", None)
    text = str(body.get("message") or "") if isinstance(body, dict) else str(getattr(error, "message", "") or error)
    (text,) = without(endpoint.secrets, (" ".join(text.split()),))
    text = text if len(text) <= _SAID_AT_MOST else text[: _SAID_AT_MOST - 3] + "..."
    return f": {text}" if text else ""


def _wait(error: openai.RateLimitError) -> str:
    limits = RateLimits.of(dict(error.response.headers.items()))
    named = [
        f"{count:,} {what} a minute"
        for count, what in ((limits.requests_per_min, "requests"), (limits.tokens_per_min, "tokens"))
        if count is not None
    ]
    if limits.retry_after_s is not None:
        named.append(f"try again in {limits.retry_after_s:g} s")
    return f" ({', '.join(named)})" if named else ""


def _unreached(error: BaseException) -> str:
    """Continue "URL ..." by the reason deepest in the chain of causes that can be named."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(each) for each in causes)
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in causes) or "CERTIFICATE_VERIFY_FAILED" in text:
        return "shows a certificate that is not trusted: name its CA file (--ca-file)"
    if any(isinstance(each, ssl.SSLError) for each in causes) or "SSL" in text:
        return "does not speak TLS there"
    if any(isinstance(each, socket.gaierror) for each in causes) or "Name or service not known" in text:
        return "has a host name that cannot be resolved"
    if any(isinstance(each, ConnectionRefusedError) for each in causes) or "refused" in text:
        return "refuses connections"
    return "cannot be reached: the connection broke before an answer came"
