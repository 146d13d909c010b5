"""What people do about rounds: apply to one, close it, award it, give on what came back.

Any member of a project applies, by a grant that names the round; only operators of the site decide,
and nothing is given by the clock. What a decision changes is one commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal

from pydantic import Strict

from madang.control import steering
from madang.control.authority import allow
from madang.control.world import World
from madang.errors import Conflict, Forbidden, NotFound, Rejected, Value
from madang.planning.rounds.calls import What, applied, bids_for, due, full_name, lane_of, there
from madang.planning.rounds.rounds import DECIDES, decide, digest_of
from madang.planning.snapshot import Snapshot
from madang.resources.grant import GIVEN, Deed, Grant, GrantPhase, Text
from madang.resources.month import DAY_S, day_of
from madang.resources.resource import AnyResource, Frozen, Reason, Ref
from madang.resources.rights import CONTROL, Principal, Right
from madang.resources.round import (
    DECISIONS_MAX,
    Award,
    Bid,
    Decision,
    Lane,
    Round,
    RoundPhase,
)

R, G = RoundPhase, GrantPhase
Flag = Annotated[bool, Strict()]
DID = {
    "close": "round.was-closed", "award": "round.was-awarded", "again": "round.was-awarded-again",
    "next": "round.was-given-on", "burst": "round.was-lent",
}  # fmt: skip
"""What is told of each deed."""


class RoundAsked(Frozen):
    """What an operator does about a round."""

    what: Literal["close", "award", "next", "burst"]
    dry_run: Flag = False
    """Only say what would come of it."""
    again: Flag = False
    """Decide anew, after an appeal."""
    overcommit: Flag = False
    """Give also what is not there, or promised to others."""
    text: Text = ""


def rounding(who: Principal, asked: RoundAsked, now: Callable[[], Snapshot]) -> steering.Deed:
    """Do something about a round: all that a decision changes is one commit."""

    def deed(found: AnyResource) -> steering.Done:
        assert isinstance(found, Round)
        moved, grants = act(who, found, asked, now())
        made = moved.status.decisions[len(found.status.decisions) :]
        values: dict[str, Value] = {"text": asked.text, "digest": made[0].digest if made else "-"}
        told = [(moved, DID[made[0].what if made else "close"], values)]
        return steering.Done(
            (moved, *grants), (*told, *(_of_award(each, found.name) for each in grants))
        )

    return deed


def _of_award(grant: Grant, name: str) -> tuple[Grant, str, dict[str, Value]]:
    return grant, "grant.was-awarded", {"count": grant.status.count, "round": name}


def act(
    who: Principal, found: Round, asked: RoundAsked, snapshot: Snapshot
) -> tuple[Round, tuple[Grant, ...]]:
    """Return a round as it is after an operator's deed, with its grants; raises if it may not be.

    A dry run is told also where units are missing, with the numbers.
    """
    subject = f"round/{found.name}"
    allow(who, Right.OPERATE, "", subject)
    if asked.what == "close":
        return _closed(found, snapshot.now), ()
    what = _ready(who, found, asked, snapshot)
    bids = bids_for(found, what, snapshot)
    awards = decide(found.spec, bids, what)
    had, promised = there(found, snapshot)
    if not (asked.dry_run or asked.overcommit):
        _check_there(subject, bids, awards, (had, promised))
    decision = Decision(
        what=what, by=who.name, at=snapshot.now, text=asked.text, had=had,
        promised=promised, rules=found.spec, bids=bids, digest=digest_of(found.spec, bids),
        awards=awards,
    )  # fmt: skip
    moved: Round = found.with_status(
        phase=R.AWARDED, decisions=(*found.status.decisions, decision),
        reason=Reason(code="round.awarded"), since=snapshot.now,
    )  # fmt: skip
    return moved, tuple(_given(found.name, decision, snapshot))


def _closed(found: Round, now: float) -> Round:
    if due(found, now) is not R.CALLED:
        raise Conflict("round.not-now", f"round/{found.name}", phase=due(found, now))
    closed: Round = found.with_status(
        phase=R.CLOSED, reason=Reason(code="round.closed"), since=now
    )  # fmt: skip
    return closed


def _ready(who: Principal, found: Round, asked: RoundAsked, snapshot: Snapshot) -> What:
    """Return which decision it is, if it may be made now."""
    assert asked.what != "close"
    what: What = "again" if asked.again and asked.what == "award" else asked.what
    subject, phase = f"round/{found.name}", due(found, snapshot.now)
    if phase is R.CALLED:
        raise Conflict("round.still-open", subject, closes=found.spec.closes, name=found.name)
    if what == "award" and phase is R.AWARDED:
        raise Conflict("round.awarded-already", subject, name=found.name)
    if phase is not (R.CLOSED if what == "award" else R.AWARDED):
        raise Conflict("round.not-now", subject, phase=phase)
    if what == "again" and not asked.text:
        raise Rejected("round.no-text", subject)
    if len(found.status.decisions) >= DECISIONS_MAX:
        raise Rejected("round.too-much", subject, limit=DECISIONS_MAX)
    near = _too_near(who.name, applied(found.name, snapshot))
    if near:
        raise Forbidden("round.conflict", subject, grant=near)
    return what


def _too_near(name: str, grants: Iterable[Grant]) -> str:
    """Return the first request of which somebody has said, or is known, to be too near to it."""
    return next(
        (full_name(each) for each in grants for card in each.status.cards
         if card.conflict and card.reviewer == name), "",
    )  # fmt: skip


def _check_there(
    subject: str, bids: Iterable[Bid], awards: Iterable[Award], known: tuple[int, int]
) -> None:
    """Refuse to give more than is there and not promised to others."""
    had, promised = known
    counts = {bid.grant: bid.has for bid in bids} | {each.grant: each.count for each in awards}
    wants, before = sum(counts.values()), sum(bid.has for bid in bids)
    if wants > had - promised and wants > before:
        raise Conflict(
            "round.overcommit", subject, wants=wants, had=had, promised=promised,
            missing=wants - had + promised,
        )  # fmt: skip


def _given(name: str, decision: Decision, snapshot: Snapshot) -> Iterable[Grant]:
    """Return the grants that a decision changes, as they are then."""
    grants = {full_name(each): each for each in applied(name, snapshot)}
    ranked = DECIDES[decision.what]
    lanes = {bid.grant: bid.lane for bid in decision.bids}
    assert all(lanes[award.grant] in ranked for award in decision.awards)
    for award in decision.awards:
        grant = grants[award.grant]
        phase = _phase(grant, award)
        same = (grant.status.count, grant.status.phase) == (award.count, phase)
        if same and decision.what in {"next", "burst"}:
            continue
        deed = Deed(what="award", by=decision.by, at=decision.at, text=name)
        is_given = phase in GIVEN
        changed: Grant = grant.with_status(
            count=award.count, phase=phase, deeds=(*grant.status.deeds, deed),
            reason=grant.status.reason if is_given else award.reason,
            since=grant.status.since if is_given else decision.at,
        )  # fmt: skip
        yield changed


def _phase(grant: Grant, award: Award) -> GrantPhase:
    """Return where a grant is after a decision; who may have nothing is refused."""
    if grant.status.phase in GIVEN:
        return grant.status.phase
    return G.REVIEWED if award.rank else G.REFUSED


def check_applied(
    before: AnyResource | None, after: AnyResource, coming: Sequence[AnyResource], world: World
) -> None:
    """Refuse other rules for a round that has closed, and requests that their round won't take.

    `coming` is what comes along with it.
    """
    now = world.clock.now()
    if before is not None and before.spec == after.spec:
        return
    if isinstance(before, Round) and due(before, now) is not R.CALLED:
        raise Conflict("round.fixed", f"round/{after.name}")
    if isinstance(after, Grant) and after.spec.round:
        ref = Ref("", after.spec.round)
        along = (each for each in coming if isinstance(each, Round) and each.ref == ref)
        found = next(along, world.get(CONTROL, Round, ref))
        if found is None:
            raise NotFound("round.missing", f"grant/{after.name}", name=ref.name)
        check_entry(after, found, now)
        others = {**world.list(CONTROL, "grant"), **{each.ref: each for each in coming}}
        _check_sector(after, [each for each in others.values() if each.ref != after.ref])


def check_entry(grant: Grant, found: Round, now: float) -> None:
    """Refuse a request that its round does not take."""
    subject, spec = f"grant/{grant.name}", grant.spec
    rules, phase = found.spec, due(found, now)
    if phase is R.OVER or (phase is not R.CALLED and not spec.burst):
        raise Conflict("round.takes-none", subject, name=found.name, phase=phase)
    if spec.accelerator != rules.accelerator:
        raise Rejected("round.other-kind", subject, kind=rules.accelerator)
    if day_of(spec.begins) < day_of(rules.begins) or day_of(spec.until) > day_of(rules.until):
        raise Rejected("round.days", subject, begins=rules.begins, until=rules.until)
    if spec.weight != 1:
        raise Rejected("round.weight", subject)
    if (spec.sector or "") not in (rules.floors or {"": 0}):
        raise Rejected("round.sector", subject, known=", ".join(sorted(rules.floors)) or "-")
    if lane_of(grant, rules) is not Lane.SMALL and spec.count % rules.unit:
        raise Rejected("round.units", subject, unit=rules.unit)
    if spec.burst and rules.bursts is None:
        raise Rejected("round.no-bursts", subject, name=found.name)
    if spec.burst and rules.bursts and grant.ends - grant.begins > rules.bursts.days * DAY_S:
        raise Rejected("round.burst-long", subject, days=rules.bursts.days)


def _check_sector(grant: Grant, others: Iterable[AnyResource]) -> None:
    """Refuse a second sector for an organization: it applies as one thing."""
    organization = grant.project.partition("/")[0]
    for each in others:
        is_own = isinstance(each, Grant) and each.project.partition("/")[0] == organization
        if is_own and each.spec.round == grant.spec.round and each.spec.sector != grant.spec.sector:
            sector = each.spec.sector or "-"
            raise Conflict("round.two-sectors", f"grant/{grant.name}", sector=sector)
