"""What accelerators were held and used, added up by project, month and kind; each second once.

Control measures on a clock that only goes forward, and forgets it when it ends. So each holder has
a meter: up to when its project's sums have it, written together with them. What was not measured
counts as held, and neither as used nor as idle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

from madang.planning.action import Action, Unkept, Verb
from madang.planning.layout import MILLI
from madang.planning.quotas import HOUR_S, LETTING_GO, Books
from madang.planning.since import is_same
from madang.planning.snapshot import Load, Snapshot
from madang.planning.tally import spent_in
from madang.planning.use.idle import Policies, slice_s, told_of
from madang.planning.use.tariffs import more as served_more
from madang.resources.attempt import Attempt, AttemptPhase
from madang.resources.holding import Holding
from madang.resources.idle import Meter, MonthUse, Reclaim
from madang.resources.month import month_of
from madang.resources.place import Pool
from madang.resources.quota import Quota
from madang.resources.replica import Replica
from madang.resources.resource import AnyResource, Frozen, Reason, Ref
from madang.resources.service import Service
from madang.resources.tariff import Tokens
from madang.resources.tenancy import Project

MONTHS_KEPT = 24
"""So many months are kept of each project."""
JUMP_S = 10.0
"""A wall clock that goes by so much more or less than time itself has been set."""
NOTHING = Load()
AMOUNTS = ("held", "busy", "idle", "mkrw", "idle_mkrw")
"""What is added up;"""
Sums = dict[tuple[int, str], list[int]]
"""by month and kind, in that order."""


@dataclass(frozen=True, slots=True)
class Held:
    """A replica, or an attempt of a job, with what it has."""

    owner: Replica | Attempt
    epoch: int
    since: float
    """Unix seconds."""
    places: tuple[Holding, ...]
    meter: Meter
    """Where it has none yet, one that begins with it."""

    @property
    def lets_go(self) -> bool:
        """Whether it will soon have nothing any more."""
        if isinstance(self.owner, Attempt):
            return self.owner.status.phase is AttemptPhase.STOPPING
        return self.owner.status.phase in LETTING_GO


class Passed(NamedTuple):
    """What came to something since its meter was last read: seconds."""

    held_s: float
    known_s: float
    busy_s: float
    tokens: Tokens = (0, 0, 0)

    @property
    def idle_s(self) -> float:
        """For how long of it that stood idle."""
        return self.known_s - self.busy_s


def held(snapshot: Snapshot) -> Iterator[Held]:
    """Return all that has accelerators and whose sums are not closed."""
    for replica in snapshot.replicas.values():
        status = replica.status
        if status.accelerators:
            since = status.held_since or status.started_at or snapshot.now
            meter = status.meter or Meter(epoch=status.epoch, at=since)
            if not meter.closed:
                yield Held(replica, status.epoch, since, (status,), meter)
    for attempt in snapshot.living:
        places = tuple(place for place in attempt.status.places if place.accelerators)
        if places:
            number, since = attempt.spec.number, attempt.status.started_at
            meter = attempt.status.meter or Meter(epoch=number, at=since)
            if not meter.closed:
                yield Held(attempt, number, since, places, meter)


def passed(of: Held, snapshot: Snapshot) -> Passed:
    """Return what has passed since the last reading of a meter, of whichever control.

    The wall clock counts, so that no second is left out or counted twice, unless it was set.
    """
    meter, uid = of.meter, of.owner.uid
    wall_s, age_s = snapshot.now - meter.at, snapshot.age_s(uid, meter.at)
    load = snapshot.seen.loads.get((uid, of.epoch), NOTHING)
    is_ours = meter.term == snapshot.term
    held_s = max(0.0, wall_s, age_s)
    if is_ours and abs(wall_s - age_s) > JUMP_S:
        held_s = age_s
    before = Load(meter.known_s, meter.busy_s, meter.tokens) if is_ours else NOTHING
    known_s = max(0.0, load.known_s - before.known_s)
    share = min(1.0, max(0.0, load.busy_s - before.busy_s) / known_s) if known_s else 0.0
    known_s = min(known_s, held_s)
    prompt, cached, output = (
        max(0, now - then) for now, then in zip(load.tokens, before.tokens, strict=True)
    )
    return Passed(held_s, known_s, share * known_s, (prompt, cached, output))


class Readings:
    """Which meters are to be read; all are looked at only when some have changed, or one is due."""

    def __init__(self) -> None:
        self._known: tuple[object, ...] = ()
        self._turns_at, self._full_s = -inf, -inf
        """No meter is due before, in Unix seconds and in steady ones."""

    def due(self, snapshot: Snapshot, policies: Policies) -> list[Held]:
        """Return all for whose meter it is time: at the turn of its hour, and before all is let go.

        All at once, so that there are few writes; those that are judged by a shorter time, earlier.
        """
        known = tuple(map(snapshot.kept.get, ("replica", "attempt", "pool", "quota", "node")))
        is_early = snapshot.now < self._turns_at and snapshot.steady_s < self._full_s
        if is_early and is_same(known, self._known):
            return []
        due: list[Held] = []
        turns_at, full_s = inf, inf
        for each in held(snapshot):
            at, length_s = each.meter.at, slice_s(policies.of(each.owner))
            turn_at = (at // length_s + 1) * length_s
            left_s = length_s - snapshot.age_s(each.owner.uid, at)
            if each.lets_go or snapshot.now >= turn_at or left_s <= 0:
                due.append(each)
            turns_at, full_s = min(turns_at, turn_at), min(full_s, snapshot.steady_s + left_s)
        # What is due now changes when it is read: until then it is looked at in every turn.
        self._known = () if due else known
        self._turns_at, self._full_s = turns_at, full_s
        return due


def plan_meters(snapshot: Snapshot, readings: Readings | None = None) -> Iterator[Action]:
    """Read all meters for which it is time, in one action; quiet where there are none."""
    policies = Policies(snapshot)
    found = (readings or Readings()).due(snapshot, policies)
    known = {each.project: each for each in snapshot.all(Project).values()} if found else {}
    due = [each for each in found if each.owner.project in known]
    if not due:
        return
    due.sort(key=lambda each: each.owner.uid)
    writes: list[AnyResource] = []
    sums: dict[str, Sums] = {}
    served: dict[Ref, Service] = {}
    books, again = Books(snapshot, are_empty=True), []
    for each in due:
        since = passed(each, snapshot)
        project = known[each.owner.project]
        own = sums.setdefault(project.project, _by_key(project.status.used))
        _add(own, each, since, snapshot, books)
        _serve(served, each, since, snapshot, books)
        read = _read(each, since, policies.of(each.owner), snapshot)
        writes.append(read)
        if each.meter.warned_s is not None and read.status.meter.warned_s is None:
            again.append(each.owner)
    for name, own in sorted(sums.items()):
        writes.append(known[name].with_status(used=_kept(own)))
    writes += (service for _, service in sorted(served.items()))
    reason = Reason(code="meter.read")
    yield Action(Verb.METER, Unkept("meter", "meter"), reason, tuple(writes))
    for owner in again:
        subject = told_of(owner, snapshot)
        yield Action(Verb.BUSY_AGAIN, subject, Reason(code="idle.used-again"))


def _read(
    each: Held, since: Passed, policy: Reclaim | None, snapshot: Snapshot
) -> AnyResource:  # fmt: skip
    """Return the holder with its meter read, and judged."""
    meter = each.meter
    load = snapshot.seen.loads.get((each.owner.uid, each.epoch), NOTHING)
    below = policy.below if policy else None
    is_idle = below is not None and since.busy_s < below * since.known_s
    goes_on = below == meter.below and (is_idle or not since.known_s)
    idle_s = (meter.idle_s if goes_on else 0.0) + (since.known_s if is_idle else 0.0)
    fresh = Meter(
        epoch=each.epoch, at=snapshot.now, term=snapshot.term, known_s=load.known_s,
        busy_s=load.busy_s, tokens=load.tokens, closed=each.lets_go, below=below, idle_s=idle_s,
        warned_s=meter.warned_s if goes_on else None,
    )  # fmt: skip
    changes: dict[str, object] = {"meter": fresh}
    if meter.warned_s is not None and not goes_on and not each.lets_go:
        changes["reason"] = None
    read: AnyResource = each.owner.with_status(**changes)
    return read


def _add(sums: Sums, each: Held, since: Passed, snapshot: Snapshot, books: Books) -> None:
    """Add what has passed to its months: by how much of it each has."""
    months = list(_parts(snapshot.now - since.held_s, snapshot.now))
    for place in each.places:
        amounts = books.amounts(place)
        kinds = {kind: milli for (what, kind), milli in amounts.items() if what == "accelerators"}
        for kind, milli in kinds.items():
            rate = amounts["krw", ""] * milli / sum(kinds.values())
            for month, part in months:
                known = sums.setdefault((month, kind), [0] * len(AMOUNTS))
                for number, more in enumerate(_amounts(milli, rate / HOUR_S, since, part)):
                    known[number] += more


def _serve(
    served: dict[Ref, Service], each: Held, since: Passed, snapshot: Snapshot, books: Books
) -> None:
    """Add what a replica read and wrote, and how long that took, to what is learnt of both."""
    if not isinstance(each.owner, Replica) or not (since.busy_s or any(since.tokens)):
        return
    service = served.get(each.owner.service) or snapshot.services.get(each.owner.service)
    node = snapshot.nodes.get(Ref("", each.owner.status.node))
    for (what, kind), milli in books.amounts(each.owner.status).items():
        if service and node and what == "accelerators":
            busy = round(milli * since.busy_s)
            own = served_more(service.status.served, (node.spec.pool, kind), busy, since.tokens)
            served[service.ref] = service.with_status(served=own)


def _amounts(milli: int, krw_per_s: float, since: Passed, part: float) -> tuple[int, ...]:
    """Return this part of what has passed, in the order of AMOUNTS; won in thousandths."""
    held = round(milli * since.held_s * part)
    busy = min(held, round(milli * since.busy_s * part))
    idle = min(held - busy, round(milli * since.idle_s * part))
    costs = round(krw_per_s * since.held_s * part), round(krw_per_s * since.idle_s * part)
    return held, busy, idle, *costs


def _parts(begins: float, ends: float) -> Iterator[tuple[int, float]]:
    """Return the months of a time, and which part of it each has."""
    at = begins
    while True:
        month = month_of(at)
        until = min(ends, month.ends)
        yield month.number, (until - at) / (ends - begins) if ends > begins else 1.0
        if until >= ends:
            return
        at = until


def _by_key(used: tuple[MonthUse, ...]) -> Sums:
    return {
        (each.month, each.accelerator): [getattr(each, name) for name in AMOUNTS] for each in used
    }


def _kept(sums: Sums) -> tuple[MonthUse, ...]:
    """Return the newest months, in one order."""
    newest = sorted({month for month, _ in sums})[-MONTHS_KEPT:]
    return tuple(
        MonthUse(month=month, accelerator=kind, **dict(zip(AMOUNTS, amounts, strict=True)))
        for (month, kind), amounts in sorted(sums.items()) if month in newest
    )  # fmt: skip


def used_in(project: Project, snapshot: Snapshot) -> tuple[MonthUse, ...]:
    """Return what a project has had by now, that included which no meter was read for yet."""
    sums, books = _by_key(project.status.used), Books(snapshot, are_empty=True)
    for each in held(snapshot):
        if each.owner.project == project.project:
            _add(sums, each, passed(each, snapshot), snapshot, books)
    return _kept(sums)


def wake_s(snapshot: Snapshot) -> float | None:
    """Return the seconds until the next meter may be to be read; None: nobody has one."""
    if next(held(snapshot), None) is None:
        return None
    policies = (each.spec.reclaim for kind in (Pool, Quota) for each in snapshot.all(kind).values())
    lengths = {slice_s(policy) for policy in policies} | {slice_s(None)}
    return min(each - snapshot.now % each for each in lengths)


class Use(Frozen):
    """What was had of accelerators: hours of whole ones, and won."""

    held_h: float
    used_h: float
    idle_h: float
    unmeasured_h: float
    used: float | None
    """The part of what was measured that was used; None: nothing was."""
    krw: int
    idle_krw: int
    """What that cost which stood idle."""


class KindUse(Use):
    """The same of one kind."""

    accelerator: str


class ProjectUse(Use):
    """What one project had in one month; and, since it is there, what its jobs lost."""

    project: str
    kinds: tuple[KindUse, ...]
    lost_h: float
    goodput: float | None


def used_by(
    projects: Sequence[Project], month: int, snapshot: Snapshot
) -> tuple[ProjectUse, ...]:  # fmt: skip
    """Return what each of these projects had in a month by now; nothing of those that had none."""
    found = []
    for project in projects:
        own = [use for use in used_in(project, snapshot) if use.month == month]
        if not own:
            continue
        run_s, lost_s = spent_in(project, snapshot)
        kinds = tuple(KindUse(accelerator=use.accelerator, **_use([use])) for use in own)
        found.append(ProjectUse(
            project=project.project, kinds=kinds, lost_h=lost_s / HOUR_S,
            goodput=1 - lost_s / run_s if run_s > 0 else None, **_use(own),
        ))  # fmt: skip
    return tuple(found)


def _use(own: Sequence[MonthUse]) -> dict[str, Any]:
    held, busy, idle = (sum(getattr(use, name) for use in own) for name in ("held", "busy", "idle"))
    amounts = {
        "held_h": held, "used_h": busy, "idle_h": idle, "unmeasured_h": held - busy - idle,
    }  # fmt: skip
    return {
        **{name: amount / MILLI / HOUR_S for name, amount in amounts.items()},
        "used": busy / (busy + idle) if busy + idle else None,
        "krw": round(sum(use.mkrw for use in own) / MILLI),
        "idle_krw": round(sum(use.idle_mkrw for use in own) / MILLI),
    }
