"""What quotas leave: added up over all that holds something, and asked before anything is placed.

Sums are of whole numbers (thousandths of accelerators, of processors and of won; bytes), so that
no order of the world changes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from madang.errors import Value
from madang.planning.ask import Ask, Stock, of_kind
from madang.planning.grants import given
from madang.planning.layout import MILLI, is_processor, milli_cores
from madang.planning.overlap import Overlaps, overlaps
from madang.planning.snapshot import Snapshot
from madang.resources.attempt import Attempt, AttemptPhase
from madang.resources.holding import Holding
from madang.resources.month import Month, month_of
from madang.resources.place import Pool
from madang.resources.power import by_start
from madang.resources.quantity import written_size
from madang.resources.quota import Quota, Used
from madang.resources.replica import Replica, ReplicaPhase
from madang.resources.resource import AnyResource, Condition, Reason, Ref

HOUR_S = 3600.0
WAITS = {
    "accelerators": "quota.accelerators", "cores": "quota.cores", "memory": "quota.memory",
    "storage": "quota.storage", "krw": "quota.krw",
}  # fmt: skip
"""Why something waits, by what there is too little of;"""
LEAVES = {
    "accelerators": "quota.over-accelerators", "cores": "quota.over-cores",
    "memory": "quota.over-memory", "krw": "quota.over-krw",
}  # fmt: skip
"""and why something leaves."""
Amounts = Counter[tuple[str, str]]
"""How much of what: (`accelerators`, their kind), (`cores`, ""), …; of `krw` per hour."""
AmountsOf = Callable[[Holding], Amounts]


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of a place, what is used of it, and what is asked for beyond that."""

    place: str
    what: str
    kind: str
    """Start of the accelerators' kinds; empty for all else."""
    most: int
    used: int = 0
    asked: int = 0
    resets: str = ""
    """The day on which it begins anew."""
    granted: int = 0
    """Part of `most` that grants add to what the quota says."""
    was: int = 0
    """Where it is tried with more: what it was before."""

    @property
    def reason(self) -> Reason:
        """Say which limit it is that something waits for."""
        return self._said(WAITS[self.what])

    @property
    def cause(self) -> Reason:
        """Say which limit it is that something leaves for."""
        return self._said(LEAVES[self.what])

    def _said(self, code: str) -> Reason:
        return Reason(code=code, values=self.values)

    @property
    def values(self) -> dict[str, Value]:
        """Return it as sentences tell it."""
        return {
            "place": self.place, "kind": self.kind, "key": f"{self.what} {self.kind}".strip(),
            "most": self.written(self.most), "used": self.written(self.used),
            "left": self.written(max(0, self.most - self.used)),
            "asked": self.written(self.asked), "resets": self.resets,
        }  # fmt: skip

    def written(self, amount: int) -> Value:
        """Write an amount of it as people do."""
        if self.what in {"memory", "storage"}:
            return written_size(amount)
        return round(amount / MILLI) if self.what == "krw" else amount / MILLI

    def is_same(self, other: Reason | None) -> bool:
        """Tell whether a reason says the same, whatever is used by now."""
        told = self.reason
        keys = ("place", "kind", "most", "asked", "resets")
        return other is not None and other.code == told.code and all(
            other.values.get(key) == told.values[key] for key in keys
        )  # fmt: skip


NOTHING = Holding()
LETTING_GO = frozenset({ReplicaPhase.STOPPING, ReplicaPhase.BACKING_OFF, ReplicaPhase.FAILED})


class Holder(NamedTuple):
    """Something that has accelerators of one node, and since when it pays for them."""

    owner: AnyResource
    """A replica, or an attempt of a job."""
    held: Holding
    since: float
    is_charged: bool
    """What it costs stands in the quotas already."""


def holders(snapshot: Snapshot) -> Iterator[Holder]:
    """Return all that holds accelerators, whatever becomes of it."""
    for replica in snapshot.replicas.values():
        status = replica.status
        if status.accelerators:
            since = status.held_since or status.started_at or snapshot.now
            yield Holder(replica, status, since, status.charged)
    for attempt in snapshot.living:
        for place in attempt.status.places:
            if place.accelerators:
                yield Holder(attempt, place, attempt.status.started_at, attempt.status.counted)


def held_back(status: Condition) -> bool:
    """Tell whether something waits for a quota, as last said."""
    return status.reason is not None and status.reason.code.startswith("quota.")


def places_of(project: str) -> tuple[str, ...]:
    """Return the places whose quotas hold for a project, its own first."""
    return tuple(dict.fromkeys((project, project.partition("/")[0])))


class Prices:
    """What accelerators cost, by the pools that they are in."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._pools = {ref.name: pool.spec for ref, pool in snapshot.all(Pool).items()}

    @property
    def are_named(self) -> bool:
        """Tell whether anything costs anything."""
        return any(pool.price_krw_per_hour for pool in self._pools.values())

    def of(self, pool: str, kind: str) -> float:
        """Return won per hour of one accelerator; 0: nobody has named a price."""
        known = self._pools.get(pool)
        return (by_start(known.price_krw_per_hour, kind) if known else None) or 0.0


class Books:
    """What each place with a quota has, and may have."""

    def __init__(self, snapshot: Snapshot, *, are_empty: bool = False) -> None:
        self.limits = {each.project: _limits(each, snapshot) for each in snapshot.quotas.values()}
        self._snapshot, self._prices = snapshot, Prices(snapshot)
        self._month: Month = month_of(snapshot.now)
        self._used: dict[str, Amounts] = {place: Counter() for place in self.limits}
        self._spent: dict[str, int] = {}
        for holder in holders(snapshot) if self.limits and not are_empty else ():
            self.take(holder.owner.project, holder.held)
        self._narrowed: dict[tuple[str, Ask, int], Ask | Limit] = {}
        self._stocks: Sequence[Stock] = ()
        """What was found of whom, of these stocks, since something was taken last."""
        paying = (q for q in snapshot.quotas.values() if q.spec.krw_per_month is not None)
        for each in paying if not are_empty else ():
            self._spent[each.project] = spent_mkrw(each, snapshot, self._month, self.amounts)

    def take(self, project: str, held: Holding) -> None:
        """Count what somebody has been given."""
        self._narrowed = {}
        places = self._places(project)
        amounts = self.amounts(held) if places else Counter()
        for place in places:
            self._used[place].update(amounts)

    def amounts(self, held: Holding) -> Amounts:
        """Return what a holding counts for."""
        found: Amounts = Counter({("cores", ""): milli_cores(held.cores)})
        found["memory", ""] = held.host_memory_bytes
        for name in held.accelerators:
            known = self._snapshot.accelerators.get(Ref("", name))
            if known is None:
                continue
            spec = known.spec
            is_part = spec.shared and not held.whole
            milli = -(-MILLI * held.memory_bytes // max(1, spec.memory_bytes)) if is_part else MILLI
            node = self._snapshot.nodes.get(Ref("", spec.node))
            price = self._prices.of(node.spec.pool if node else "", spec.accelerator)
            found["accelerators", spec.accelerator] += milli
            found["krw", ""] += round(price * milli)
            found["memory", ""] += held.memory_bytes * is_processor(spec.accelerator)
        return found

    def used(self, limit: Limit) -> int:
        """Return how much of a limit is used: of money what is spent this month."""
        if limit.what == "krw":
            return self._spent.get(limit.place, 0)
        return counted(self._used[limit.place], limit)

    def now(self, limit: Limit) -> Limit:
        """Return a limit with what is used of it, and when it begins anew."""
        resets = self._month.day_after if limit.what == "krw" else ""
        return replace(limit, used=self.used(limit), resets=resets)

    @cached_property
    def overlaps(self) -> Overlaps:
        """Who takes over from whom."""
        return overlaps(self._snapshot) if self.limits else Overlaps()

    def taken_from(self, owner: AnyResource) -> Holding:
        """Return what somebody has from whom this one is to take over."""
        left = self.overlaps.before.get(owner.uid)
        return left.status if left else NOTHING

    def narrow(
        self, project: str, ask: Ask, nodes: int, stocks: Sequence[Stock], but: Holding = NOTHING
    ) -> Ask | Limit:
        """Return an ask without the stocks of which it may not have so much; or why it has none.

        `but`: what somebody has there that whoever asks takes over from counts for nothing.
        """
        places = self._places(project) if self.limits else ()
        if not places:
            return ask
        if but is not NOTHING:
            return self._left(places, ask, nodes, stocks, but)
        if stocks is not self._stocks:
            self._stocks, self._narrowed = stocks, {}
        key = project, ask, nodes
        if key not in self._narrowed:
            self._narrowed[key] = self._left(places, ask, nodes, stocks, but)
        return self._narrowed[key]

    def _left(
        self, places: Sequence[str], ask: Ask, nodes: int, stocks: Sequence[Stock], but: Holding
    ) -> Ask | Limit:
        spared = self.amounts(but)
        first, is_open, ways = None, False, []
        for way in ask.ways:
            barred = set()
            for stock in stocks:
                if stock.bars(way) is None:
                    short = self._short(places, self._needs(way, stock, nodes), spared)
                    first, is_open = first or short, is_open or short is None
                    if short:
                        barred.add(stock.name)
            ways.append(replace(way, barred=frozenset(barred), also=()))
        if first and not is_open:
            return first
        return replace(ways[0], also=tuple(ways[1:]))

    def raised(self, limit: Limit, most: int) -> Books:
        """Return the same with another limit in place of one."""
        books = Books(self._snapshot, are_empty=True)
        books._used, books._spent = self._used, self._spent
        books.limits = {**self.limits, limit.place: tuple(
            replace(each, most=most) if (each.what, each.kind) == (limit.what, limit.kind) else each
            for each in self.limits[limit.place]
        )}  # fmt: skip
        return books

    def leaves_the_same(self, other: Books) -> bool:
        """Tell whether whatever is asked of both gets the same answer, but for what is spent."""
        return (self.limits, self._used, self._gone) == (other.limits, other._used, other._gone)

    @property
    def _gone(self) -> frozenset[str]:
        """Places whose money for this month is spent."""
        return frozenset(
            each.place for limits in self.limits.values() for each in limits
            if each.what == "krw" and self.used(each) >= each.most
        )  # fmt: skip

    def rate(self, place: str) -> int:
        """Return what a place spends, in thousandths of a won per hour."""
        return self._used[place]["krw", ""]

    def _places(self, project: str) -> tuple[str, ...]:
        return tuple(place for place in places_of(project) if place in self.limits)

    def _needs(self, ask: Ask, stock: Stock, nodes: int) -> Amounts:
        """Return what an ask would have of a stock, on so many nodes."""
        milli = needed_milli(ask, stock, nodes)
        memory = ask.memory_bytes * ask.count * is_processor(stock.kind) + ask.host_memory_bytes
        return Counter({
            ("accelerators", stock.kind): milli, ("cores", ""): milli_cores(ask.cores) * nodes,
            ("memory", ""): memory * nodes,
            ("krw", ""): round(self._prices.of(stock.pool, stock.kind) * milli),
        })  # fmt: skip

    def _short(self, places: Sequence[str], needs: Amounts, spared: Amounts) -> Limit | None:
        """Return the first limit that these would break, with what they ask of it."""
        for place in places:
            for limit in self.limits[place]:
                asked = counted(needs, limit)
                used = self.used(limit) if asked else 0
                more = asked - counted(spared, limit)
                beyond = used >= limit.most if limit.what == "krw" else used + more > limit.most
                if asked and beyond:
                    return replace(self.now(limit), asked=asked)
        return None


NO_BOOKS = Books(Snapshot(now=0.0, term=0, kept={}, engines={}))
"""Of a world without quotas."""


def needed_milli(ask: Ask, stock: Stock, nodes: int) -> int:
    """Return the thousandths of accelerators that an ask would have of a stock, over all nodes."""
    count = -(-ask.count // stock.group) * stock.group * nodes
    part = -(-MILLI * stock.part_bytes(ask) // max(1, stock.least_bytes))
    return count * (MILLI if stock.is_whole(ask) else part)


def counted(amounts: Mapping[tuple[str, str], int], limit: Limit) -> int:
    """Return how much of these counts for a limit."""
    if not limit.kind:
        return amounts.get((limit.what, ""), 0)
    return sum(
        amount for (what, kind), amount in amounts.items()
        if what == limit.what and of_kind(kind, limit.kind)
    )  # fmt: skip


def spent_mkrw(quota: Quota, snapshot: Snapshot, month: Month, amounts: AmountsOf) -> int:
    """Return what a place has spent this month, in thousandths of a won, what runs included."""
    total = quota.status.mkrw if quota.status.month == month.number else 0
    for holder in holders(snapshot):
        if not holder.is_charged and quota.project in places_of(holder.owner.project):
            rate = amounts(holder.held)["krw", ""]
            total += cost_mkrw(rate, quota, month, holder.since, snapshot.now)
    return total


def cost_mkrw(rate: int, quota: Quota, month: Month, since: float, until: float) -> int:
    """Return what that rate per hour comes to, of the month and since the quota is there."""
    begins = max(since, month.begins, quota.created_at)
    return round(rate * max(0.0, until - begins) / HOUR_S)


def storage_of(place: str, snapshot: Snapshot) -> int:
    """Return the bytes of volumes of a place: what each may hold, or else what it does."""
    return sum(
        volume.spec.size or volume.status.used_bytes
        for volume in snapshot.volumes.values()
        if place in places_of(volume.project)
    )


def storage_limit(project: str, snapshot: Snapshot, more: int = 0) -> Limit | None:
    """Return the limit on volumes that is broken in a project, or would be by so many bytes."""
    for place in places_of(project):
        quota = snapshot.quotas.get(Ref(place, place.rpartition("/")[2]))
        if quota is None or quota.spec.storage is None:
            continue
        used = storage_of(place, snapshot)
        if used + more > quota.spec.storage:
            return Limit(place, "storage", "", quota.spec.storage, used, more)
    return None


def _all_of(quota: Quota, snapshot: Snapshot, books: Books) -> list[Limit]:
    """Return all limits of a quota, with what is used of each."""
    limits = [books.now(limit) for limit in books.limits[quota.project]]
    if quota.spec.storage is not None:
        used = storage_of(quota.project, snapshot)
        limits.append(Limit(quota.project, "storage", "", quota.spec.storage, used))
    return limits


def findings(quota: Quota, snapshot: Snapshot, books: Books) -> Iterator[Reason]:
    """Say of each limit what is used and left, and when it begins anew."""
    for limit in _all_of(quota, snapshot, books):
        code = "quota.left-until" if limit.resets else "quota.left"
        yield Reason(code=code, values=limit.values)


def waits_for(quota: Quota, status: Condition) -> bool:
    """Tell whether something waits for a quota, as last said."""
    reason = status.reason
    return held_back(status) and reason is not None and reason.values["place"] == quota.project


def told(quota: Quota, snapshot: Snapshot, books: Books) -> Quota:
    """Return a quota with what is used of each of its limits."""
    limits = _all_of(quota, snapshot, books)
    lines = tuple(
        Used(
            what=str(limit.values["key"]), most=limit.values["most"], used=limit.values["used"],
            left=limit.values["left"], resets=limit.resets,
        )
        for limit in limits
    )  # fmt: skip
    said: Quota = quota.with_status(used=lines)
    return said


def wake_s(snapshot: Snapshot, books: Books) -> float | None:
    """Return the seconds until money alone changes something: it is spent, or a month begins."""
    due: list[float] = []
    for place, limits in books.limits.items():
        for limit in (each for each in limits if each.what == "krw"):
            left, rate = limit.most - books.used(limit), books.rate(place)
            due.append(month_of(snapshot.now).ends - snapshot.now)
            if left > 0 and rate > 0:
                due.append(left / rate * HOUR_S)
    return min(due, default=None)


def plan_charges(snapshot: Snapshot) -> Iterator[AnyResource]:
    """Return quotas with what that has cost which is about to let go, and replicas marked so.

    Attempts are marked by whoever counts them for their pools, in the same action.
    """
    quotas = [each for each in snapshot.quotas.values() if each.spec.krw_per_month is not None]
    if not quotas or not Prices(snapshot).are_named:
        return
    going = sorted(
        (holder for holder in holders(snapshot) if _lets_go(holder)), key=lambda h: h.owner.ref
    )
    if not going:
        return
    month, books = month_of(snapshot.now), Books(snapshot, are_empty=True)
    for quota in sorted(quotas, key=lambda each: each.ref):
        total = before = quota.status.mkrw if quota.status.month == month.number else 0
        for holder in going:
            if quota.project in places_of(holder.owner.project):
                rate = books.amounts(holder.held)["krw", ""]
                total += cost_mkrw(rate, quota, month, holder.since, snapshot.now)
        if total != before:
            yield quota.with_status(month=month.number, mkrw=total)
    yield from (
        holder.owner.with_status(charged=True)
        for holder in going if isinstance(holder.owner, Replica)
    )  # fmt: skip


def _lets_go(holder: Holder) -> bool:
    """Tell whether it will soon have nothing any more, and is not charged yet."""
    owner = holder.owner
    if isinstance(owner, Attempt):
        return not holder.is_charged and owner.status.phase is AttemptPhase.STOPPING
    return not holder.is_charged and owner.status.phase in LETTING_GO


def _limits(quota: Quota, snapshot: Snapshot) -> tuple[Limit, ...]:
    """Return what a quota says, in one order; what is granted there comes on top."""
    spec, place = quota.spec, quota.project
    more = [each for each in given(snapshot) if place in places_of(each.project)]
    found = []
    for kind, count in sorted(spec.accelerators.items()):
        added = sum(each.status.count for each in more if of_kind(each.spec.accelerator, kind))
        most, granted = MILLI * (count + added), MILLI * added
        found.append(Limit(place, "accelerators", kind, most, granted=granted))
    if spec.cores is not None:
        found.append(Limit(place, "cores", "", milli_cores(spec.cores)))
    if spec.memory is not None:
        found.append(Limit(place, "memory", "", spec.memory))
    if spec.krw_per_month is not None:
        found.append(Limit(place, "krw", "", spec.krw_per_month * MILLI))
    return tuple(found)
