"""What people do about grants: review, approve, refuse, renew, reclaim, decline, appeal.

One door for all. Any member of a project requests, by applying one, and may give it back; whoever
writes on the whole site reviews, but for projects of their own organization; only operators of the
site decide, and none of that organization gives or prolongs. Where nobody of another organization
could, they do so on record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from pydantic import Field

from madang.control import steering
from madang.control.authority import allow
from madang.control.world import World
from madang.errors import Conflict, Forbidden, Rejected
from madang.planning.grants import Around, told
from madang.resources.grant import (
    CRITERIA,
    GIVEN,
    NEXT,
    Beyond,
    Card,
    Day,
    Deed,
    Grant,
    GrantPhase,
    Text,
)
from madang.resources.month import day_of
from madang.resources.resource import AnyResource, Frozen, Name, Reason, Title
from madang.resources.rights import CONTROL, Principal, Right
from madang.resources.tenancy import User

What = Literal["review", "approve", "refuse", "renew", "reclaim", "decline", "appeal"]
DEEDS_MAX = 100
DID = {
    "review": "grant.was-reviewed", "approve": "grant.was-approved", "refuse": "grant.was-refused",
    "renew": "grant.was-renewed", "reclaim": "grant.was-reclaimed", "appeal": "grant.was-appealed",
    "decline": "grant.was-declined",
}  # fmt: skip
"""What is told of each deed,"""
WITHIN = {
    "review": "grant.was-reviewed-within", "approve": "grant.was-approved-within",
    "renew": "grant.was-renewed-within",
}  # fmt: skip
"""and of what is done within one's own organization."""
KNOWN = ", ".join(f"{key} 0..{most}" for key, most in CRITERIA.items())
G = GrantPhase


class Asked(Frozen):
    """What somebody does about a grant."""

    what: What
    points: dict[Name, float] = {}
    """By criterion, of a review."""
    conflict: bool = False
    unmet: Title = ""
    count: int | None = Field(default=None, ge=1, strict=True)
    """So many are approved; None: all that were asked for."""
    overcommit: bool = False
    """Promise them although there are not so many; that is kept with the numbers."""
    own: bool = False
    """Judge or give within one's own organization, since nobody of another one could; that is kept
    with it, and says why."""
    until: Day | None = None
    """Of a renewal."""
    text: Text = ""


def granting(who: Principal, asked: Asked, world: World) -> steering.Deed:
    """Do something about a grant."""

    def deed(grant: AnyResource) -> steering.Done:
        assert isinstance(grant, Grant)
        around = around_of(world)
        changed = act(who, grant, asked, world.clock.now(), around)
        did = (WITHIN if is_within(who, grant, asked, around) else DID)[asked.what]
        return steering.Done((changed,), ((changed, did, {"text": asked.text}),))

    return deed


def around_of(world: World) -> Around:
    """Return what is promised, and what there is to promise."""
    grants = [each for each in world.list(CONTROL, "grant").values() if isinstance(each, Grant)]
    cards = world.list(CONTROL, "accelerator").values()
    users = [each for each in world.list(CONTROL, "user").values() if isinstance(each, User)]
    return Around(grants, [card.spec.accelerator for card in cards], users)


def act(who: Principal, grant: Grant, asked: Asked, now: float, around: Around) -> Grant:
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
    within = is_within(who, grant, asked, around)
    if asked.what == "review":
        return _review(who, grant, asked, now, within=within)
    changed = _DEEDS[asked.what](who, grant, asked, now)
    beyond = _beyond(changed, asked, now, around)
    deed = Deed(
        what=asked.what, by=who.name, at=now, text=asked.text, beyond=beyond, own=within
    )  # fmt: skip
    done: Grant = changed.with_status(deeds=(*changed.status.deeds, deed))
    return done


def _beyond(grant: Grant, asked: Asked, now: float, around: Around) -> Beyond | None:
    """Return what is promised beyond what there is; refused but for who says that it may be."""
    if asked.what not in {"approve", "renew"}:
        return None
    found = around.beyond(grant, now)
    if found and not asked.overcommit:
        left = max(0, grant.status.count - (found.promised - found.there))
        raise Conflict(
            "grant.beyond", f"grant/{grant.name}", kind=found.kind, there=found.there,
            promised=found.promised, left=left,
        )  # fmt: skip
    return found


def is_within(who: Principal, grant: Grant, asked: Asked, around: Around) -> bool:
    """Tell whether somebody judges or gives within their own organization; raises if not allowed.

    Who has said to be near gives nothing. Others do where nobody of another organization could, and
    say why.
    """
    subject = f"grant/{grant.name}"
    is_own = who.user.partition("/")[0] == grant.project.partition("/")[0]
    has_said = any(card.conflict and card.reviewer == who.name for card in grant.status.cards)
    gives = asked.what in {"approve", "renew"}
    if gives and (has_said or (is_own and not asked.own)):
        raise Forbidden("grant.conflict", subject, project=grant.project)
    if not (is_own and asked.own and (gives or asked.what == "review")):
        return False
    right = Right.OPERATE if gives else Right.WRITE
    if other := _other(grant, right, around.users):
        raise Forbidden("grant.others-can", subject, user=other, project=grant.project)
    if not asked.text:
        raise Rejected("grant.own-text", subject)
    return True


def _other(grant: Grant, right: Right, users: Iterable[User]) -> str:
    """Return a user of another organization who has a right on the whole site, and is not near."""
    near = {card.reviewer for card in grant.status.cards if card.conflict}
    own = grant.project.partition("/")[0]
    names = (
        f"{user.project}/{user.name}" for user in users
        if user.project != own
        and any(not each.where and right in each.rights for each in user.spec.grants())
    )  # fmt: skip
    return min((name for name in names if name not in near), default="")


def _in(grant: Grant, *phases: GrantPhase) -> None:
    if grant.status.phase not in phases:
        raise Conflict("grant.not-now", f"grant/{grant.name}", phase=grant.status.phase)


def _moved(grant: Grant, phase: GrantPhase, now: float, **status: Any) -> Grant:
    before = grant.status.phase
    assert phase is before or phase in NEXT[before], (before, phase)
    changed: Grant = grant.with_status(**status)
    moved: Grant = changed.with_status(phase=phase, reason=told(changed, phase), since=now)
    return moved


def _review(
    who: Principal, grant: Grant, asked: Asked, now: float, *, within: bool
) -> Grant:  # fmt: skip
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
            raise Rejected("grant.points", subject, criterion=name, points=points, known=KNOWN)
    if not (asked.points or asked.conflict or asked.unmet):
        raise Rejected("grant.no-points", subject, known=KNOWN)
    organization = (who.user or who.project).partition("/")[0]
    is_near = bool(who.user) and organization == grant.project.partition("/")[0] and not within
    card = Card(
        reviewer=who.name, organization=organization, points=asked.points,
        conflict=asked.conflict or is_near, unmet=asked.unmet, note=asked.text, at=now, own=within,
    )  # fmt: skip
    others = [each for each in grant.status.cards if each.reviewer != card.reviewer]
    cards = tuple(sorted([*others, card], key=lambda each: each.reviewer))
    judged: Grant = grant.with_status(cards=cards)
    counts = judged.counting and grant.status.phase is not G.REFUSED
    phase = G.REVIEWED if counts else grant.status.phase
    return _moved(judged, phase, now, score=judged.score, unmet=judged.unmet)


def _approve(_who: Principal, grant: Grant, asked: Asked, now: float) -> Grant:
    _in(grant, G.REVIEWED)
    subject = f"grant/{grant.name}"
    if grant.spec.round:
        raise Conflict("grant.by-round", subject, round=grant.spec.round)
    if not grant.counting:
        raise Conflict("grant.unreviewed", subject)
    if grant.unmet:
        raise Rejected("grant.ineligible", subject, unmet=grant.unmet)
    if grant.status.count:
        raise Conflict("grant.decided", subject)
    count = grant.spec.count if asked.count is None else asked.count
    if count > grant.spec.count:
        raise Rejected("grant.too-many", subject, count=count, asked=grant.spec.count)
    if grant.ends <= now:
        raise Rejected("grant.over", subject, until=grant.spec.until)
    return _moved(grant, G.REVIEWED, now, count=count)


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
    "approve": _approve, "refuse": _refuse, "renew": _renew,
    "reclaim": _reclaim, "decline": _decline, "appeal": _appeal,
}  # fmt: skip


def check_request(before: AnyResource | None, after: Grant, subject: str, now: float) -> None:
    """Refuse days that are over, and another spec for a grant that somebody has begun to judge."""
    if before is not None and before.spec == after.spec:
        return
    if after.ends <= now:
        raise Rejected("grant.over", subject, until=after.spec.until)
    is_new = before is None or before.status.phase is G.REQUESTED
    if not is_new:
        raise Conflict("grant.fixed", subject)
