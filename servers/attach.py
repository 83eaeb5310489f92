"""A server that somebody else started: nothing to launch, but everything to check before load is sent to it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from harness.connection import Connection
from harness.errors import ServerError
from harness.records import ServerFacts
from servers.base import Launcher, Order, RunningServer, key_from
from servers.ready import Endpoint, NoTokenError, served_models, wait_ready

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
SHOWN_MODELS = 10


class Attach(Launcher):
    name = "attach"
    holds_replicas = True  # whatever is behind the URL

    def start(self, order: Order) -> RunningServer:
        began = time.monotonic()
        launch = order.stack.launch
        connection = connection_of(order)
        endpoint = endpoint_of(connection)
        order.progress(f"asking {endpoint.url} which models it serves")
        try:
            endpoint = _with_served_model(endpoint)
            wait_ready(
                endpoint,
                deadline=began + launch.ready_timeout_s,
                check=lambda: None,
                progress=order.progress,
                patient=False,
            )
        except NoTokenError as error:
            raise ServerError(_sentence(endpoint, connection.api_key_env, error)) from error
        facts = ServerFacts(
            launcher=self.name,
            url=endpoint.url,
            model=endpoint.model,
            ready_s=time.monotonic() - began,
            metrics_url=connection.metrics_url,
        )
        return RunningServer(endpoint, facts)


def connection_of(order: Order) -> Connection:
    """The user's own connection, with what the stack says where it is silent."""
    launch = order.stack.launch
    given = order.connection or Connection(protocol=order.stack.protocol)
    return given.model_copy(
        update={
            "protocol": order.stack.protocol,
            "url": given.url or launch.url or "",
            "model": given.model or launch.served_model or "",
            "api_key_env": launch.api_key_env or given.api_key_env,
        }
    )


def endpoint_of(connection: Connection, variables: Mapping[str, str] = os.environ) -> Endpoint:
    """Fill in what comes from the environment: the key and ``${NAME}`` in header values.

    Raises
    ------
    ServerError
        For a URL that is none, a CA file that is not there, or a variable that is not set.
    """
    parts = urlsplit(connection.url)
    try:
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ServerError("the URL of the server must look like http://host:port or https://host/v1")
    if parts.username or parts.password:
        raise ServerError("the URL of the server carries a password; name an environment variable with the key instead")
    if connection.ca_file is not None and not Path(connection.ca_file).is_file():
        raise ServerError(f"the CA file {connection.ca_file} is not there")
    headers: dict[str, str] = {}
    secrets: list[str] = []
    key = key_from(connection.api_key_env, variables)
    if key:
        headers["Authorization"] = f"Bearer {key}"
        secrets.append(key)
    for name, value in connection.headers.items():
        headers[name] = _filled(name, value, variables)
        secrets += [headers[name], headers[name].rpartition(" ")[2]]
    return Endpoint(
        url=connection.url.rstrip("/"),
        model=connection.model,
        protocol=connection.protocol,
        headers=headers,
        extra_body=connection.extra_body,
        ca_file=connection.ca_file,
        stream=connection.stream,
        secrets=tuple(sorted({text for text in secrets if len(text) >= 6}, key=len, reverse=True)),
    )


def _filled(header: str, value: str, variables: Mapping[str, str]) -> str:
    for name in _VARIABLE.findall(value):
        if name not in variables:
            raise ServerError(f"the header {header} needs the environment variable {name}, which is not set")
    text = _VARIABLE.sub(lambda match: variables[match[1]], value).strip()
    if "\n" in text or "\r" in text:
        raise ServerError(f"the header {header} holds a line break")
    return text


def _with_served_model(endpoint: Endpoint) -> Endpoint:
    return served_by(endpoint, served_models(endpoint) if endpoint.protocol == "openai-chat" else None)


def served_by(endpoint: Endpoint, served: Sequence[str] | None) -> Endpoint:
    """Check the model against the server's list (None or empty: it has none); a lone one needs no naming.

    Raises
    ------
    ServerError
        Naming what is served.
    """
    if not served:
        if not endpoint.model:
            raise ServerError(f"the server at {endpoint.url} lists no models: name the one to ask for")
        return endpoint
    if endpoint.model in served:
        return endpoint
    shown = ", ".join(served[:SHOWN_MODELS])
    if len(served) > SHOWN_MODELS:
        shown += f" and {len(served) - SHOWN_MODELS} more"
    if endpoint.model:
        raise ServerError(f"the server at {endpoint.url} does not serve '{endpoint.model}'; it serves {shown}")
    if len(served) > 1:
        raise ServerError(f"the server at {endpoint.url} serves several models: name one of {shown}")
    return replace(endpoint, model=served[0])


def _sentence(endpoint: Endpoint, key_variable: str, error: NoTokenError) -> str:
    text = f"no token came from {endpoint.url}: the server {error}"
    if error.status in (401, 403):
        had = "Authorization" in endpoint.headers
        text += f"; the key in ${key_variable} was refused" if had else f"; it wants a key: set ${key_variable}"
    return text
