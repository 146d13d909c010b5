"""round: accelerators that are given out together, to those whose requests have most points.

called -> closed -> awarded -> over. Grants name the round that they apply to, and are given what it
has by one rule; a decision keeps what it was made of, so that it can be worked out again.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from madang.errors import Unfit
from madang.resources.grant import Day, Text
from madang.resources.month import day_of
from madang.resources.place import AcceleratorStart
from madang.resources.quota import ACCELERATORS_MAX, Count
from madang.resources.resource import Condition, Frozen, Name, Reason, Resource, Title

DECISIONS_MAX = 32
"""Each keeps what it was made of; of a round of five hundred requests that is 0.25 MB."""
Units = Annotated[int, Field(ge=0, le=ACCELERATORS_MAX, strict=True)]


class Small(Frozen):
    """What is kept for small requests, which are given single accelerators."""

    units: Units = Field(ge=1)
    """At most so many whole units; what they don't touch goes to the others."""
    up_to: Count = Field(ge=1)
    """A request for so many accelerators, or fewer, is a small one."""


class Bursts(Frozen):
    """What may be lent for a short time of what is idle."""

    units: Units = Field(ge=1)
    """At most so many at once,"""
    cap: Units = Field(ge=1)
    """of these so many to one organization,"""
    days: int = Field(ge=1, le=366, strict=True)
    """for so long."""


class RoundSpec(Frozen):
    """The call: what there is, and by which rule it is given."""

    model_config = ConfigDict(serialize_by_alias=True)

    title: Title = ""
    accelerator: AcceleratorStart
    capacity: Units = Field(ge=1)
    """In whole units."""
    unit: Count = Field(default=1, ge=1)
    """So many accelerators are given together: those of a node."""
    closes: Day
    """The first day on which no request is taken any more."""
    begins: Day = Field(alias="from")
    until: Day
    """The first day on which nothing holds any more that it gives."""
    floors: dict[Name, Units] = Field(default_factory=dict, max_length=64)
    """The sectors, and how many units are kept for each as long as it has use for them."""
    cap: Units | None = Field(default=None, ge=1)
    """Units of one organization at most."""
    least_score: float = Field(default=0, ge=0, le=100, allow_inf_nan=False)
    """With fewer points nothing is given, whatever is left."""
    small: Small | None = None
    bursts: Bursts | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if day_of(self.until) <= day_of(self.begins):
            raise Unfit("value.grant-days", begins=self.begins, until=self.until)
        if day_of(self.closes) >= day_of(self.until):
            raise Unfit("value.round-closes", closes=self.closes, until=self.until)
        kept = sum(self.floors.values()) + (self.small.units if self.small else 0)
        if kept > self.capacity:
            raise Unfit("value.round-kept", kept=kept, capacity=self.capacity)
        if self.bursts and self.bursts.units > self.capacity:
            raise Unfit("value.round-bursts", units=self.bursts.units, capacity=self.capacity)
        return self

    @property
    def total(self) -> int:
        """How many accelerators it has."""
        return self.capacity * self.unit


class RoundPhase(StrEnum):
    """Where a round is. Only its first and its last step are the clock's."""

    CALLED = "called"
    """Requests are taken."""
    CLOSED = "closed"
    """They are judged."""
    AWARDED = "awarded"
    OVER = "over"


class Lane(StrEnum):
    """What kind of request it is; each kind is in a line of its own."""

    WHOLE = "whole"
    SMALL = "small"
    BURST = "burst"


class Bid(Frozen):
    """A request, as far as a decision looks at it. Amounts are accelerators."""

    grant: str
    """organization/project/name."""
    lane: Lane = Lane.WHOLE
    sector: str = ""
    asked: Count
    least: Count = 0
    """A smaller part is of no use to it."""
    has: Count = 0
    """What it keeps, however it is decided."""
    score: float | None = None
    """None: nobody has judged it."""
    unmet: str = ""
    """The condition that it does not meet, whatever its score."""
    at: float = 0.0
    """When it was requested, in Unix seconds."""

    @property
    def organization(self) -> str:
        """Whose it is."""
        return self.grant.partition("/")[0]


class Award(Frozen):
    """What a decision gives one request, and why."""

    grant: str
    count: Count
    """Accelerators in all, with what it had."""
    rank: int = 0
    """Its place in its line; 0: it may have nothing."""
    reason: Reason
    tie: Reason | None = None
    """What decided between it and others of as many points."""


class Decision(Frozen):
    """One decision of an operator, with all that it was made of."""

    what: Literal["award", "again", "next", "burst"]
    by: str
    at: float
    """Unix seconds."""
    text: Text = ""
    had: Count = 0
    """Accelerators of that kind that there were then,"""
    promised: Count = 0
    """and what others were promised of them at most in that time."""
    rules: RoundSpec
    bids: tuple[Bid, ...]
    """By name."""
    digest: str
    """SHA-256 of rules and bids; the audit record of the decision has it too."""
    awards: tuple[Award, ...]
    """By line and rank."""


class RoundStatus(Condition):
    """What has become of it; control alone writes it."""

    phase: RoundPhase = RoundPhase.CALLED
    decisions: tuple[Decision, ...] = ()
    """Oldest first."""


class Round(Resource[RoundSpec, RoundStatus]):
    """Accelerators that are given out together, by one rule."""

    kind: ClassVar[str] = "round"
    scoped: ClassVar[bool] = False

    @property
    def closes(self) -> float:
        """Unix seconds from which no request is taken."""
        return day_of(self.spec.closes)

    @property
    def begins(self) -> float:
        """Unix seconds from which what it gives is held."""
        return day_of(self.spec.begins)

    @property
    def ends(self) -> float:
        """Unix seconds at which it is over."""
        return day_of(self.spec.until)
