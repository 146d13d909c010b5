"""grant: accelerators that a project is promised for a time, because somebody has judged its case.

requested -> reviewed -> active -> warned -> reclaimed | renewed | expired; a renewed one is given
as an active one is, and warned in its turn; a request may be refused at once. Whether it may have
any (eligibility) and how good it is (score) are two things, and each is told apart.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, ConfigDict, Field, Strict, WithJsonSchema, model_validator

from madang.errors import Unfit
from madang.resources.idle import IdleWatch, Reclaim
from madang.resources.month import day_of
from madang.resources.place import AcceleratorStart
from madang.resources.quota import ACCELERATORS_MAX, Count
from madang.resources.resource import Condition, Frozen, Name, Resource, Title

CRITERIA: dict[str, int] = {"effect": 40, "plan": 35, "need": 25}
"""What a card may give at most for each: what comes of it, whether it can be done, whether it can
be done without."""
CARDS_MAX = 64
TEXT_CHARS_MAX = 4000


def _check_day(written: str) -> str:
    day_of(written)
    return written


Day = Annotated[
    str, AfterValidator(_check_day), WithJsonSchema({"type": "string", "format": "date"})
]
"""As 2026-12-01; it begins at midnight in Seoul."""
Text = Annotated[str, Field(max_length=TEXT_CHARS_MAX, pattern=r"^[^\x00]*$")]


class GrantSpec(Frozen):
    """What is asked for, and why."""

    model_config = ConfigDict(serialize_by_alias=True)

    accelerator: AcceleratorStart
    count: Annotated[int, Field(ge=1, le=ACCELERATORS_MAX, strict=True)]
    begins: Day = Field(alias="from")
    until: Day
    """The first day on which it holds no more."""
    weight: float = Field(default=1.0, ge=0.01, le=100, allow_inf_nan=False)
    """What its project counts for beside its like, while it is active."""
    reclaim: Reclaim | None = None
    reason: Text = ""
    round: Name | None = None
    """The round that it applies to, and that then decides about it;"""
    sector: Name | None = None
    """as what its organization applies there."""
    least: Count = 0
    """In a round: a smaller part is of no use."""
    burst: Annotated[bool, Strict()] = False
    """In a round: for a short time, of what is idle."""

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if day_of(self.until) <= day_of(self.begins):
            raise Unfit("value.grant-days", begins=self.begins, until=self.until)
        if self.least > self.count:
            raise Unfit("value.grant-least", least=self.least, count=self.count)
        if self.round is None and (self.sector or self.least or self.burst):
            raise Unfit("value.grant-alone")
        return self


class GrantPhase(StrEnum):
    """Where a grant is; NEXT says which phase may follow which."""

    REQUESTED = "requested"
    REVIEWED = "reviewed"
    """At least one card counts; an approved one waits here for its first day."""
    ACTIVE = "active"
    WARNED = "warned"
    """Active, and soon over, or soon taken back."""
    RENEWED = "renewed"
    """Active, and for longer than it was first given for."""
    REFUSED = "refused"
    RECLAIMED = "reclaimed"
    EXPIRED = "expired"


_G = GrantPhase
NEXT: dict[GrantPhase, frozenset[GrantPhase]] = {
    _G.REQUESTED: frozenset({_G.REVIEWED, _G.REFUSED}),
    _G.REVIEWED: frozenset({_G.ACTIVE, _G.REFUSED, _G.RECLAIMED, _G.EXPIRED}),
    _G.ACTIVE: frozenset({_G.WARNED, _G.RENEWED, _G.RECLAIMED, _G.EXPIRED}),
    _G.WARNED: frozenset({_G.ACTIVE, _G.RENEWED, _G.RECLAIMED, _G.EXPIRED}),
    _G.RENEWED: frozenset({_G.WARNED, _G.RECLAIMED, _G.EXPIRED}),
    _G.REFUSED: frozenset({_G.REVIEWED}),  # of a round that is awarded again
    _G.RECLAIMED: frozenset(),
    _G.EXPIRED: frozenset(),
}
GIVEN = frozenset({_G.ACTIVE, _G.WARNED, _G.RENEWED})
"""Phases in which its project has it."""
OVER = frozenset({_G.REFUSED, _G.RECLAIMED, _G.EXPIRED})
"""Phases in which it promises nothing, and by itself never will."""


class Card(Frozen):
    """What one reviewer says: points, and which conditions it meets."""

    reviewer: str
    """`organization/name` of the user, or else the key."""
    organization: str = ""
    points: dict[Name, Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]] = {}
    """By criterion."""
    conflict: bool = False
    """Its reviewer is, or says to be, too near to the project: it counts for nothing."""
    unmet: Title = ""
    """The condition that the project does not meet; empty: it may have a grant."""
    note: Text = ""
    at: float = 0.0
    """Unix seconds."""
    own: bool = False
    """It counts although its reviewer is of the project's organization: nobody else could judge."""

    @property
    def total(self) -> float:
        """Return the sum of its points."""
        return math.fsum(self.points.values())


class Beyond(Frozen):
    """More is promised than there is."""

    kind: str
    """Of these accelerators, or of those whose kind begins so,"""
    there: int
    """there are so many,"""
    promised: int
    """and so many are promised at once, with what it is about."""


class Deed(Frozen):
    """Something that somebody did about it."""

    what: str
    """approve, award, decline, refuse, renew, reclaim, appeal; return: unused, by control."""
    by: str
    at: float
    text: Text = ""
    beyond: Beyond | None = None
    """Where more was promised by it than there was."""
    own: bool = False
    """It was given within the project's own organization: no operator of another one was known."""


class GrantStatus(Condition):
    """What has become of it; control alone writes it."""

    phase: GrantPhase = GrantPhase.REQUESTED
    cards: tuple[Card, ...] = ()
    """The newest of each reviewer, by name."""
    score: float | None = None
    """The mean of the cards that count;"""
    unmet: str = ""
    """and the condition that it does not meet, whatever its score; empty: none."""
    count: int = 0
    """So many were approved or awarded; 0: none yet."""
    until: str = ""
    """Where it was renewed: its last day now."""
    deeds: tuple[Deed, ...] = ()
    """Oldest first; appeals among them."""
    watch: IdleWatch | None = None
    """How much of it is used; None: nobody has looked, or nothing follows from it."""


class Grant(Resource[GrantSpec, GrantStatus]):
    """Accelerators that a project is promised for a time."""

    kind: ClassVar[str] = "grant"

    @property
    def counting(self) -> tuple[Card, ...]:
        """The cards that count."""
        return tuple(card for card in self.status.cards if not card.conflict)

    @property
    def unmet(self) -> str:
        """The condition that it does not meet, as the first card by name has it; empty: none."""
        return next((card.unmet for card in self.counting if card.unmet), "")

    @property
    def score(self) -> float | None:
        """The mean of the cards that count, the same in whatever order; None: there is none."""
        totals = [card.total for card in self.counting]
        return round(math.fsum(totals) / len(totals), 3) if totals else None

    @property
    def stands(self) -> bool:
        """Whether it promises something, now or from its first day on."""
        return self.status.count > 0 and self.status.phase not in OVER

    @property
    def begins(self) -> float:
        """Unix seconds at which it begins."""
        return day_of(self.spec.begins)

    @property
    def ends(self) -> float:
        """Unix seconds at which it ends."""
        return day_of(self.status.until or self.spec.until)
