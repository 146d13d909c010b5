"""What people do about grants: review, approve, refuse, renew, reclaim, decline, appeal.

One door for all. Any member of a project requests, by applying one, and may give it back; whoever
writes on the whole site reviews, but for projects of their own organization; only operators of the
site decide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from madang.control import steering
from madang.control.authority import allow
from madang.errors import Conflict, Forbidden, Rejected
from madang.planning.grants import told
from madang.resources.grant import CRITERIA, GIVEN, NEXT, Card, Day, Deed, Grant, GrantPhase, Text
from madang.resources.month import day_of
from madang.resources.resource import AnyResource, Frozen, Name, Reason, Title
from madang.resources.rights import Principal, Right

What = Literal["review", "approve", "refuse", "renew", "reclaim", "decline", "appeal"]
DEEDS_MAX = 100
DID = {
    "review": "grant.was-reviewed", "approve": "grant.was-approved", "refuse": "grant.was-refused",
    "renew": "grant.was-renewed", "reclaim": "grant.was-reclaimed", "appeal": "grant.was-appealed",
    "decline": "grant.was-declined",
}  # fmt: skip
"""What is told of each deed."""
G = GrantPhase


class Asked(Frozen):
    """What somebody does about a grant."""

    what: What
    points: dict[Name, float] = {}
    """By criterion, of a review."""
    conflict: bool = False
    unmet: Title = ""
    count: int = Field(default=0, ge=0, strict=True)
    """So many are approved; 0: all that were asked for."""
    until: Day | None = None
    """Of a renewal."""
    text: Text = ""


def granting(who: Principal, asked: Asked, now: Callable[[], float]) -> steering.Deed:
    """Do something about a grant."""

    def deed(grant: AnyResource) -> steering.Done:
        assert isinstance(grant, Grant)
        changed = act(who, grant, asked, now())
        return steering.Done((changed,), ((changed, DID[asked.what], {"text": asked.text}),))

    return deed


def act(who: Principal, grant: Grant, asked: Asked, now: float) -> Grant:
    """Return a grant as it is after somebody's deed; raises where that may not be."""
    subject = f"grant/{grant.name}"
    if asked.what in {"appeal", "decline"}:
        allow(who, Right.WRITE, grant.project, subject)
    elif asked.what == "review":
        allow(who, Right.WRITE, "", subject)
    else:
        allow(who, Right.OPERATE, "", subject)
    if len(grant.status.deeds) >= DEEDS_MAX:
        raise Rejected("grant.too-much", subject, limit=DEEDS_MAX)
    changed = _DEEDS[asked.what](who, grant, asked, now)
    if asked.what == "review":
        return changed
    deed = Deed(what=asked.what, by=who.user or who.actor, at=now, text=asked.text)
    done: Grant = changed.with_status(deeds=(*changed.status.deeds, deed))
    return done


def _in(grant: Grant, *phases: GrantPhase) -> None:
    if grant.status.phase not in phases:
        raise Conflict("grant.not-now", f"grant/{grant.name}", phase=grant.status.phase)


def _moved(grant: Grant, phase: GrantPhase, now: float, **status: Any) -> Grant:
    before = grant.status.phase
    assert phase is before or phase in NEXT[before], (before, phase)
    changed: Grant = grant.with_status(**status)
    moved: Grant = changed.with_status(phase=phase, reason=told(changed, phase), since=now)
    return moved


def _review(who: Principal, grant: Grant, asked: Asked, now: float) -> Grant:
    """Keep a card; of a reviewer who is too near to the project it counts for nothing.

    What a round has decided may be judged again: it changes nothing until that is awarded again.
    """
    again = (G.REFUSED,) if grant.spec.round else ()
    _in(grant, G.REQUESTED, G.REVIEWED, *again)
    subject = f"grant/{grant.name}"
    if grant.status.count and not grant.spec.round:
        raise Conflict("grant.decided", subject)
    for name, points in asked.points.items():
        if not 0 <= points <= CRITERIA.get(name, -1):
            known = ", ".join(f"{key} 0..{most}" for key, most in CRITERIA.items())
            raise Rejected("grant.points", subject, criterion=name, points=points, known=known)
    organization = (who.user or who.project).partition("/")[0]
    is_near = organization == grant.project.partition("/")[0] and bool(who.user)
    card = Card(
        reviewer=who.user or who.actor, organization=organization, points=asked.points,
        conflict=asked.conflict or is_near, unmet=asked.unmet, note=asked.text, at=now,
    )  # fmt: skip
    others = [each for each in grant.status.cards if each.reviewer != card.reviewer]
    cards = tuple(sorted([*others, card], key=lambda each: each.reviewer))
    counts = any(not each.conflict for each in cards)
    judged: Grant = grant.with_status(cards=cards)
    phase = G.REVIEWED if counts else G.REQUESTED
    phase = grant.status.phase if grant.status.phase is G.REFUSED else phase
    return _moved(judged, phase, now, score=judged.score, unmet=judged.unmet)


def _approve(who: Principal, grant: Grant, asked: Asked, now: float) -> Grant:
    _in(grant, G.REVIEWED)
    subject = f"grant/{grant.name}"
    if grant.spec.round:
        raise Conflict("grant.by-round", subject, round=grant.spec.round)
    if who.user and any(card.conflict and card.reviewer == who.user for card in grant.status.cards):
        raise Forbidden("grant.conflict", subject, project=grant.project)
    if grant.unmet:
        raise Rejected("grant.ineligible", subject, unmet=grant.unmet)
    if grant.status.count:
        raise Conflict("grant.decided", subject)
    if asked.count > grant.spec.count:
        raise Rejected("grant.too-many", subject, count=asked.count, asked=grant.spec.count)
    if grant.ends <= now:
        raise Rejected("grant.over", subject, until=grant.spec.until)
    return _moved(grant, G.REVIEWED, now, count=asked.count or grant.spec.count)


def _refuse(_who: Principal, grant: Grant, _asked: Asked, now: float) -> Grant:
    _in(grant, G.REQUESTED, G.REVIEWED)
    return _moved(grant, G.REFUSED, now, count=0)


def _renew(_who: Principal, grant: Grant, asked: Asked, now: float) -> Grant:
    _in(grant, *GIVEN)
    if grant.spec.burst:
        raise Rejected("grant.short", f"grant/{grant.name}")
    if asked.until is None or day_of(asked.until) <= max(now, grant.ends):
        until = grant.status.until or grant.spec.until
        raise Rejected("grant.no-longer", f"grant/{grant.name}", until=until)
    return _moved(grant, G.RENEWED, now, until=asked.until)


def _reclaim(_who: Principal, grant: Grant, _asked: Asked, now: float) -> Grant:
    _in(grant, *GIVEN)
    return _moved(grant, G.RECLAIMED, now)


def _decline(_who: Principal, grant: Grant, _asked: Asked, now: float) -> Grant:
    """Give back what was given: it is the next one's in line."""
    if not grant.stands:
        raise Conflict("grant.not-now", f"grant/{grant.name}", phase=grant.status.phase)
    declined: Grant = _moved(grant, G.RECLAIMED, now).with_status(
        reason=Reason(code="grant.declined")
    )
    return declined


def _appeal(_who: Principal, grant: Grant, asked: Asked, _now: float) -> Grant:
    """Keep what is said against a decision; what becomes of it is for people to say."""
    if not asked.text:
        raise Rejected("grant.no-text", f"grant/{grant.name}")
    return grant


_DEEDS: dict[str, Callable[[Principal, Grant, Asked, float], Grant]] = {
    "review": _review, "approve": _approve, "refuse": _refuse, "renew": _renew,
    "reclaim": _reclaim, "decline": _decline, "appeal": _appeal,
}  # fmt: skip


def check_request(before: AnyResource | None, after: Grant, subject: str) -> None:
    """Refuse another spec for a grant that somebody has begun to judge."""
    is_new = before is None or before.status.phase is G.REQUESTED
    if not is_new and before is not None and before.spec != after.spec:
        raise Conflict("grant.fixed", subject)
