"""What every client shares: where to send, how long to wait, what came back.

A client is one user: it owns at most one connection, kept alive between requests. ``send`` never raises
for what the network or the server does; that is the Reply's ``outcome``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

from harness.errors import UsageError
from harness.records import Outcome, Prompt, TokenSource

NAN = math.nan

OUTPUT_TOKENS = "$output_tokens"
"""As a value in a Target's bodies, it stands for the number of tokens the prompt asks for."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; ``inf`` switches one off.

    ``total_s`` covers the whole request with its retries, ``first_byte_s`` send to first byte of
    the answer's head, ``idle_s`` the silence between two reads after that.
    """

    total_s: float = 300.0
    connect_s: float = 10.0
    first_byte_s: float = math.inf
    idle_s: float = math.inf

    def __post_init__(self) -> None:
        for name in ("total_s", "connect_s", "first_byte_s", "idle_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"the timeout {name} must be above 0")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """No retries by default: a load test measures the server, not the client's patience.

    Attempt k waits ``base_s * 2**k``, at most ``max_s``, times a random factor in [1 - jitter, 1]; a
    server's Retry-After is a lower bound for it. The seconds count in the user's latency.
    """

    max_retries: int = 0
    base_s: float = 0.5
    max_s: float = 30.0
    jitter: float = 0.5
    after_reset: bool = True
    """Whether a connection that was reset before a byte of the answer is a reason to try again."""


@dataclass(frozen=True, slots=True)
class Target:
    """One server, model and protocol, as a client needs them.

    ``extra_body`` is merged into the JSON body: it beats every default, a None removes a key, and
    ``"$output_tokens"`` becomes the length asked for. ``forced_length_body`` does the same for
    prompts of forced length only; None takes the protocol's own way.
    """

    url: str
    model: str
    protocol: str = "openai-chat"
    api_key: SecretStr | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    ca_file: str | None = None
    verify: bool = True
    stream: bool = True
    timeouts: Timeouts = Timeouts()
    forced_length_body: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        try:
            port_is_valid = parts.port != 0
        except ValueError:
            port_is_valid = False
        if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_valid:
            raise UsageError("the target's URL must look like http://host:port or https://host/v1")
        if parts.username or parts.password:
            raise UsageError("the target's URL carries a password; use the api_key or a header")
        if isinstance(self.api_key, str):
            object.__setattr__(self, "api_key", SecretStr(self.api_key))
        for name, value in self.headers.items():
            if not name.isascii() or any(c in name for c in " \r\n:") or {"\r", "\n"} & set(value):
                raise UsageError("a header of the target holds a line break or a blank in its name")

    @property
    def tls(self) -> bool:
        return self.url.lower().startswith("https:")

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or (443 if self.tls else 80)

    @property
    def path(self) -> str:
        """The URL's path without a trailing slash: the prefix before a protocol's own path."""
        return urlsplit(self.url).path.rstrip("/")

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that must not reach a log: the key, and header values that may be one."""
        found = [self.api_key.get_secret_value()] if self.api_key else []
        for value in self.headers.values():
            found += [value, value.rpartition(" ")[2]]
        return tuple(sorted((text for text in found if len(text) >= 6), key=len, reverse=True))


@dataclass(slots=True)
class Reply:
    """What one request got. Times are ``time.monotonic`` seconds, NaN where it never came.

    ``sent_s`` is when the first attempt began. A request that has to open its connection first
    counts that from there (``connect_s`` of it): its user waits for it. ``retry_s`` are the seconds before
    the attempt that is reported. ``chunks`` counts events with content, ``gaps_us`` the
    microseconds between them.
    """

    sent_s: float
    first_byte_s: float = NAN
    first_token_s: float = NAN
    last_token_s: float = NAN
    end_s: float = NAN
    outcome: Outcome = Outcome.IN_FLIGHT
    http_status: int = 0
    finish_reason: str = ""
    prompt_tokens: int = -1
    output_tokens: int = -1
    token_source: TokenSource = TokenSource.NONE
    chunks: int = 0
    gaps_us: tuple[int, ...] = ()
    text: str = ""
    bytes: int = 0
    cached_tokens: int = -1
    error: str = ""
    retry_after_s: float = NAN
    retries: int = 0
    retry_s: float = 0.0
    connect_s: float = 0.0


class Client(Protocol):
    """One user's side of a protocol."""

    in_flight_since: float | None
    """Monotonic seconds at which the request in flight was sent; None between requests."""

    interrupted: Reply | None
    """The last request cut off by a kill of its greenlet, with outcome ``cancelled``."""

    def open(self) -> None:
        """Connect ahead of the first request, so that no handshake is in its latency.

        A failure is silent: the first request meets and reports it.
        """

    def send(self, prompt: Prompt, request_id: str) -> Reply:
        """Send one request and wait for its end; call it from one greenlet at a time."""

    def partial(self) -> Reply | None:
        """What the request in flight got so far, with outcome ``in_flight``; None between requests."""

    def close(self) -> None:
        """Close the connection; the client can be used again."""


class ClientFactory(Protocol):
    """What ``CLIENTS`` holds: a class of clients."""

    def __call__(self, target: Target, retry: RetryPolicy | None = None, rng: Random | None = None) -> Client:
        """Make one user's client; ``rng`` spreads its retries."""


def shorten(text: str, secrets: tuple[str, ...] = (), limit: int = 200) -> str:
    """Make one short line of an error text, without any of ``secrets``."""
    for secret in secrets:
        text = text.replace(secret, "***")
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
