"""What tokens of a service cost its pool: learnt from what was served, and held for a day."""

from __future__ import annotations

from madang.resources.resource import Frozen

Tokens = tuple[int, int, int]
"""Of prompts; of them what an engine had kept; written."""


class Served(Frozen):
    """What replicas of a service did in one pool on one kind: sums that fade day by day."""

    pool: str
    accelerator: str
    busy: int = 0
    """Thousandths of an accelerator, times seconds, that they were measured to use;"""
    prompt: int = 0
    """tokens that they were asked with in that time,"""
    cached: int = 0
    """those of them that had been kept,"""
    output: int = 0
    """and tokens that they wrote."""


class Rates(Frozen):
    """For a million tokens each: won, or watt hours."""

    input: float
    cached: float
    """Of the input what the engine had kept."""
    output: float


class KindRates(Frozen):
    """What tokens take on one kind of accelerators."""

    pool: str
    accelerator: str
    hours: float
    """Of whole accelerators, busy, from which it was learnt;"""
    tokens: int
    """tokens that were read and written in these."""
    krw_per_hour: float
    """What one costs in its pool; 0: nobody has named a price."""
    wh: Rates | None = None
    """By its rated power for as long as it was busy; None: nobody has said what it draws."""


class Tariff(Frozen):
    """What tokens take, from the first request of a day to the last."""

    day: int
    """Counted from 1970, in Seoul: the first day that it holds for."""
    krw: Rates | None = None
    """Over all kinds that serve; None: their pools name no price."""
    wh: Rates | None = None
    """The same; None: of some kind nobody has said what it draws."""
    kinds: tuple[KindRates, ...] = ()
