"""The life of grants, by the clock; and what their projects are promised while they have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from madang.errors import Value
from madang.planning.action import Action, Verb
from madang.planning.ask import of_kind
from madang.planning.snapshot import Snapshot
from madang.resources.grant import CRITERIA, GIVEN, NEXT, Beyond, Deed, Grant, GrantPhase
from madang.resources.resource import Reason
from madang.resources.tenancy import User

WARNED_S = 14 * 86_400.0
"""So long before its end it is said that a grant ends."""
G = GrantPhase


def plan_grants(snapshot: Snapshot) -> Iterator[Action]:
    """Return the next phase of each grant for which it is time."""
    for _, grant in sorted(snapshot.grants.items()):
        phase = due(grant, snapshot.now)
        if phase is not grant.status.phase:
            reason = told(grant, phase)
            assert phase in NEXT[grant.status.phase], (grant.status.phase, phase)
            moved: Grant = grant.with_status(phase=phase, reason=reason, since=snapshot.now)
            yield Action(Verb.STATUS_GRANT, grant, reason, (moved,))


def due(grant: Grant, now: float) -> GrantPhase:
    """Return the phase in which a grant is at that moment."""
    phase = grant.status.phase
    if phase not in {G.REVIEWED, *GIVEN} or not (grant.status.count or grant.spec.round):
        return phase
    if now >= grant.ends:
        return G.EXPIRED
    if now < grant.begins or not grant.status.count:
        return phase
    is_late = now >= grant.ends - WARNED_S and phase is not G.REVIEWED
    return G.WARNED if is_late else G.ACTIVE if phase is G.REVIEWED else phase


def told(grant: Grant, phase: GrantPhase) -> Reason:
    """Say what a phase means for a grant; before it has begun, what its round has decided."""
    by_round = grant.status.reason if phase in {G.REVIEWED, G.REFUSED} else None
    if by_round and phase is grant.status.phase and by_round.code.startswith("round."):
        return by_round
    values: dict[str, Value] = {
        "count": grant.status.count, "kind": grant.spec.accelerator, "begins": grant.spec.begins,
        "until": grant.status.until or grant.spec.until,
    }  # fmt: skip
    code = PHASES[phase]
    if phase is G.REVIEWED and not grant.counting:
        code = PHASES[G.REQUESTED]
    elif phase is G.REVIEWED and grant.status.count:
        code = "grant.approved"
    return Reason(code=code, values=values)


PHASES = {
    G.REQUESTED: "grant.requested", G.REVIEWED: "grant.reviewed", G.ACTIVE: "grant.active",
    G.WARNED: "grant.warned", G.RENEWED: "grant.renewed", G.REFUSED: "grant.refused",
    G.RECLAIMED: "grant.reclaimed", G.EXPIRED: "grant.expired",
}  # fmt: skip


def wake_s(snapshot: Snapshot) -> float | None:
    """Return the seconds until some grant is in another phase by itself."""
    due_at = [
        at for grant in snapshot.grants.values() if grant.status.count or grant.spec.round
        for at in (grant.begins, grant.ends - WARNED_S, grant.ends) if at > snapshot.now
    ]  # fmt: skip
    return min(due_at) - snapshot.now if due_at else None


def guaranteed(snapshot: Snapshot) -> Mapping[str, Mapping[str, int]]:
    """Return what each project is promised now: accelerators by the start of their kind."""
    found: dict[str, Counter[str]] = {}
    for grant in given(snapshot):
        found.setdefault(grant.project, Counter())[grant.spec.accelerator] += grant.status.count
    return found


def weights(snapshot: Snapshot) -> Mapping[str, float]:
    """Return what projects count for that do not count for 1: by quota, times their best grant."""
    found = {quota.project: quota.spec.weight for quota in snapshot.quotas.values()}
    best: dict[str, float] = {}
    for grant in given(snapshot):
        best[grant.project] = max(best.get(grant.project, 0.0), grant.spec.weight)
    both = {**found, **{place: found.get(place, 1.0) * more for place, more in best.items()}}
    return {place: weight for place, weight in both.items() if "/" in place and weight != 1}


def given(snapshot: Snapshot) -> Iterator[Grant]:
    """Return the grants that projects have now."""
    return (each for each in snapshot.grants.values() if each.status.phase in GIVEN)


@dataclass(frozen=True, slots=True)
class Around:
    """What a decision about one grant has to reckon with."""

    grants: Sequence[Grant]
    """All that there are, itself included;"""
    kinds: Sequence[str]
    """of each accelerator its kind;"""
    users: Sequence[User] = ()
    """and who could decide."""

    def beyond(self, grant: Grant, since: float) -> Beyond | None:
        """Return where more would be promised than there is, at any moment of a grant from then on.

        Kinds begin one another as branches do: so nothing is promised twice if, of each start of
        its kind that somebody has named, no more is promised than there is.
        """
        own = grant.spec.accelerator
        beside = [each for each in self.grants if each.ref != grant.ref and is_promised(each)]
        starts = {own, *(each.spec.accelerator for each in beside)}
        for start in sorted(each for each in starts if of_kind(own, each)):
            there = sum(of_kind(kind, start) for kind in self.kinds)
            rivals = [each for each in beside if of_kind(each.spec.accelerator, start)]
            promised = grant.status.count + _most_at_once(
                rivals, max(since, grant.begins), grant.ends
            )
            if promised > there:
                return Beyond(kind=start, there=there, promised=promised)
        return None


def is_promised(grant: Grant) -> bool:
    """Tell whether its project has it, or is to have it."""
    return bool(grant.status.count) and grant.status.phase in {G.REVIEWED, *GIVEN}


def _most_at_once(grants: Sequence[Grant], begins: float, ends: float) -> int:
    """Return the most that these promise at one moment of that time."""
    moments = [begins, *(each.begins for each in grants if begins < each.begins < ends)]
    return max(
        sum(each.status.count for each in grants if each.begins <= at < each.ends)
        for at in moments
    )  # fmt: skip


def findings(grant: Grant) -> Iterator[Reason]:
    """Recompute from what is stored how a grant came to be what it is, step by step."""
    spec, status = grant.spec, grant.status
    for card in status.cards:
        points = ", ".join(f"{key} {card.points.get(key, 0):g}/{CRITERIA[key]}" for key in CRITERIA)
        values: dict[str, Value] = {
            "reviewer": card.reviewer, "points": points, "total": round(card.total, 3),
            "unmet": card.unmet,
        }  # fmt: skip
        code = "grant.card-conflict" if card.conflict else "grant.card"
        yield Reason(code=code, values=values)
        if card.unmet and not card.conflict:
            yield Reason(code="grant.unmet", values=values)
        if card.own:
            yield Reason(code="grant.within", values={"by": card.reviewer, "text": card.note})
    if grant.score is not None:
        values = {"score": grant.score, "cards": len(grant.counting)}
        yield Reason(code="grant.score", values=values)
    for deed in status.deeds:
        values = {"by": deed.by, "text": deed.text, "count": status.count, "asked": spec.count}
        yield Reason(code=DEEDS[deed.what], values=values)
        if deed.own:
            yield Reason(code="grant.within", values={"by": deed.by, "text": deed.text})
        yield from _exceeded(deed)


def _exceeded(deed: Deed) -> Iterator[Reason]:
    """Say that more was promised than there was."""
    if deed.beyond:
        values: dict[str, Value] = {**deed.beyond.model_dump()}
        yield Reason(code="grant.deed-beyond", values=values)


DEEDS = {
    "approve": "grant.deed-approve", "refuse": "grant.deed-refuse", "renew": "grant.deed-renew",
    "reclaim": "grant.deed-reclaim", "return": "grant.deed-return", "appeal": "grant.deed-appeal",
    "award": "grant.deed-award", "decline": "grant.deed-decline",
}  # fmt: skip
