"""From a cell's connection to a client's target; the only place where secrets are read."""

from __future__ import annotations

import os
import re

from pydantic import SecretStr

from harness.clients import Target, Timeouts
from harness.connection import Connection
from harness.errors import UsageError


def target_of(connection: Connection) -> Target:
    """Fill in the key and ``${NAME}`` in headers from the environment.

    Raises
    ------
    UsageError
        When a header names a variable that is not set, or the URL is no URL.
    """
    key = os.environ.get(connection.api_key_env)
    return Target(
        url=connection.url,
        model=connection.model,
        protocol=connection.protocol,
        api_key=SecretStr(key) if key else None,
        headers={name: _expand(name, value) for name, value in connection.headers.items()},
        extra_body=connection.extra_body,
        ca_file=connection.ca_file,
        stream=connection.stream,
        timeouts=Timeouts(total_s=connection.request_timeout_s, connect_s=connection.connect_timeout_s),
    )


def _expand(header: str, value: str) -> str:
    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if name not in os.environ:
            raise UsageError(f"the header '{header}' needs the environment variable {name}, which is not set")
        return os.environ[name]

    return re.sub(r"\$\{(\w+)\}", fill, value)
