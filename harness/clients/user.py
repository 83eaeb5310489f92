"""One user's client, whatever the wire: send, retry, look at what is under way, survive a kill."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from random import Random
from time import monotonic
from typing import Any, Generic, TypeVar

import gevent

from harness.clients.base import OUTPUT_TOKENS, Reply, RetryPolicy, Target
from harness.clients.exchange import Exchange
from harness.clients.retry import delay_s, is_retryable
from harness.records import Outcome, Prompt

Request = TypeVar("Request")


class OneUser(ABC, Generic[Request]):
    """Sends and retries; a protocol adds how a request is made, exchanged and read."""

    def __init__(self, target: Target, retry: RetryPolicy | None = None, rng: Random | None = None) -> None:
        self.target = target
        self.retry = retry or RetryPolicy()
        self.rng = rng or Random(0)
        self.in_flight_since: float | None = None
        self.interrupted: Reply | None = None
        self._secrets = target.secrets

    # what a protocol adds

    @abstractmethod
    def encode(self, prompt: Prompt, request_id: str) -> Request:
        """Build the request; a second try sends the same."""

    @abstractmethod
    def read(self, exchange: Exchange) -> Reply:
        """Read an exchange once it is over, or as far as it is."""

    @abstractmethod
    def _attempt(self, request: Request, deadline_s: float) -> Exchange: ...

    @abstractmethod
    def _current(self) -> Exchange | None:
        """The exchange under way, or the last one."""

    # what every user of it calls

    def send(self, prompt: Prompt, request_id: str) -> Reply:
        request = self.encode(prompt, request_id)
        began_s = monotonic()
        self.in_flight_since = began_s
        self.interrupted = None
        retries, last = 0, None
        attempt_s = began_s
        try:
            while True:
                last = None
                last = self._attempt(request, began_s + self.target.timeouts.total_s)
                reply = self._finish(last, began_s, retries, attempt_s)
                if retries >= self.retry.max_retries or not is_retryable(reply, self.retry):
                    return reply
                wait_s = delay_s(self.retry, retries, reply.retry_after_s, self.rng)
                if monotonic() + wait_s >= began_s + self.target.timeouts.total_s:
                    return reply
                gevent.sleep(wait_s)
                retries += 1
                attempt_s = monotonic()
        except BaseException:
            # a kill, or a Timeout of the caller: the facts so far must not vanish
            cut_off = last or self._current() or Exchange(began_s)
            self.interrupted = self._finish(cut_off, began_s, retries, attempt_s)
            self.interrupted.outcome = Outcome.CANCELLED
            if last is not None:
                self.interrupted.end_s = monotonic()  # cut off while waiting for the next try
            raise
        finally:
            self.in_flight_since = None

    def partial(self) -> Reply | None:
        began_s, exchange = self.in_flight_since, self._current()
        if began_s is None:
            return None
        reply = self.read(exchange) if exchange is not None else Reply(began_s)
        reply.sent_s, reply.outcome, reply.end_s = began_s, Outcome.IN_FLIGHT, math.nan
        return reply

    def merge(self, body: dict[str, Any], prompt: Prompt, forced: Mapping[str, Any]) -> None:
        """Put the target's own fields over ``body``; ``forced`` is the protocol's way to force a length."""
        layers = [self.target.extra_body]
        if prompt.forced:
            own = self.target.forced_length_body
            layers.insert(0, forced if own is None else own)
        for layer in layers:
            for key, value in layer.items():
                if value is None:
                    body.pop(key, None)
                else:
                    body[key] = prompt.output_tokens if value == OUTPUT_TOKENS else value

    def _finish(self, exchange: Exchange, began_s: float, retries: int, attempt_s: float) -> Reply:
        reply = self.read(exchange)
        reply.sent_s = began_s
        reply.retries = retries
        reply.retry_s = attempt_s - began_s
        return reply
