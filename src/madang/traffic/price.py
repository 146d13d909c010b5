"""What tokens cost, in millionths of a won: whole numbers, so that sums are exact."""

from __future__ import annotations

from madang.traffic.table import Price

MICRO = 10**6
"""Millionths of a won in one: what one token costs at one won per million."""


def cost_micro(price: Price | None, prompt: int, cached: int, output: int) -> int:
    """Return what a request costs; cached tokens are a part of the prompt's.

    >>> cost_micro(Price(input=300, cached=75, output=1200), prompt=1000, cached=400, output=50)
    270000
    """
    if price is None:
        return 0
    fresh = max(0, prompt - cached)
    return round(fresh * price.input + cached * price.cached + output * price.output)
