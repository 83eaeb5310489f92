"""Dollars of a run that pays for tokens: estimated before it, bounded while it lasts, counted at its end.

The cap holds for any timing of answers, because a request is sent only when everything sent before could cost its
worst and the cap would still hold (:class:`Purse`). A prompt's worst is one token a byte: tokenizers that work on
bytes make no more. An answer's worst is the length asked for. A refusal (a status from 400 on, or no connection)
costs nothing; any other end without a usage from the server is counted at its worst.

Amounts are whole 10^-12 dollars inside, so that sums are exact.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.cost import format_usd
from harness.dataset import WorkloadData
from harness.errors import UsageError
from harness.records import Outcome, Prompt, ServerFacts, SpendFacts, TokenSource
from harness.spec import Scenario, Stack, TokenPrice, Workload
from harness.workload import prompt_sources

DEFAULT_CAP_USD = 5.0
"""Of a command that names none: enough for a short run, and nobody's ruin."""
CAP_REACHED = "spend cap reached"
"""Why a load ended that could not send its next request: ``LoadFacts.ended_by``."""
MESSAGE_TOKENS = 8
"""More than any chat format adds to a message (OpenAI's: 3 or 4), or to a request."""
BYTES_PER_TOKEN = 4
"""Of English text, as OpenAI's guides put it; for expectations, never for bounds."""
PREFLIGHT_INPUT = "preflight input tokens"
PREFLIGHT_OUTPUT = "preflight output tokens"
"""Names in ``ServerFacts.details`` of what the request before load used."""

_UNITS_PER_USD = 10**12
_LENGTH_ASKED = "$output_tokens"
_SOURCES, _DRAWS = 20, 15


class Ended(Protocol):
    """What of a request's end decides its price; a Reply and a Sample are such."""

    @property
    def outcome(self) -> Outcome: ...
    @property
    def http_status(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def token_source(self) -> TokenSource: ...


@dataclass(frozen=True, slots=True)
class Bound:
    """The most tokens that one request can use."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Tariff:
    """Prices in 10^-12 dollars a token, and what a request's own body changes about its length."""

    input_units: int
    cached_units: int
    output_units: int
    extra_tokens: int = 0
    """Of what is merged into each body: one a byte."""
    answers: int = 1
    longest: int | None = None
    """Tokens of an answer, where the body fixes them; None: the length that the prompt asks for."""

    def bound(self, prompt: Prompt) -> Bound:
        longest = prompt.output_tokens if self.longest is None else self.longest
        return Bound(prompt_tokens_bound(prompt) + self.extra_tokens, longest * self.answers)

    def units(self, input_tokens: float, output_tokens: float, cached_tokens: float = 0) -> int:
        """Price tokens, in 10^-12 dollars; ``cached_tokens`` are part of ``input_tokens``."""
        fresh = input_tokens - cached_tokens
        return math.ceil(
            fresh * self.input_units + cached_tokens * self.cached_units + output_tokens * self.output_units
        )

    def usd(self, input_tokens: float, output_tokens: float, cached_tokens: float = 0) -> float:
        return self.units(input_tokens, output_tokens, cached_tokens) / _UNITS_PER_USD

    def charge(self, bound: Bound, ended: Ended) -> tuple[int, bool]:
        """Price a request that is over, in 10^-12 dollars, and say whether part of it had to be assumed."""
        if ended.outcome is Outcome.IN_FLIGHT:  # it may be tried again, or answered, after the run
            return self.units(bound.input_tokens, bound.output_tokens), True
        if ended.http_status >= 400 or ended.outcome is Outcome.REFUSED:
            return 0, False
        said = ended.token_source is TokenSource.USAGE
        output = ended.output_tokens if said else bound.output_tokens
        if ended.prompt_tokens < 0:
            return self.units(bound.input_tokens, output), True
        cached = min(max(ended.cached_tokens, 0), ended.prompt_tokens)
        return self.units(ended.prompt_tokens, output, cached), not said


def tariff_of(price: TokenPrice, extra_body: Mapping[str, object]) -> Tariff:
    """Make the tariff of a price for requests with ``extra_body`` merged in.

    Raises
    ------
    UsageError
        When the body takes the limit from the answers' length: no cap could hold.
    """
    cached = price.usd_per_million_cached_input
    limit: object = _LENGTH_ASKED
    for name in ("max_tokens", "max_completion_tokens"):
        if name in extra_body and not (name == "max_tokens" and extra_body.get("max_completion_tokens") is not None):
            limit = extra_body[name]
    if limit is None or (limit != _LENGTH_ASKED and not isinstance(limit, int)):
        raise UsageError(
            "--extra-body leaves the length of an answer without a limit, and a run that pays for tokens needs one:"
            f' give max_tokens or max_completion_tokens a number, or "{_LENGTH_ASKED}"'
        )
    answers = extra_body.get("n", 1)
    return Tariff(
        input_units=_units_per_token(price.usd_per_million_input),
        cached_units=_units_per_token(price.usd_per_million_input if cached is None else cached),
        output_units=_units_per_token(price.usd_per_million_output),
        extra_tokens=len(json.dumps(dict(extra_body)).encode()) if extra_body else 0,
        answers=answers if isinstance(answers, int) and answers > 1 else 1,
        longest=limit if isinstance(limit, int) else None,
    )


def _units_per_token(usd_per_million: float) -> int:
    return math.ceil(usd_per_million * _UNITS_PER_USD / 1e6)


def prompt_tokens_bound(prompt: Prompt) -> int:
    """The most tokens a prompt can be: one a byte, and what a chat format adds."""
    return MESSAGE_TOKENS + sum(MESSAGE_TOKENS + len(message.content.encode()) for message in prompt.messages)


class Purse:
    """One load process's share of the cap. Whatever the order of ends, ``spent + reserved`` never exceeds it.

    It closes at the first request that does not fit, and admits none after: a run that goes on with the short
    prompts alone would be another load.
    """

    def __init__(self, tariff: Tariff, allowance_usd: float) -> None:
        self.closed = False
        self._tariff = tariff
        self._allowance = math.floor(allowance_usd * _UNITS_PER_USD)
        self._spent = self._assumed = self._reserved = 0

    def reserve(self, prompt: Prompt) -> Bound | None:
        """Set a request's worst case aside; None: it does not fit, and must not be sent."""
        bound = self._tariff.bound(prompt)
        units = self._tariff.units(bound.input_tokens, bound.output_tokens)
        if self.closed or self._spent + self._reserved + units > self._allowance:
            self.closed = True
            return None
        self._reserved += units
        return bound

    def settle(self, bound: Bound, ended: Ended) -> None:
        """Replace a reservation by what the request cost."""
        self._reserved -= self._tariff.units(bound.input_tokens, bound.output_tokens)
        units, assumed = self._tariff.charge(bound, ended)
        self._spent += units
        self._assumed += units if assumed else 0

    def count(self) -> dict[str, int]:
        """What was paid, and what may still have to be, for :meth:`Ledger.heard`."""
        return {"spent": self._spent, "assumed": self._assumed, "reserved": self._reserved}


class Ledger:
    """The leader's books of one run: it shares the cap out among load processes, and adds up what they paid."""

    def __init__(self, cap_usd: float, before_usd: float = 0.0) -> None:
        self._cap_usd = cap_usd
        self._before_usd = before_usd
        self._share_usd = 0.0
        self._counts: dict[int, Mapping[str, int]] = {}
        self._reached_s: float | None = None

    def share(self, workers: int) -> float:
        """Each worker's allowance in dollars."""
        self._share_usd = max(0.0, self._cap_usd - self._before_usd) / max(1, workers)
        return self._share_usd

    def heard(self, worker: int, count: Mapping[str, int]) -> None:
        self._counts[worker] = count

    def reached(self, at_s: float) -> None:
        """Note that a request did not fit at this wall-clock time; the earliest counts."""
        self._reached_s = at_s if self._reached_s is None else min(self._reached_s, at_s)

    @property
    def reached_s(self) -> float | None:
        return self._reached_s

    @property
    def spent_usd(self) -> float:
        """What is known to be paid so far."""
        return self._before_usd + sum(count["spent"] for count in self._counts.values()) / _UNITS_PER_USD

    def facts(self, lost: Sequence[int] = ()) -> SpendFacts:
        """Close the books; workers that are ``lost`` may have spent their whole share."""
        assumed = sum(count["assumed"] + count["reserved"] for count in self._counts.values())
        spent = self.spent_usd + sum(count["reserved"] for count in self._counts.values()) / _UNITS_PER_USD
        unknown = 0.0
        for worker in lost:
            count = self._counts.get(worker, {})
            unknown += self._share_usd - (count.get("spent", 0) + count.get("reserved", 0)) / _UNITS_PER_USD
        return SpendFacts(
            cap_usd=self._cap_usd,
            spent_usd=spent + unknown,
            assumed_usd=assumed / _UNITS_PER_USD + unknown,
            reached_s=self._reached_s,
        )


def preflight_usd(tariff: Tariff, server: ServerFacts) -> float:
    """What the launcher's own request cost."""
    used = [server.details.get(name, 0) for name in (PREFLIGHT_INPUT, PREFLIGHT_OUTPUT)]
    return tariff.usd(*(float(tokens) for tokens in used))


class Budget:
    """One command's cap over cells that run one after another; what one leaves, the next may spend."""

    def __init__(self, cap_usd: float) -> None:
        self.left_usd = cap_usd

    def paid(self, usd: float) -> None:
        self.left_usd = max(0.0, self.left_usd - usd)


# Before load -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PromptSizes:
    """Tokens of a workload's prompts as they come: expected on average, and the most that one can be."""

    input_mean: float
    input_most: int
    output_mean: float
    output_most: int


def prompt_sizes(workload: Workload, data: WorkloadData) -> PromptSizes:
    """Draw prompts as users do and weigh them."""
    new_source = prompt_sources(workload, data)
    answer = " ".join(["word"] * max(1, round(0.75 * workload.output_tokens)))
    drawn: list[Prompt] = []
    for number in range(_SOURCES):
        source = new_source(random.Random(number))
        drawn += [source.next(answer if turn else None) for turn in range(_DRAWS)]
    texts = [sum(len(message.content.encode()) for message in prompt.messages) for prompt in drawn]
    return PromptSizes(
        input_mean=sum(texts) / BYTES_PER_TOKEN / len(drawn),
        input_most=max(prompt_tokens_bound(prompt) for prompt in drawn),
        output_mean=sum(prompt.output_tokens for prompt in drawn) / len(drawn),
        output_most=max(prompt.output_tokens for prompt in drawn),
    )


def answer_expected_s(scenario: Scenario, stack: Stack) -> float:
    """Seconds of an answer: what the stack claims, else the limit."""
    claim = stack.claims.get(scenario.name)
    if claim is not None and claim.latency_s is not None:
        return claim.latency_s
    return scenario.primary.limit if scenario.primary.is_latency else scenario.longest_limit_s or 1.0


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run will ask of a server a minute; a provider counts the length asked for as tokens."""

    requests_per_min: float
    tokens_per_min: float


def demand_of(scenario: Scenario, stack: Stack, sizes: PromptSizes) -> Demand:
    """N / (Z + R) in a closed loop, the peak rate of an open one (0 where a trace has none)."""
    if scenario.arrivals is not None:
        per_s = scenario.arrivals.peak_rps or 0.0
    else:
        per_s = scenario.users / (scenario.think_time.mean_s + answer_expected_s(scenario, stack))
    return Demand(60 * per_s, 60 * per_s * (sizes.input_mean + sizes.output_mean))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a cell will cost. ``requests_most`` None: nothing but the cap limits them."""

    name: str
    load: str
    requests: float
    requests_most: float | None
    input_tokens: float
    output_tokens: float
    usd_per_million: tuple[float, float]
    usd: float
    usd_most: float | None
    cap_usd: float

    @property
    def sentence(self) -> str:
        price_in, price_out = self.usd_per_million
        most = "without a think time only the cap limits it"
        if self.usd_most is not None:
            open_loop = self.requests_most == self.requests
            so = "all are of full length" if open_loop else "answers come at once and in full length"
            most = f"at most {format_usd(self.usd_most)}, if {so}"
        return (
            f"{self.name} pays for tokens: about {self.requests:,.0f} requests ({self.load}) x"
            f" ({self.input_tokens:,.0f} input tokens x ${price_in:g} + {self.output_tokens:,.0f} output tokens x"
            f" ${price_out:g}) / 1,000,000 = {format_usd(self.usd)}; {most}; the cap is {format_usd(self.cap_usd)}"
        )


def estimate(
    scenario: Scenario,
    stack: Stack,
    sizes: PromptSizes,
    tariff: Tariff,
    *,
    seconds: float,
    cap_usd: float,
    arrivals: int | None = None,
    reduced: bool = False,
) -> Estimate:
    """Estimate a cell on a stack with a price per token.

    ``seconds`` is all the time in which requests are issued; ``arrivals`` their number in an open loop; ``reduced``
    says that the stack's own reduction made the load smaller.
    """
    assert isinstance(stack.price, TokenPrice)
    think_s, answer_s = scenario.think_time.mean_s, answer_expected_s(scenario, stack)
    most: float | None
    if arrivals is not None:
        load, requests, most = "open loop", float(arrivals), float(arrivals)
    else:
        load = f"{scenario.users:,} users, {think_s:g} s of thinking, {answer_s:g} s an answer, {seconds:.0f} s"
        requests = scenario.users * seconds / (think_s + answer_s)
        most = scenario.users * (1 + seconds / think_s) if think_s else None
    if reduced:
        load += "; REDUCED by the stack"
    output = (sizes.output_mean if tariff.longest is None else tariff.longest) * tariff.answers
    output_most = (sizes.output_most if tariff.longest is None else tariff.longest) * tariff.answers
    worst = tariff.usd(sizes.input_most + tariff.extra_tokens, output_most)
    return Estimate(
        name=f"{scenario.name} on {stack.name}",
        load=load,
        requests=requests,
        requests_most=most,
        input_tokens=sizes.input_mean,
        output_tokens=output,
        usd_per_million=(stack.price.usd_per_million_input, stack.price.usd_per_million_output),
        usd=requests * tariff.usd(sizes.input_mean, output),
        usd_most=None if most is None else most * worst,
        cap_usd=cap_usd,
    )
