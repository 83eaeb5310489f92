"""How old a price is: list prices move within months, and a cost is no better than the price it is made of."""

from __future__ import annotations

from datetime import date

from harness.capacity_record import PriceTag
from harness.cost import PRICE_GOOD_FOR_DAYS
from harness.spec import HourlyPrice, NoPrice, Stack, TokenPrice


def price_tag(stack: Stack, today: date) -> PriceTag:
    """The stack's price with its source, flagged when it was read more than 90 days before ``today``."""
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
        flag=_flag(stack.name, source.read, today),
    )


def _flag(name: str, read: date | None, today: date) -> str:
    if read is None:
        return f"the price of '{name}' has no date: look it up again"
    age = (today - read).days
    if age < 0:
        return f"the price of '{name}' is dated {read.isoformat()}, which is still to come: correct it"
    if age > PRICE_GOOD_FOR_DAYS:
        when = f"{age} days ago ({read.isoformat()}), more than {PRICE_GOOD_FOR_DAYS}"
        return f"the price of '{name}' was read {when}: look it up again"
    return ""
