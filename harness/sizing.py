"""Replicas and money for a scenario's load, each figure with the arithmetic that made it.

Everything starts from the *lower* end of the capacity interval: a level that was seen to pass. Machines are paid by the
hour whether they work or wait, so a month costs the same at any volume, and the daily profile decides over how many
requests it is spread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from harness.api_break_even import break_even
from harness.capacity_record import Arithmetic, Bar, BreakEven, LevelResult, LoadKind, ReplicaPlan, Sizing
from harness.cost import (
    DAYS_PER_MONTH,
    HOURS_PER_MONTH,
    SECONDS_PER_HOUR,
    Cost,
    format_usd,
    good_thousand,
    hourly_cost,
    rate_cost,
    token_cost,
)
from harness.daily_profile import DailyProfile
from harness.errors import UsageError
from harness.spec import HourlyPrice, NoPrice, Scenario, Stack, TokenPrice

UTILISATION = 0.8
"""Of a replica's capacity, planned for at the peak: users do not come evenly, and neither does a balancer deal them."""
UTILISATION_STEP = 0.2
PRICE_STEP = 0.2
LIMIT_FACTORS = (0.8, 1.2)
"""Limits that the sensitivity asks about, times the scenario's."""


@dataclass(frozen=True, slots=True)
class Basis:
    """What a sizing starts from; ``level`` is the lower end of the interval."""

    stack: Stack
    scenario: Scenario
    kind: LoadKind
    level: LevelResult
    profile: DailyProfile
    profile_name: str
    utilisation: float = UTILISATION
    spare: int = 1


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What the sensitivity moves; the volume stays, so that only what is paid for it changes."""

    price_factor: float = 1.0
    utilisation: float | None = None
    level: LevelResult | None = None


def check_sizing(utilisation: float, spare: int) -> None:
    """Refuse a plan that cannot be.

    Raises
    ------
    UsageError
        In one sentence.
    """
    if not 0 < utilisation <= 1:
        raise UsageError(f"--utilisation must be above 0 and at most 1, not {utilisation:g}")
    if spare < 0:
        raise UsageError(f"--spare must be 0 or more, not {spare}")


def size(
    basis: Basis, *, api: Stack | None = None, at_limit: Mapping[float, LevelResult | None] | None = None
) -> Sizing:
    """Size a stack for its scenario.

    Parameters
    ----------
    api
        A stack with a price per token, for the break-even; None: no comparison.
    at_limit
        The lower end of the interval at other limits (factor of the scenario's); None: no level passes there.
    """
    frame = Sizing(
        profile=basis.profile_name,
        profile_reason=basis.profile.reason,
        weights=tuple(weight / max(basis.profile.weights) for weight in basis.profile.weights),
    )
    if isinstance(basis.stack.price, TokenPrice):
        return _api_sizing(frame, basis, basis.stack.price)
    plan = replica_plan(basis)
    frame = frame.model_copy(update={"replicas": plan})
    if isinstance(basis.stack.price, NoPrice):
        return frame.model_copy(update={"notes": (f"no cost: {basis.stack.price.reason}",)})
    figures = own_figures(basis, plan)
    if figures is None:
        return frame.model_copy(update={"notes": ("no cost: there is no answer to spread it over",)})
    return frame.model_copy(
        update={
            "figures": figures.shown,
            "usd_per_1000_good": figures.usd_per_1000_good,
            "usd_per_month": figures.usd_per_month,
            "requests_per_month": figures.requests_per_month,
            "break_even": None if api is None else _break_even(basis, plan, api, figures.requests_per_month),
            "bars": _bars(basis, at_limit or {}),
            "notes": ("the spare replicas are paid for and stand by: the load is planned for the others",)
            if basis.spare
            else (),
        }
    )


@dataclass(frozen=True, slots=True)
class Peak:
    """The scenario's load, in users or requests/s."""

    load: float
    arithmetic: str


def peak_load(basis: Basis) -> Peak | None:
    """The scenario's load in the unit of the capacity, with its arithmetic; None when its rate is not known."""
    arrivals, users, level = basis.scenario.arrivals, basis.scenario.users, basis.level
    if basis.kind == "users":
        return Peak(float(users), f"{users:,} users")
    if arrivals is not None and arrivals.peak_rps is not None:
        return Peak(arrivals.peak_rps, f"{arrivals.peak_rps:g} requests/s")
    if level.response_s is None or not math.isfinite(level.response_s):
        return None
    think_s = basis.scenario.think_time.mean_s
    rate = users / (level.response_s + think_s)
    return Peak(rate, f"{users:,} users / ({level.response_s:.3g} s + {think_s:.3g} s) = {rate:.4g} requests/s")


def replica_plan(basis: Basis, assumed: Assumptions = Assumptions()) -> ReplicaPlan | None:
    """Whole replicas for the peak at the utilisation target, and the spare ones beside them."""
    level = assumed.level or basis.level
    utilisation = assumed.utilisation or basis.utilisation
    peak = peak_load(basis)
    if peak is None:
        return None
    tested = basis.stack.replicas
    per_replica = level.load / tested
    needed = math.ceil(peak.load / (utilisation * per_replica) - 1e-9)
    unit = "users" if basis.kind == "users" else "requests/s"
    shared = f" ({level.load:.4g} {unit} / {tested} replicas tested)" if tested > 1 else ""
    spare = f", and {basis.spare} spare" if basis.spare else ""
    return ReplicaPlan(
        load=peak.load,
        per_replica=per_replica,
        utilisation=utilisation,
        needed=needed,
        spare=basis.spare,
        gpus_per_replica=0 if basis.stack.hardware is None else basis.stack.hardware.count,
        arithmetic=f"{peak.arithmetic} / ({utilisation:g} x {per_replica:.4g} {unit} per replica{shared}), rounded up"
        f" = {needed:,}{spare}",
    )


@dataclass(frozen=True, slots=True)
class OwnFigures:
    usd_per_month: float
    requests_per_month: float
    usd_per_1000_good: float | None
    shown: tuple[Arithmetic, ...]


def own_figures(basis: Basis, plan: ReplicaPlan | None, assumed: Assumptions = Assumptions()) -> OwnFigures | None:
    """What rented machines cost at the scenario's load; None without a price by the hour, or without an answer."""
    level, price = basis.level, basis.stack.price
    attained = (assumed.level or level).attained
    rate = _peak_rps(basis)
    if plan is None or rate is None or not isinstance(price, HourlyPrice):
        return None
    gpu_usd = price.usd_per_gpu_hour * assumed.price_factor
    gpus = plan.total * plan.gpus_per_replica
    month = gpus * gpu_usd * HOURS_PER_MONTH
    requests = rate * SECONDS_PER_HOUR * basis.profile.peak_hours * DAYS_PER_MONTH
    if basis.kind == "users" and level.response_s is not None:
        query = hourly_cost(gpu_usd, gpus, basis.scenario.users, level.response_s, _think_s(basis))
    else:
        query = rate_cost(gpu_usd, gpus, rate)
    mean = Cost(month / requests, f"{format_usd(month)} / {requests:,.0f} requests = {format_usd(month / requests)}")
    good = good_thousand(mean, attained) if attained is not None else None
    shown = [Arithmetic(label="a query at the peak hour", value=query.usd, arithmetic=query.arithmetic)]
    shown.append(Arithmetic(label="a query, idle hours paid for", value=mean.usd, arithmetic=mean.arithmetic))
    if good is not None:
        shown.append(Arithmetic(label="1,000 good requests", value=good.usd, arithmetic=good.arithmetic))
    if level.output_tokens:
        tokens = mean.usd / level.output_tokens * 1e6
        shown.append(
            Arithmetic(
                label="a million output tokens",
                value=tokens,
                arithmetic=_per_million(mean.usd, level.output_tokens, tokens),
            )
        )
    shown.append(
        Arithmetic(
            label="a month",
            value=month,
            arithmetic=f"{plan.total} replicas x {plan.gpus_per_replica} GPU{'s' if plan.gpus_per_replica != 1 else ''}"
            f" x {format_usd(gpu_usd)}/h x {HOURS_PER_MONTH:g} h = {format_usd(month)}",
        )
    )
    return OwnFigures(month, requests, None if good is None else good.usd, tuple(shown))


def api_capacity(
    requests_per_min: float | None, tokens_per_min: float | None, tokens_per_request: float, cycle_s: float | None
) -> tuple[float | None, float | None, str]:
    """What an account's rate limits allow: (requests/s, users, arithmetic); None where no limit is known.

    ``cycle_s`` is R + Z of one user.
    """
    limits = []
    if requests_per_min is not None:
        limits.append((requests_per_min / 60, f"{requests_per_min:,.0f} requests/min / 60"))
    if tokens_per_min is not None and tokens_per_request > 0:
        rate = tokens_per_min / 60 / tokens_per_request
        limits.append((rate, f"{tokens_per_min:,.0f} tokens/min / 60 / {tokens_per_request:,.4g} tokens a request"))
    if not limits:
        return None, None, ""
    rate, arithmetic = min(limits)
    arithmetic += f" = {rate:.4g} requests/s"
    if cycle_s is None:
        return rate, None, arithmetic
    users = math.floor(rate * cycle_s + 1e-9)
    return rate, float(users), f"{arithmetic}; x {cycle_s:.4g} s a cycle = {users:,} users"


def _api_sizing(frame: Sizing, basis: Basis, price: TokenPrice) -> Sizing:
    level = basis.level
    rate = _peak_rps(basis)
    if level.prompt_tokens is None or level.output_tokens is None or rate is None:
        return frame.model_copy(update={"notes": ("no cost: the level does not say how many tokens a request takes",)})
    query = token_cost(price, level.prompt_tokens, level.output_tokens)
    requests = rate * SECONDS_PER_HOUR * basis.profile.peak_hours * DAYS_PER_MONTH
    month = requests * query.usd
    good = good_thousand(query, level.attained) if level.attained is not None else None
    tokens = query.usd / level.output_tokens * 1e6 if level.output_tokens else None
    shown = [Arithmetic(label="a query", value=query.usd, arithmetic=query.arithmetic)]
    if good is not None:
        shown.append(Arithmetic(label="1,000 good requests", value=good.usd, arithmetic=good.arithmetic))
    if tokens is not None:
        text = _per_million(query.usd, level.output_tokens or 0.0, tokens)
        shown.append(Arithmetic(label="a million output tokens, prompts paid for", value=tokens, arithmetic=text))
    text = f"{requests:,.0f} requests x {format_usd(query.usd)} = {format_usd(month)}"
    shown.append(Arithmetic(label="a month", value=month, arithmetic=text))
    bars: tuple[Bar, ...] = ()
    if good is not None:
        low, high = good.usd * (1 - PRICE_STEP), good.usd * (1 + PRICE_STEP)
        bars = (_bar("price", f"−{PRICE_STEP:.0%}", f"+{PRICE_STEP:.0%}", low, high),)
    return frame.model_copy(
        update={
            "figures": tuple(shown),
            "usd_per_1000_good": None if good is None else good.usd,
            "usd_per_month": month,
            "requests_per_month": requests,
            "bars": bars,
            "notes": (_limits_note(basis), "tokens cost the same at any limit and any utilisation"),
        }
    )


def _limits_note(basis: Basis) -> str:
    level = basis.level
    tokens = (level.prompt_tokens or 0.0) + (level.output_tokens or 0.0)
    cycle_s = None if level.response_s is None else level.response_s + _think_s(basis)
    rate, users, arithmetic = api_capacity(
        level.requests_per_min_allowed, level.tokens_per_min_allowed, tokens, cycle_s
    )
    if rate is None:
        return (
            "the account's rate limits are not known, and they are an API's capacity: read them from a --real run, or"
            " give --requests-per-minute and --tokens-per-minute"
        )
    peak = peak_load(basis)
    most = users if basis.kind == "users" else rate
    if peak is None or most is None:
        return f"the account's rate limits allow {arithmetic}"
    enough = "enough for" if most >= peak.load else "too few for"
    return f"the account's rate limits allow {arithmetic}, {enough} the scenario's {peak.arithmetic}"


def _break_even(basis: Basis, plan: ReplicaPlan | None, api: Stack, volume: float) -> BreakEven | None:
    level, price = basis.level, basis.stack.price
    if plan is None or level.prompt_tokens is None or level.output_tokens is None:
        return None
    assert isinstance(api.price, TokenPrice)
    assert isinstance(price, HourlyPrice)
    return break_even(
        api.name,
        token_cost(api.price, level.prompt_tokens, level.output_tokens),
        # The volume is to the peak what the scenario's is to its own.
        per_replica=volume / plan.load * plan.utilisation * plan.per_replica,
        usd_per_replica=plan.gpus_per_replica * price.usd_per_gpu_hour * HOURS_PER_MONTH,
        spare=plan.spare,
        volume=volume,
    )


def _bars(basis: Basis, at_limit: Mapping[float, LevelResult | None]) -> tuple[Bar, ...]:
    def cost(assumed: Assumptions) -> float | None:
        figures = own_figures(basis, replica_plan(basis, assumed), assumed)
        return None if figures is None else figures.usd_per_1000_good

    prices = [cost(Assumptions(price_factor=1 + sign * PRICE_STEP)) for sign in (-1, 1)]
    targets = [max(0.1, basis.utilisation - UTILISATION_STEP), min(1.0, basis.utilisation + UTILISATION_STEP)]
    used = [cost(Assumptions(utilisation=target)) for target in targets]
    bars = [
        _bar("price of a GPU hour", f"−{PRICE_STEP:.0%}", f"+{PRICE_STEP:.0%}", prices[0], prices[1]),
        _bar("utilisation target", f"{targets[0]:.0%}", f"{targets[1]:.0%}", used[0], used[1]),
    ]
    if at_limit:
        limits = [
            cost(Assumptions(level=found)) if found is not None else None for found in map(at_limit.get, LIMIT_FACTORS)
        ]
        texts = [f"x {factor:g}" for factor in LIMIT_FACTORS]
        note = "" if limits[0] is not None else f"at {texts[0]} of the limit no tested level passes"
        bars.append(_bar("limit of the latency checks", texts[0], texts[1], limits[0], limits[1], note))
    # The widest on top, as a tornado has it.
    return tuple(sorted(bars, key=lambda bar: -_width(bar)))


def _per_million(usd: float, tokens: float, per_million: float) -> str:
    return f"{format_usd(usd)} / {tokens:,.4g} tokens x 1,000,000 = {format_usd(per_million)}"


def _bar(label: str, low_text: str, high_text: str, low: float | None, high: float | None, note: str = "") -> Bar:
    return Bar(label=label, low_text=low_text, high_text=high_text, low_usd=low, high_usd=high, note=note)


def _width(bar: Bar) -> float:
    if bar.low_usd is None or bar.high_usd is None:
        return math.inf
    return abs(bar.high_usd - bar.low_usd)


def _peak_rps(basis: Basis) -> float | None:
    """Requests/s of the scenario at its peak."""
    level = basis.level
    if basis.kind == "rate":
        peak = peak_load(basis)
        return None if peak is None else peak.load
    if level.response_s is None or not math.isfinite(level.response_s):
        return None
    cycle_s = level.response_s + _think_s(basis)
    return basis.scenario.users / cycle_s if cycle_s > 0 else None


def _think_s(basis: Basis) -> float:
    measured = basis.level.think_s
    return basis.scenario.think_time.mean_s if measured is None else measured
