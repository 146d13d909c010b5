"""How busy is what somebody has: measured, added up by months, and what follows of idleness."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from madang.resources.quantity import Duration
from madang.resources.resource import Frozen
from madang.resources.tariff import Tokens


class Then(StrEnum):
    """What becomes of what stands idle; it is always warned first."""

    WARN = "warn"
    """Nothing more than that."""
    SUSPEND = "suspend"
    """Jobs save and hold nothing until they are resumed; of a grant the unused part is over."""
    SCALE_DOWN = "scale-down"
    """The same, and services lose the replicas that stand idle."""


class Reclaim(Frozen):
    """When it is taken back for standing idle."""

    below: float = Field(ge=0, le=1, allow_inf_nan=False)
    """Part of it that is used,"""
    over: Duration = Field(ge=60, le=366 * 86_400)
    """for so long; after half of it there is a warning."""
    then: Then = Then.SUSPEND


class Meter(Frozen):
    """Up to when it is added up what something has used, and for how long it has stood idle."""

    epoch: int = 0
    at: float = 0.0
    """Unix seconds up to which its project's sums have it;"""
    term: int = 0
    """the control that wrote so, and what that had measured by then:"""
    known_s: float = 0.0
    """for how long it knew how busy it was,"""
    busy_s: float = 0.0
    """and for how much of that it was;"""
    tokens: Tokens = (0, 0, 0)
    """and what it had read and written."""
    closed: bool = False
    """It is about to have nothing any more, and all of it is added up."""
    below: float | None = None
    """The part by which it is judged, as of the policy then;"""
    idle_s: float = 0.0
    """so long, one after the other, it was measured to use less;"""
    warned_s: float | None = None
    """and so long it was when it was warned of. None: it was not."""


class IdleWatch(Frozen):
    """For how long a grant has stood idle."""

    at: float = 0.0
    """Unix seconds of the last look;"""
    term: int = 0
    """the control that looked,"""
    used: dict[str, int] = {}
    """and what its project had used by then, by kind, in thousandths of accelerator seconds;"""
    below: float = 0.0
    idle_s: float = 0.0
    """for so long it has been less than that part;"""
    peak_milli: int = 0
    """and the most of its accelerators that were used in that time, in thousandths."""
    warned_s: float | None = None


class MonthUse(Frozen):
    """What a project has had of one kind in one month: exact sums."""

    month: int
    """As 202611."""
    accelerator: str
    held: int = 0
    """Thousandths of an accelerator, times seconds: all it had,"""
    busy: int = 0
    """what it was measured to use of that,"""
    idle: int = 0
    """and what it was measured not to use. What is missing was not measured."""
    mkrw: int = 0
    """What it all cost, in thousandths of a won,"""
    idle_mkrw: int = 0
    """and what that cost which stood idle."""
