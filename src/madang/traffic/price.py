"""What tokens cost, in millionths of a won: whole numbers, so that sums are exact."""

from __future__ import annotations

from madang.months import day_number
from madang.traffic.table import Price, Usage

MICRO = 10**6
"""Millionths of a won in one: what one token costs at one won per million."""
MICRO_MAX = 10**15
"""No request costs more than a thousand million won."""
AT_MAX = 253_402_214_400.0
"""The end of the year 9999."""


def cost_micro(price: Price | None, prompt: int, cached: int, output: int) -> int:
    """Return what a request costs; cached tokens are a part of the prompt's.

    >>> cost_micro(Price(input=300, cached=75, output=1200), prompt=1000, cached=400, output=50)
    270000
    """
    if price is None:
        return 0
    fresh = max(0, prompt - cached)
    return round(fresh * price.input + cached * price.cached + output * price.output)


def micro_of(amount: float) -> int:
    """Return what a record says that it cost or drew, in millionths; never what no request can.

    >>> micro_of(0.27), micro_of(-1.0), micro_of(1e300) == MICRO_MAX
    (270000, 0, True)
    """
    return min(max(0, round(min(amount, MICRO_MAX) * MICRO)), MICRO_MAX)


def price_text(price: Price | None) -> str:
    """Write by which price a record was made, so that its cost can be worked out again.

    >>> price_text(Price(input=300, cached=0.25, output=1200)), price_text(None)
    ('300/0.25/1200', '')
    """
    if price is None:
        return ""
    return "/".join(f"{each:.15g}" for each in (price.input, price.cached, price.output))


def moment_of(usage: Usage) -> float:
    """Return when a record was made, in Unix seconds; never a moment that has no date.

    >>> moment_of(Usage("r", 1e300, "k", "p", "e", "u", 1, 0, 1, 200, 0.1)) == AT_MAX
    True
    """
    return min(max(0.0, usage.at), AT_MAX)


def day_of(usage: Usage) -> int:
    """Return the day of a record, counted from 1970, in Seoul."""
    return day_number(moment_of(usage))
