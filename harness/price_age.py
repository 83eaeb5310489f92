"""How old a price is: list prices move within months, and a cost is no better than the price it is made of."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from harness.capacity_record import PriceTag
from harness.spec import HourlyPrice, NoPrice, Stack, TokenPrice

PRICE_GOOD_FOR_DAYS = 90
"""List prices change; one read longer ago than this is to be looked up again."""


def price_tag(stack: Stack, today: date) -> PriceTag:
    """The stack's price with its source, flagged where :func:`stale_prices` has something to say of it."""
    match stack.price:
        case HourlyPrice(usd_per_gpu_hour=usd, source=source):
            text = f"${usd:g} per GPU and hour"
        case TokenPrice() as price:
            source = price.source
            text = (
                f"${price.usd_per_million_input:g} per million input tokens, ${price.usd_per_million_output:g} output"
            )
        case NoPrice(reason=reason):
            return PriceTag(stack=stack.name, text="", source=reason)
    return PriceTag(
        stack=stack.name,
        text=text,
        source=source.text,
        read="" if source.read is None else source.read.isoformat(),
        flag="".join(stale_prices([stack], today)),
    )


def stale_prices(stacks: Iterable[Stack], today: date) -> tuple[str, ...]:
    """Which prices should be looked up again: a sentence for each day on which some were read, over 90 days ago."""
    read: dict[date | None, dict[str, None]] = {}
    for stack in stacks:
        if not isinstance(stack.price, NoPrice):
            read.setdefault(stack.price.source.read, {})[stack.title] = None
    notes = []
    for day in sorted(read, key=lambda each: each or date.min):
        when = _out_of_date(day, today)
        if when:
            prices = "Price" if len(read[day]) == 1 else "Prices"
            notes.append(f"{prices} {when}, to be looked up again: {'; '.join(read[day])}.")
    return tuple(notes)


def _out_of_date(read: date | None, today: date) -> str:
    """Empty: the price is recent enough."""
    if read is None:
        return "without a date"
    age = (today - read).days
    if age < 0:
        return f"dated {read.isoformat()}, which is still to come"
    return f"read on {read.isoformat()}, {age} days ago" if age > PRICE_GOOD_FOR_DAYS else ""
