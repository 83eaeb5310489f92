"""When a failed request may be tried again, and how long to wait before."""

from __future__ import annotations

import math
from random import Random

from harness.clients.base import Reply, RetryPolicy
from harness.records import Outcome


def is_retryable(reply: Reply, policy: RetryPolicy | None = None) -> bool:
    """A refusal that a second try may not meet: nothing of an answer had come."""
    match reply.outcome:
        case Outcome.RATE_LIMITED | Outcome.REFUSED:
            return True
        case Outcome.HTTP_ERROR:
            return reply.http_status >= 500
        case Outcome.RESET:
            return math.isnan(reply.first_byte_s) and (policy is None or policy.after_reset)
        case _:
            return False


def delay_s(policy: RetryPolicy, attempt: int, retry_after_s: float, rng: Random) -> float:
    """Seconds to wait before attempt ``attempt + 1``, the first being 0."""
    backoff_s = min(policy.max_s, policy.base_s * 2.0**attempt)
    backoff_s *= 1 - policy.jitter * rng.random()
    return backoff_s if math.isnan(retry_after_s) else max(backoff_s, retry_after_s)
