"""Whether and when a request is tried again."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.clients.base import Reply, RetryPolicy
from harness.clients.exchange import retry_after_s
from harness.clients.retry import delay_s, is_retryable
from harness.records import Outcome

POLICY = RetryPolicy(max_retries=3, base_s=0.5, max_s=4.0, jitter=0.5)


@pytest.mark.parametrize(
    ("outcome", "status", "first_byte_s", "again"),
    [
        (Outcome.OK, 200, 1.0, False),
        (Outcome.RATE_LIMITED, 429, 1.0, True),
        (Outcome.REFUSED, 0, math.nan, True),
        (Outcome.HTTP_ERROR, 500, 1.0, True),
        (Outcome.HTTP_ERROR, 503, 1.0, True),
        (Outcome.HTTP_ERROR, 400, 1.0, False),
        (Outcome.HTTP_ERROR, 200, 1.0, False),
        (Outcome.RESET, 0, math.nan, True),
        (Outcome.RESET, 200, 1.0, False),
        (Outcome.TRUNCATED, 200, 1.0, False),
        (Outcome.TIMEOUT, 0, math.nan, False),
        (Outcome.MALFORMED, 200, 1.0, False),
        (Outcome.CANCELLED, 0, math.nan, False),
    ],
)
def test_what_is_tried_again(outcome: Outcome, status: int, first_byte_s: float, again: bool) -> None:
    reply = Reply(0.0, first_byte_s=first_byte_s, outcome=outcome, http_status=status)
    assert is_retryable(reply) == again


def test_an_answer_that_may_have_been_paid_for_is_not_asked_for_again() -> None:
    paid = RetryPolicy(max_retries=3, after_reset=False)
    assert not is_retryable(Reply(0.0, outcome=Outcome.RESET), paid)
    assert is_retryable(Reply(0.0, first_byte_s=1.0, outcome=Outcome.RATE_LIMITED, http_status=429), paid)


@given(st.integers(0, 50), st.integers(0, 2**32))
def test_the_wait_doubles_up_to_its_limit(attempt: int, seed: int) -> None:
    waited_s = delay_s(POLICY, attempt, math.nan, Random(seed))
    full_s = min(4.0, 0.5 * 2**attempt)
    assert full_s / 2 <= waited_s <= full_s


def test_the_wait_is_seeded() -> None:
    waits = [[delay_s(POLICY, k, math.nan, rng) for k in range(3)] for rng in (Random(7), Random(7), Random(8))]
    assert waits[0] == waits[1] != waits[2]


def test_the_servers_wish_is_a_lower_bound() -> None:
    assert delay_s(POLICY, 0, 9.0, Random(0)) == 9.0
    assert delay_s(POLICY, 3, 0.0, Random(0)) >= 2.0


@pytest.mark.parametrize(("value", "seconds"), [("7", 7.0), ("0", 0.0), ("0.25", 0.25)])
def test_retry_after_in_seconds(value: str, seconds: float) -> None:
    assert retry_after_s(value) == seconds


def test_retry_after_as_a_date() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=100)
    assert retry_after_s(format_datetime(soon, usegmt=True)) == pytest.approx(100, abs=5)
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@pytest.mark.parametrize("value", ["soon", "-3", "", "12 parsecs"])
def test_retry_after_that_says_nothing(value: str) -> None:
    assert math.isnan(retry_after_s(value))
