"""Rate limits: the headers of an API's answers, and what of them a 429 in a run says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.clients.exchange import limits_named
from harness.http1 import parse_head
from harness.spend import Demand
from servers.rate_limits import RateLimits, duration_s

HEADERS = {
    "X-RateLimit-Limit-Requests": "60",
    "x-ratelimit-limit-tokens": "150000",
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-reset-tokens": "6m0s",
}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("20ms", 0.02),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("1d", 86400.0),
        ("2.5", 2.5),
        ("", None),
        ("soon", None),
        ("5 s", None),
        ("-1s", None),
        ("1s later", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert duration_s(text) == (None if seconds is None else pytest.approx(seconds))


def test_all_headers() -> None:
    assert RateLimits.of(HEADERS) == RateLimits(60, 150_000, 59, 149_984, 1.0, 360.0, None)
    assert RateLimits.of(HEADERS).details()["seconds until the token limit resets"] == 360.0


def test_the_finer_retry_after_wins() -> None:
    assert RateLimits.of({"Retry-After": "2"}).retry_after_s == 2.0
    assert RateLimits.of({"Retry-After": "2", "Retry-After-Ms": "1234"}).retry_after_s == 1.234


@given(st.dictionaries(st.sampled_from(sorted(HEADERS)), st.text(max_size=8)))
def test_no_header_is_an_error(headers: dict[str, str]) -> None:
    RateLimits.of(headers).details()


@pytest.mark.parametrize(
    ("demand", "sentence"),
    [
        (Demand(60, 150_000), ""),
        (Demand(61, 1), "the API allows 60 requests a minute, and this load asks for about 61: "),
        (Demand(1, 200_000), "the API allows 150,000 tokens a minute, and this load asks for about 200,000: "),
        (Demand(90, 200_000), "; it allows 150,000 tokens a minute"),
    ],
)
def test_a_limit_below_the_load_is_said(demand: Demand, sentence: str) -> None:
    said = RateLimits.of(HEADERS).shortfall(demand)
    assert (sentence in said) if sentence else not said
    assert RateLimits().shortfall(demand) == ""


def test_a_429_names_its_limits() -> None:
    head = b"HTTP/1.1 429 X\r\nX-Ratelimit-Limit-Requests: 60\r\nx-ratelimit-limit-tokens:9\r\nx-other: 1\r\n\r\n"
    assert limits_named(head) == " (limit 60 requests/min, 9 tokens/min)"
    assert limits_named(b"HTTP/1.1 429 X\r\nRetry-After: 1\r\n\r\n") == ""


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        (b"Retry-After: 2\r\nretry-after-ms: 1500\r\n", "1.5"),
        (b"retry-after-ms: 1500\r\nRetry-After: 2\r\n", "1.5"),
        (b"Retry-After: 2\r\nretry-after-ms: soon\r\n", "2"),
    ],
)
def test_the_client_takes_the_finer_wait(lines: bytes, value: str) -> None:
    head = parse_head(b"HTTP/1.1 429 X\r\n" + lines + b"Content-Length: 0\r\n\r\n")
    assert head is not None
    assert head.retry_after == value
