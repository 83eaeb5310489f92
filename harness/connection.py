"""How requests reach a server, and the options that say so. Secrets stay names here, never values."""

from __future__ import annotations

import json
import re
from urllib.parse import urlsplit

from harness.errors import UsageError
from harness.records import Record

_SECRET_WORDS = ("auth", "key", "token", "secret", "cookie", "password", "credential")


class Connection(Record):
    """How requests reach the server. Header values may hold ``${NAME}``, filled from the environment at use."""

    protocol: str
    url: str = ""
    metrics_url: str = ""
    """Of a server that somebody else started: where it counts in Prometheus's format. Empty: tried beside ``url``."""
    model: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    headers: dict[str, str] = {}
    extra_body: dict[str, object] = {}
    ca_file: str | None = None
    stream: bool = True
    """False: whole answers, of which only the end is timed."""
    request_timeout_s: float = 60.0
    connect_timeout_s: float = 10.0
    max_retries: int = 0


def parse_headers(headers: list[str]) -> dict[str, str]:
    """Split ``Name: value`` texts; a value that looks like a secret must come from the environment."""
    parsed = {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise UsageError("--header must look like 'Name: value'")  # what was given may be a bare secret
        secret = any(word in name.lower() for word in _SECRET_WORDS)
        if secret and not re.search(r"\$\{\w+\}", value):
            raise UsageError(
                f"--header '{name.strip()}' looks like a secret: write '{name.strip()}: ${{VARIABLE}}' "
                "and set the variable"
            )
        parsed[name.strip()] = value.strip()
    return parsed


def parse_metrics_url(text: str) -> str:
    """Check where a server counts; empty stays empty."""
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if text and not valid:
        raise UsageError("--metrics-url must look like http://host:port/metrics")
    if text and (parts.username or parts.password):
        raise UsageError("--metrics-url carries a password; give --header 'Authorization: ${VARIABLE}' instead")
    return text


def parse_body(text: str) -> dict[str, object]:
    try:
        body = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"--extra-body is not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(body, dict):
        raise UsageError("--extra-body must be a JSON object such as '{\"temperature\": 0.7}'")
    return body
