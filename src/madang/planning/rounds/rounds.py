"""Rounds: what each request is given, by one rule that any order of requests leaves the same.

Requests stand in line by score; of equal ones the smaller comes first, then the earlier, then by
name. Each in turn gets what it asks for, as far as there are units, less what is still kept for
other sectors, and as far as its organization may have more. Where that is less than it can use it
gets nothing. What is kept for a sector that has no use for it is not kept: the line is gone through
again without.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from madang.errors import Value
from madang.resources.resource import Reason
from madang.resources.round import Award, Bid, Decision, Lane, RoundSpec

DECIDES: Mapping[str, tuple[Lane, ...]] = {
    "award": (Lane.SMALL, Lane.WHOLE), "again": (Lane.SMALL, Lane.WHOLE),
    "next": (Lane.SMALL, Lane.WHOLE), "burst": (Lane.BURST,),
}  # fmt: skip
"""The lines that each decision goes through; small requests first, as what they leave is whole."""


def decide(rules: RoundSpec, bids: Iterable[Bid], what: str) -> tuple[Award, ...]:
    """Return what each request in the lines of a decision is given, and why."""
    known = sorted(bids, key=lambda bid: bid.grant)
    has = {bid.grant: bid.has for bid in known}
    awards: list[Award] = []
    for lane in DECIDES[what]:
        own = [bid for bid in known if bid.lane is lane]
        line = sorted((bid for bid in own if not gate(rules, bid)), key=place)
        awards += told(rules, line, share(line, _stock(rules, known, has, lane)))
        awards += [Award(grant=bid.grant, count=bid.has, reason=gate(rules, bid)) for bid in own
                   if gate(rules, bid)]  # fmt: skip
        has.update({award.grant: award.count for award in awards})
    return tuple(awards)


def digest_of(rules: RoundSpec, bids: Sequence[Bid]) -> str:
    """Return by what the inputs of a decision are known, as they are and in that order."""
    text = "\n".join(each.model_dump_json(exclude_defaults=True) for each in (rules, *bids))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def holds(decision: Decision) -> bool:
    """Tell whether a decision comes out the same from the inputs that are stored with it."""
    again = decide(decision.rules, decision.bids, decision.what)
    same = digest_of(decision.rules, decision.bids) == decision.digest
    return same and [*map(_gist, again)] == [*map(_gist, decision.awards)]


def _gist(award: Award) -> tuple[str, int, int, str]:
    return award.grant, award.count, award.rank, award.reason.code


def place(bid: Bid) -> tuple[float, int, float, str]:
    """Return by what requests are put in line."""
    return -(bid.score or 0.0), bid.asked, bid.at, bid.grant


def gate(rules: RoundSpec, bid: Bid) -> Reason | None:
    """Say why a request may have nothing, whatever is left; None: it may."""
    if bid.score is None:
        return Reason(code="round.none-judged")
    if bid.unmet:
        return Reason(code="round.none-unmet", values={"unmet": bid.unmet, "score": bid.score})
    if bid.score < rules.least_score:
        missing = round(rules.least_score - bid.score, 3)
        values: dict[str, Value] = {
            "score": bid.score, "least": rules.least_score, "missing": missing,
        }  # fmt: skip
        return Reason(code="round.none-score", values=values)
    return None


@dataclass(frozen=True, slots=True)
class Stock:
    """What a line may be given. Amounts are accelerators."""

    room: int
    step: int = 1
    """Given together."""
    floors: Mapping[str, int] = field(default_factory=dict)
    """Kept for each sector, with what it has;"""
    given: Mapping[str, int] = field(default_factory=dict)
    """and what it has."""
    cap: int | None = None
    """Of one organization at most;"""
    taken: Mapping[str, int] = field(default_factory=dict)
    """and what each has."""


def _stock(
    rules: RoundSpec, bids: Sequence[Bid], has: Mapping[str, int], lane: Lane
) -> Stock:  # fmt: skip
    """Return what is there for one line, when that is had which `has` says."""
    lanes = {other: [bid for bid in bids if bid.lane is other] for other in Lane}
    held = {other: sum(has[bid.grant] for bid in lanes[other]) for other in Lane}
    in_units = -(-held[Lane.SMALL] // rules.unit) * rules.unit
    free = rules.total - held[Lane.WHOLE] - held[Lane.BURST]
    if lane is Lane.BURST:
        lent = rules.bursts
        most = lent.units * rules.unit - held[Lane.BURST] if lent else 0
        own = _had(lanes[lane], has, by_sector=False)
        return Stock(min(most, free - in_units), rules.unit, cap=_cap(rules, lane), taken=own)
    both = [*lanes[Lane.SMALL], *lanes[Lane.WHOLE]]
    taken = _had(both, has, by_sector=False)
    cap = _cap(rules, lane) or None
    if lane is Lane.SMALL:
        kept = rules.small.units * rules.unit if rules.small else 0
        return Stock(min(kept, free) - held[lane], cap=cap, taken=taken)
    floors = {sector: units * rules.unit for sector, units in rules.floors.items()}
    given = _had(lanes[lane], has, by_sector=True)
    return Stock(free - in_units, rules.unit, floors, given, cap, taken)


def _had(bids: Iterable[Bid], has: Mapping[str, int], *, by_sector: bool) -> Counter[str]:
    found = Counter[str]()
    for bid in bids:
        found[bid.sector if by_sector else bid.organization] += has[bid.grant]
    return found


@dataclass(frozen=True, slots=True)
class Got:
    """What one request was given, beyond what it had, and what it met."""

    count: int
    met: str = ""
    """units, floor or cap: what kept it from more; empty: nothing."""
    by_floor: bool = False
    """It was given of what is kept for its sector, when all else was gone."""
    could: int = 0
    """So many it could have had, were that not too few for it."""
    left: int = 0
    """What there was for it, whatever its organization has."""


def share(line: Sequence[Bid], stock: Stock) -> list[Got]:
    """Give a line what is there, from its head on; floors that nobody can fill are given up."""
    floors = dict(stock.floors)
    while True:
        got, given = _pass(line, stock, floors)
        if not any(given[sector] < floor for sector, floor in floors.items()):
            return got
        floors = {sector: min(floor, given[sector]) for sector, floor in floors.items()}


def _pass(
    line: Sequence[Bid], stock: Stock, floors: Mapping[str, int]
) -> tuple[list[Got], Counter[str]]:
    """Go through a line once; return what each got, and what each sector has then."""
    left, given, taken = max(0, stock.room), Counter(stock.given), Counter(stock.taken)
    found: list[Got] = []
    for bid in line:
        needs = {sector: max(0, floor - given[sector]) for sector, floor in floors.items()}
        kept, own = sum(needs.values()), needs.get(bid.sector, 0)
        room = max(left - kept + own, min(own, left))
        may = room if stock.cap is None else min(room, stock.cap - taken[bid.organization])
        wants = bid.asked - bid.has
        count = max(0, min(wants, may)) // stock.step * stock.step
        could = 0 if bid.has + count >= bid.least else count
        count -= could
        met = "" if wants == count else _met(may, room, left, stock.step)
        found.append(Got(count, met, count > max(0, left - kept), could, max(0, room)))
        left -= count
        given[bid.sector] += count
        taken[bid.organization] += count
    return found, given


def _met(may: int, room: int, left: int, step: int) -> str:
    """Say what kept a request from more: its organization's cap, other sectors, or the end."""
    if may // step < room // step:
        return "cap"
    return "floor" if room // step < left // step else "units"


def told(rules: RoundSpec, line: Sequence[Bid], got: Sequence[Got]) -> Iterator[Award]:
    """Say what each of a line is given, and why."""
    counts = [bid.has + each.count for bid, each in zip(line, got, strict=True)]
    cuts = _cuts(line, counts)
    for index, (bid, each) in enumerate(zip(line, got, strict=True)):
        count, cut = counts[index], cuts.get(bid.sector)
        values: dict[str, Value] = {
            "rank": index + 1, "of": len(line), "score": bid.score or 0.0, "count": count,
            "asked": bid.asked, "missing": bid.asked - count, "sector": bid.sector or "-",
            "cut": "-" if cut is None else cut, "could": each.could, "least": bid.least,
            "left": each.left, "cap": _cap(rules, bid.lane), "organization": bid.organization,
            "below": 0.0 if cut is None else max(0.0, round(cut - (bid.score or 0.0), 3)),
        }  # fmt: skip
        reason = Reason(code=_code(count, each), values=values)
        yield Award(
            grant=bid.grant, count=count, rank=index + 1, reason=reason, tie=_tie(line, index)
        )


def _cap(rules: RoundSpec, lane: Lane) -> int:
    """Return how many accelerators one organization may have; 0: as many as there are."""
    units = rules.bursts.cap if lane is Lane.BURST and rules.bursts else rules.cap
    return (units or 0) * rules.unit


def _cuts(line: Sequence[Bid], counts: Sequence[int]) -> dict[str, float]:
    """Return the score of the last of each sector that is given anything."""
    return {bid.sector: bid.score or 0.0 for bid, count in zip(line, counts, strict=True) if count}


def _code(count: int, got: Got) -> str:
    if count and not got.met:
        return "round.full-floor" if got.by_floor else "round.full"
    if count:
        return PART[got.met]
    return "round.none-least" if got.could else NONE[got.met]


PART = {"units": "round.part-units", "floor": "round.part-floor", "cap": "round.part-cap"}
NONE = {"units": "round.none-units", "floor": "round.none-floor", "cap": "round.none-cap"}


def _tie(line: Sequence[Bid], index: int) -> Reason | None:
    """Say what decided between a request and its neighbours of as many points."""
    for one, other in ((index - 1, index), (index, index + 1)):
        if one < 0 or other >= len(line) or line[one].score != line[other].score:
            continue
        before, after = line[one], line[other]
        code = "round.tie-name" if before.at == after.at else "round.tie-time"
        code = code if before.asked == after.asked else "round.tie-size"
        return Reason(code=code, values={"score": before.score or 0.0})
    return None
