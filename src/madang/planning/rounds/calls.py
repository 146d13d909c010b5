"""What rounds are decided on, when they close and end, and what is told of them to whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

from madang.errors import Value
from madang.planning.action import Action, Verb
from madang.planning.ask import of_kind
from madang.planning.rounds.rounds import gate, holds
from madang.planning.snapshot import Snapshot
from madang.resources.grant import GIVEN, OVER, Grant, GrantPhase
from madang.resources.resource import Frozen, Reason, Ref
from madang.resources.round import Award, Bid, Decision, Lane, Round, RoundPhase, RoundSpec

What = Literal["award", "again", "next", "burst"]
R = RoundPhase


def plan_rounds(snapshot: Snapshot) -> Iterator[Action]:
    """Close each round for which it is time, and end it: all that the clock does about it."""
    for _, found in sorted(snapshot.rounds.items()):
        phase = due(found, snapshot.now)
        if phase is not found.status.phase:
            reason = Reason(code=PHASES[phase])
            moved: Round = found.with_status(phase=phase, reason=reason, since=snapshot.now)
            yield Action(Verb.STATUS_ROUND, found, reason, (moved,))


def due(found: Round, now: float) -> RoundPhase:
    """Return the phase in which a round is at that moment."""
    if now >= found.ends:
        return R.OVER
    return (
        R.CLOSED if found.status.phase is R.CALLED and now >= found.closes else found.status.phase
    )


PHASES = {
    R.CALLED: "round.called", R.CLOSED: "round.closed", R.AWARDED: "round.awarded",
    R.OVER: "round.over",
}  # fmt: skip


def wake_s(snapshot: Snapshot) -> float | None:
    """Return the seconds until some round is in another phase by itself."""
    due_at = [at for each in snapshot.rounds.values() for at in (each.closes, each.ends)
              if at > snapshot.now]  # fmt: skip
    return min(due_at) - snapshot.now if due_at else None


def full_name(grant: Grant) -> str:
    """Return by what a round knows a grant."""
    return f"{grant.project}/{grant.name}"


def applied(name: str, snapshot: Snapshot) -> list[Grant]:
    """Return the grants that apply to a round, by name."""
    found = (each for each in snapshot.grants.values() if each.spec.round == name)
    return sorted(found, key=full_name)


def lane_of(grant: Grant, rules: RoundSpec) -> Lane:
    """Return the line that a request stands in."""
    if grant.spec.burst:
        return Lane.BURST
    is_small = rules.small is not None and grant.spec.count <= rules.small.up_to
    return Lane.SMALL if is_small else Lane.WHOLE


def bids_for(found: Round, what: What, snapshot: Snapshot) -> tuple[Bid, ...]:
    """Return what a decision is made of, by name.

    Who is next in line, is so by the scores of the last award: another order takes another award.
    """
    grants = [each for each in applied(found.name, snapshot) if not _is_out(each)]
    fresh = {full_name(each): bid_of(each, found.spec, what) for each in grants}
    stands = {full_name(each) for each in grants if each.stands}
    if what == "burst":
        waits = {full_name(each) for each in grants if each.status.phase is GrantPhase.REVIEWED}
        return tuple(bid for name, bid in fresh.items() if name in stands
                     or (bid.lane is Lane.BURST and name in waits))  # fmt: skip
    lent = [bid for name, bid in fresh.items() if bid.lane is Lane.BURST and name in stands]
    ours = [bid for bid in fresh.values() if bid.lane is not Lane.BURST]
    if what == "next":
        known = dict(_ranked(awarded(found)))
        ours = [known[bid.grant].model_copy(update={"has": bid.has, "asked": bid.asked})
                for bid in ours if bid.grant in known]  # fmt: skip
    return tuple(sorted([*lent, *ours], key=lambda bid: bid.grant))


def _ranked(decision: Decision | None) -> Iterator[tuple[str, Bid]]:
    """Return the requests that a decision found might have something, by name."""
    if decision:
        yield from ((b.grant, b) for b in decision.bids if not gate(decision.rules, b))


def _is_out(grant: Grant) -> bool:
    """Tell whether a request is none any more: given back, taken back, over, refused by hand."""
    by_hand = any(deed.what == "refuse" for deed in grant.status.deeds)
    return by_hand or grant.status.phase in OVER - {GrantPhase.REFUSED}


def bid_of(grant: Grant, rules: RoundSpec, what: What) -> Bid:
    """Return a request as a decision looks at it.

    An award may take back what has not begun, and nothing that has. Who has given back what lay
    unused asks for no more than is left.
    """
    spec, status = grant.spec, grant.status
    lane = lane_of(grant, rules)
    is_fresh = what in {"award", "again"} and lane is not Lane.BURST
    keeps = status.phase in GIVEN if is_fresh else grant.stands
    gave_back = keeps and any(deed.what == "return" for deed in status.deeds)
    asked = status.count if gave_back else spec.count
    return Bid(
        grant=full_name(grant), lane=lane, sector=spec.sector or "", asked=asked,
        least=min(spec.least, asked), has=status.count if keeps else 0, score=grant.score,
        unmet=grant.unmet, at=grant.created_at,
    )  # fmt: skip


def awarded(found: Round) -> Decision | None:
    """Return the last decision that was made of all requests."""
    whole = [each for each in found.status.decisions if each.what in {"award", "again"}]
    return whole[-1] if whole else None


def there(found: Round, snapshot: Snapshot) -> tuple[int, int]:
    """Return how many accelerators of a round's kind there are, and what others were promised.

    That is what they have at most at once, from the round's first day to its last.
    """
    kind = found.spec.accelerator
    had = sum(of_kind(each.spec.accelerator, kind) for each in snapshot.accelerators.values())
    others = [
        each for each in snapshot.grants.values()
        if each.stands and each.spec.round != found.name and _meet(each.spec.accelerator, kind)
    ]  # fmt: skip
    begins = found.begins
    starts = {max(begins, each.begins) for each in others if each.begins < found.ends}
    at_once = [
        sum(each.status.count for each in others if each.begins <= at < each.ends) for at in starts
    ]
    return had, max(at_once, default=0)


def _meet(kind: str, other: str) -> bool:
    return of_kind(kind, other) or of_kind(other, kind)


class Row(Frozen):
    """What a decision gave one request."""

    grant: str
    lane: Lane
    sector: str
    asked: int
    had: int
    """What it kept, however it was decided."""
    count: int
    rank: int
    score: float | None
    reason: Reason
    tie: Reason | None


class Made(Frozen):
    """One decision, with its rows that the caller may see."""

    what: str
    by: str
    at: float
    text: str
    digest: str
    requests: int
    holds: bool
    """It comes out the same from what is stored with it."""
    rows: tuple[Row, ...]


class Sum(Frozen):
    """What a sector has asked for and was given; accelerators."""

    sector: str
    requests: int
    asked: int
    given: int
    floor: int


class Outcome(Frozen):
    """A round as it stands: the call and its sums for everybody, requests for whoever sees them."""

    name: str
    phase: RoundPhase
    spec: RoundSpec
    total: int
    """Accelerators."""
    given: int
    """By grants that stand;"""
    free: int
    """and what is left."""
    had: int
    """Accelerators of its kind that there are;"""
    promised: int
    """and what others are promised of them at most at once in that time."""
    sectors: tuple[Sum, ...]
    decisions: tuple[Made, ...]
    changed: tuple[str, ...]
    """Requests whose score or condition is another than the last award looked at."""
    appeals: tuple[str, ...]
    """Requests with an appeal since then."""


def outcome(found: Round, snapshot: Snapshot, sees: Callable[[str], bool]) -> Outcome:
    """Return a round as it stands, with those requests whose project the caller may see."""
    grants = applied(found.name, snapshot)
    own = [each for each in grants if sees(each.project)]
    given = sum(each.status.count for each in grants if each.stands)
    had, promised = there(found, snapshot)
    last = awarded(found)
    return Outcome(
        name=found.name, phase=due(found, snapshot.now), spec=found.spec, total=found.spec.total,
        given=given, free=found.spec.total - given, had=had, promised=promised,
        sectors=tuple(_sums(found, grants)),
        decisions=tuple(_made(each, sees) for each in found.status.decisions),
        changed=tuple(full_name(each) for each in own if last and drift(each, last)),
        appeals=tuple(full_name(each) for each in own if appealed(each, last)),
    )  # fmt: skip


def _sums(found: Round, grants: Iterable[Grant]) -> Iterator[Sum]:
    requests, asked, given = Counter[str](), Counter[str](), Counter[str]()
    for each in grants:
        sector = each.spec.sector or ""
        requests[sector] += 1
        asked[sector] += each.spec.count
        given[sector] += each.status.count if each.stands else 0
    for sector in sorted({*found.spec.floors, *requests}):
        floor = found.spec.floors.get(sector, 0) * found.spec.unit
        yield Sum(sector=sector, requests=requests[sector], asked=asked[sector],
                  given=given[sector], floor=floor)  # fmt: skip


def _made(decision: Decision, sees: Callable[[str], bool]) -> Made:
    bids = {bid.grant: bid for bid in decision.bids}
    rows = (_row(award, bids) for award in decision.awards
            if sees(award.grant.rpartition("/")[0]))  # fmt: skip
    return Made(
        what=decision.what, by=decision.by, at=decision.at, text=decision.text,
        digest=decision.digest, requests=len(decision.bids), holds=holds(decision),
        rows=tuple(rows),
    )  # fmt: skip


def _row(award: Award, bids: Mapping[str, Bid]) -> Row:
    bid = bids[award.grant]
    return Row(
        grant=award.grant, lane=bid.lane, sector=bid.sector, asked=bid.asked, had=bid.has,
        count=award.count, rank=award.rank, score=bid.score, reason=award.reason, tie=award.tie,
    )  # fmt: skip


def drift(grant: Grant, decision: Decision) -> Bid | None:
    """Return a request as a decision looked at it, where it has been judged otherwise since."""
    found = next((bid for bid in decision.bids if bid.grant == full_name(grant)), None)
    same = found is None or (found.score, found.unmet) == (grant.score, grant.unmet)
    return None if same else found


def appealed(grant: Grant, since: Decision | None) -> bool:
    """Tell whether somebody has appealed since a decision."""
    at = since.at if since else 0.0
    return any(deed.what == "appeal" and deed.at >= at for deed in grant.status.deeds)


def of_round(found: Round) -> Iterator[Reason]:
    """Say which decisions there were, and whether each comes out the same again."""
    for decision in found.status.decisions:
        yield from _deed(decision)


def _deed(decision: Decision) -> Iterator[Reason]:
    given = sum(award.count for award in decision.awards)
    has = {bid.grant: bid.has for bid in decision.bids}
    more = given - sum(has[award.grant] for award in decision.awards)
    values: dict[str, Value] = {
        "by": decision.by, "text": decision.text, "requests": len(decision.awards),
        "count": more, "digest": decision.digest[7:19],
    }  # fmt: skip
    yield Reason(code=DEEDS[decision.what], values=values)
    if decision.text:
        yield Reason(code="round.note", values=values)
    yield Reason(code="round.holds" if holds(decision) else "round.differs", values=values)


DEEDS = {
    "award": "round.deed-award", "again": "round.deed-again", "next": "round.deed-next",
    "burst": "round.deed-burst",
}  # fmt: skip


def of_grant(grant: Grant, snapshot: Snapshot) -> Iterator[Reason]:
    """Say what each decision of its round made of a grant, worked out again from its inputs."""
    found = snapshot.rounds.get(Ref("", grant.spec.round or ""))
    if found is None:
        return
    for decision in found.status.decisions:
        award = next((a for a in decision.awards if a.grant == full_name(grant)), None)
        if award is not None:
            yield from _deed(decision)
            yield award.reason
            yield from filter(None, [award.tie])
    last = awarded(found)
    then = drift(grant, last) if last else None
    if then is not None:
        values: dict[str, Value] = {"then": _score(then.score), "now": _score(grant.score)}
        yield Reason(code="round.drift", values=values)
    if last and grant.status.count < grant.spec.count and grant.status.phase not in GIVEN:
        yield Reason(code="round.may-appeal", values={"name": grant.name})


def _score(score: float | None) -> Value:
    return "-" if score is None else score
