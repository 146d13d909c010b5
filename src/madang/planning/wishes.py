"""What more weight, a grant or a higher quota would do for one that waits: each tried, on a copy.

The copy of the world is planned for by the queue's own rules: it counts as help only if others
would then be asked to make room for it, or if its quotas leave it what is free. Where that takes
time, since its project has not gone short of its share for long enough, the copy is aged, with
all else as it is. It is work for many turns of a queue: not for every turn, but for whoever asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil

from madang.errors import Value
from madang.planning.action import Plan, assume
from madang.planning.ask import Ask
from madang.planning.explain import Explanation
from madang.planning.grants import Around
from madang.planning.memo import Memo
from madang.planning.merit import WEIGHT_MOST, granted, quota_of, weighed
from madang.planning.place.gangs import Want, want_of
from madang.planning.queue.lanes import MILLI, Lane, Member
from madang.planning.queue.queues import plan_queues
from madang.planning.queue.turns import due_s, would_make_room
from madang.planning.queue.waiting import is_in_line
from madang.planning.quotas import Limit, held_back
from madang.planning.relief import reliefs
from madang.planning.share.turn import Why
from madang.planning.snapshot import Snapshot
from madang.planning.template import ask_of
from madang.resources.grant import Beyond, Grant, GrantSpec
from madang.resources.job import Job, JobPhase
from madang.resources.month import DAY_S, day_at
from madang.resources.quantity import written_duration
from madang.resources.replica import Replica, ReplicaPhase
from madang.resources.resource import AnyResource, Reason, Ref
from madang.resources.service import Service

TIMES = 2.0, 4.0, 8.0
"""So many times its weight is tried."""
AFTER_S = 0.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, float(DAY_S)
"""After so long, once a turn is due: no further, since by then all else has changed."""
DAYS = 28
"""A grant is tried for so many days;"""
NAME = "more"
"""by this name, which is told as well: it can be requested as it stands."""


def wished(
    said: Explanation, waiter: Job | Replica, snapshot: Snapshot, memo: Memo | None = None
) -> Explanation:
    """Return what is explained, with what else would help who waits."""
    tried = _Trials(waiter, snapshot, memo or Memo()).fixes()
    found = tuple(fix for fix in tried if fix != said.smallest_fix)
    first = said.smallest_fix or next(iter(found), None)
    return said.model_copy(update={
        "smallest_fix": first, "other_fixes": tuple(fix for fix in found if fix is not first),
    })  # fmt: skip


def waiter_of(asked: AnyResource, snapshot: Snapshot) -> Job | Replica | None:
    """Return who waits: itself, or the first of a service's replicas that does."""
    if isinstance(asked, Job):
        return asked if asked.status.phase is JobPhase.WAITING else None
    if isinstance(asked, Replica):
        return asked if asked.status.phase is ReplicaPhase.WAITING else None
    if not isinstance(asked, Service):
        return None
    own = (r for r in snapshot.replicas.values() if r.service == asked.ref)
    waiting = [r for r in own if r.status.phase is ReplicaPhase.WAITING]
    return min(waiting, key=lambda r: r.ref, default=None)


class _Trials:
    """Copies of one world, in which one that waits has more than it has."""

    def __init__(self, waiter: Job | Replica, snapshot: Snapshot, memo: Memo) -> None:
        self._waiter, self._project = waiter, waiter.project
        self._snapshot, self._memo = snapshot, memo
        self._due_s = 0.0
        """Until the next turn, which is the same in all of them."""

    def fixes(self) -> Iterator[Reason]:
        """Return what would help, of each sort the least."""
        waiter, want = self._waiter, self._want()
        is_out = isinstance(waiter, Job) and not is_in_line(waiter, self._snapshot)
        if want is None or (is_out and not held_back(waiter.status)):
            return
        limit = self._memo.ground(self._snapshot).allowed_to(waiter, want.ask, want.nodes)
        if isinstance(limit, Limit):
            yield from self._within(want, limit)
            return
        lane = self._lane(self._snapshot)
        at = next((at for at, m in enumerate(lane.present) if self._is(m)), None) if lane else None
        if lane is None or at is None or lane.turn.why[at] != Why.NONE:
            return
        self._due_s = max(0.0, due_s(lane, self._snapshot))
        yield from self._by_weight()
        yield from self._by_grant(lane, ceil(lane.present[at].milli / MILLI))

    def _within(self, want: Want, limit: Limit) -> Iterator[Reason]:
        """Return what has quotas leave it enough: one that is raised, or a grant on top."""
        yield from reliefs(limit, self._project, want, self._memo.ground(self._snapshot))
        lacks = -(-(limit.used + limit.asked - limit.most) // MILLI)
        grant = self._grant(limit.kind, lacks) if limit.what == "accelerators" else None
        if grant and not self._beyond(grant):
            ground = self._memo.ground(self._snapshot.after([grant]))
            left = ground.allowed_to(self._waiter, want.ask, want.nodes)
            if isinstance(left, Ask) and replace(want, ask=left).fits(ground):
                yield _asked(grant, "quota.fix-grant")

    def _by_weight(self) -> Iterator[Reason]:
        """Return the least of some weights that has room made, sooner than without it."""
        own_s = self._room_s(self._snapshot)
        was = quota_of(self._project, self._snapshot).spec.weight
        weights = [was * times for times in TIMES if was * times <= WEIGHT_MOST]
        if not weights or self._weighed_s(weights[-1], own_s) is None:
            return
        for weight in weights:
            room_s = self._weighed_s(weight, own_s)
            if room_s is not None:
                values: dict[str, Value] = {
                    "place": self._project, "weight": weight, "was": was,
                    "in": written_duration(room_s),
                }  # fmt: skip
                yield Reason(code="queue.fix-weight", values=values)
                return

    def _weighed_s(self, weight: float, own_s: float | None) -> float | None:
        """Return in how long room is made with such a weight; None: no sooner than without."""
        room_s = self._room_s(self._with(weighed(self._project, weight, self._snapshot)))
        return room_s if room_s is not None and (own_s is None or room_s < own_s) else None

    def _by_grant(self, lane: Lane, size: int) -> Iterator[Reason]:
        """Return the smallest grant that has room made at the next turn."""
        most = min(lane.capacity, ceil(float(lane.shares.demand[lane.index[self._project]])))
        while most >= size and (beyond := self._beyond(self._grant(lane.kind, most))):
            most -= beyond.promised - beyond.there
        least = size
        if least > most or not (found := self._granted(lane.kind, most)):
            return
        while least < most:
            middle = (least + most) // 2
            if fewer := self._granted(lane.kind, middle):
                found, most = fewer, middle
            else:
                least = middle + 1
        yield _asked(found, "queue.fix-grant", **{"in": written_duration(self._due_s)})

    def _granted(self, kind: str, count: int) -> Grant | None:
        """Return a grant of so many if it has room made at the next turn."""
        grant = self._grant(kind, count)
        return grant if self._has_room(self._with(grant), 0.0) else None

    def _grant(self, kind: str, count: int) -> Grant:
        """Return a grant as of today, for some weeks."""
        grants, now = self._snapshot.grants, self._snapshot.now
        names = (NAME, *(f"{NAME}-{n}" for n in range(2, len(grants) + 3)))
        name = next(each for each in names if Ref(self._project, each) not in grants)
        spec = GrantSpec.model_validate({
            "accelerator": kind, "count": count, "from": day_at(now),
            "until": day_at(now + DAYS * DAY_S),
        })  # fmt: skip
        return granted(Ref(self._project, name), spec, self._snapshot)

    def _beyond(self, grant: Grant) -> Beyond | None:
        """Return where more would be promised than there is: no operator would say yes to that."""
        kinds = [each.spec.accelerator for each in self._snapshot.accelerators.values()]
        around = Around([*self._snapshot.grants.values(), grant], kinds)
        return around.beyond(grant, self._snapshot.now)

    def _with(self, merit: AnyResource) -> Snapshot:
        """Return the world in which its project has this, where each stands written down anew."""
        world = self._snapshot.after([merit])
        return assume(world, Plan(tuple(plan_queues(world, self._memo.order(world)))))

    def _room_s(self, world: Snapshot) -> float | None:
        """Return in how long room is made for it with all else as it is; None: not in a day."""
        if not self._has_room(world, AFTER_S[-1]):
            return None
        low, high = 0, len(AFTER_S) - 1
        while low < high:
            middle = (low + high) // 2
            if self._has_room(world, AFTER_S[middle]):
                high = middle
            else:
                low = middle + 1
        return self._due_s + AFTER_S[high]

    def _has_room(self, world: Snapshot, after_s: float) -> bool:
        """Tell whether others are asked to make room for it, so long after a turn is due."""
        after_s += self._due_s
        aged = replace(world, now=world.now + after_s, steady_s=world.steady_s + after_s)
        ground, lane = self._memo.ground(aged), self._lane(aged)
        return lane is not None and would_make_room(self._waiter, lane, aged, ground)

    def _lane(self, snapshot: Snapshot) -> Lane | None:
        lanes = self._memo.order(snapshot).lanes.values()
        return next((lane for lane in lanes if lane.has(self._waiter)), None)

    def _is(self, member: Member) -> bool:
        return member.owner.uid == self._waiter.uid

    def _want(self) -> Want | None:
        if isinstance(self._waiter, Job):
            return want_of(self._waiter)
        ask = ask_of(self._waiter.revision, self._snapshot)
        return Want(ask) if ask else None


def _asked(grant: Grant, code: str, **values: Value) -> Reason:
    spec = grant.spec
    return Reason(code=code, values={
        "count": spec.count, "kind": spec.accelerator, "begins": spec.begins, "until": spec.until,
        "name": grant.name, "project": grant.project, **values,
    })  # fmt: skip
