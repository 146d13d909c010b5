"""Who of all that wait is tried first: each lane by its turn, and what counts for more before.

Made from one snapshot, once; nobody asks for it where nothing waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from madang.planning.ask import of_kind
from madang.planning.grants import guaranteed, weights
from madang.planning.place.gangs import Want, want_of
from madang.planning.queue.clock import clock_s, passed_s
from madang.planning.queue.lanes import MILLI, NOBODY_IN, Lane, Member, Roster, Terms
from madang.planning.queue.members import Muster, mark_of
from madang.planning.queue.yard import Yard
from madang.planning.quotas import Books, places_of
from madang.planning.share.line import Ints
from madang.planning.share.rule import RULE
from madang.planning.share.turn import Why
from madang.planning.snapshot import Snapshot
from madang.resources.holding import Holding
from madang.resources.job import Job
from madang.resources.queue import Queue
from madang.resources.quota import QUEUED_MAX
from madang.resources.resource import Ref

MARKED_S = 60.0
"""So long after room was made it is first for those for whom it was."""
ELDEST = -1
"""In place of the rank of who has waited longest of those that have waited too long."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job that waits stands."""

    lane: Lane
    why: Why
    """For what it is to have room now."""
    ahead: int
    """So many are tried before it."""
    height: int
    """What it counts for."""
    is_eldest: bool
    """Whether what is free of its lane is kept for it: it has waited too long."""


class Order:
    """All that waits for accelerators, and who is before whom."""

    def __init__(self, snapshot: Snapshot, yard: Yard, books: Books, muster: Muster) -> None:
        self._snapshot, self._yard, self._books, self.muster = snapshot, yard, books, muster
        self._door: dict[str, tuple[str, int]] = {}

    @cached_property
    def lanes(self) -> Mapping[str, Lane]:
        """Return the lanes in which anything waits or has something, or did, by their kinds."""
        known = {queue.spec.accelerator: queue for queue in self._snapshot.queues.values()}
        rosters = {kind: own for kind, own in self.muster.rosters.items() if own.members}
        return {
            kind: self._lane(kind, rosters.get(kind, NOBODY_IN), known.get(kind))
            for kind in sorted(known.keys() | rosters.keys())
        }

    @property
    def are_kept(self) -> bool:
        """Tell whether something is stored already of each lane in which there is anything."""
        return all(lane.queue or not lane.members for lane in self.lanes.values())

    def _lane(self, kind: str, roster: Roster, queue: Queue | None) -> Lane:
        counts = zip(self.muster.names, np.bincount(roster.rows["project"]).tolist(), strict=False)
        asking = {name: count for name, count in counts if count}
        passed = passed_s(self._snapshot, queue.uid, queue.status.at) if queue else 0.0
        return Lane(
            kind, self._yard.capacity[kind], self._yard.units.get(kind, 1), self._snapshot.now,
            self._inside(roster, asking), self.muster.names, self._terms(kind, asking), queue,
            passed, clock_s(queue, self._snapshot),
            replace(RULE, budget=self._snapshot.fairness_budget),
        )  # fmt: skip

    def _inside(self, roster: Roster, asking: Mapping[str, int]) -> Roster:
        """Leave those at the door of whose project, or organization, there are enough inside."""
        doors = {project: tuple(self._doors(project)) for project in asking}
        total: Counter[str] = Counter()
        for project, own in doors.items():
            total.update({place: asking[project] for place, _ in own})
        crowded = {p for p, own in doors.items() if any(total[place] > most for place, most in own)}
        if not crowded:
            return roster
        count: Counter[str] = Counter()
        is_inside = np.ones(len(roster.members), np.bool_)
        for at, member in enumerate(roster.members):
            project = member.project
            if project not in crowded or member.runs or not isinstance(member.owner, Job):
                continue
            full = next((each for each in doors[project] if count[each[0]] >= each[1]), None)
            if full:
                self._door[member.owner.uid] = full
                is_inside[at] = False
            else:
                count.update(place for place, _ in doors[project])
        return roster.only(is_inside)

    def _doors(self, project: str) -> Iterator[tuple[str, int]]:
        """Return how many jobs of a project, and of its organization, may be in a line."""
        for place in places_of(project):
            quota = self._snapshot.quotas.get(Ref(place, place.rpartition("/")[2]))
            most = quota.spec.queued if quota else None
            if most is not None or place == project:
                yield place, QUEUED_MAX if most is None else most

    @property
    def door(self) -> Mapping[str, tuple[str, int]]:
        """Return who waits at the door, by uid: of which place so many are inside already."""
        return self._door if self.lanes else {}

    @cached_property
    def waiting(self) -> tuple[Job, ...]:
        """Return the jobs in line, the first in front.

        What counts for more comes first; then for whom others have just made room; then the eldest
        of a lane, where it waited too long; then who is to have room now by the turn of their lane;
        and then the rest, by what a second is worth.
        """
        return tuple(member.job for member in self.line)

    @property
    def line(self) -> Sequence[Member]:
        """Return the same as members of their lanes."""
        return self._ranked[0]

    def is_in(self, job: Job) -> bool:
        """Tell whether a job is in line."""
        return job.uid in self.muster.waits and job.uid not in self.door

    def place(self, job: Job) -> Place | None:
        """Return where a job stands; None: in no line."""
        member = self.muster.waits.get(job.uid)
        if member is None or job.uid in self.door:
            return None
        lane = self.lanes[member.kind]
        at = lane.here.at(member)
        ahead = self._ranked[1][lane.kind].item(at)
        return Place(lane, Why(lane.turn.why[at]), ahead, member.height, at == lane.eldest)

    def want(self, job: Job) -> Want:
        """Return what its gang asks for; the same object for all in line that ask for the same."""
        member = self.muster.waits.get(job.uid)
        return member.want if member and member.want else want_of(job)

    def is_kept_from(self, job: Job, kinds: Container[str]) -> bool:
        """Tell whether what is free of these kinds is not for this job."""
        place = self.place(job)
        return place is not None and place.why is Why.NONE and place.lane.kind in kinds

    def yields_to_age(self, job: Job) -> bool:
        """Tell whether one that waited too long is before it in its lane, and it is given none."""
        place = self.place(job)
        if place is None or place.why is not Why.NONE or place.lane.eldest is None:
            return False
        return 0 <= self._ranked[1][place.lane.kind].item(place.lane.eldest) < place.ahead

    def ahead_of(self, waiter: Job) -> Sequence[Job]:
        """Return the jobs that are tried before this one; of one that is in no line all."""
        place = self.place(waiter)
        return self.waiting[: place.ahead] if place else self.waiting

    @cached_property
    def _ranked(self) -> tuple[Sequence[Member], Mapping[str, Ints]]:
        """Return who is in line, the first in front; and, by kind, how many are before each."""
        waits: list[Member] = []
        keys, who = [np.zeros((4, 0), np.int64)], {}
        for number, (kind, lane) in enumerate(self.lanes.items()):
            rows = lane.here.rows
            who[kind] = own = np.flatnonzero(~rows["runs"] & rows["is_job"])
            if not len(own):
                continue
            members = [lane.present[at] for at in own.tolist()]
            made = [-(mark_of(m.owner) in self.promised) for m in members if self.promised]
            numbers, none = np.full(len(own), number), np.zeros(len(own), np.int64)
            keys.append(np.array([numbers, _ranks(lane)[own], made or none, -rows["height"][own]]))
            waits += members
        order = np.lexsort(np.concatenate(keys, axis=1))
        before, ahead, at = np.empty(len(order), np.int64), {}, 0
        before[order] = np.arange(len(order))
        for kind, own in who.items():
            ahead[kind] = np.full(len(self.lanes[kind].present), -1)
            ahead[kind][own] = before[at : at + len(own)]
            at += len(own)
        return [waits[each] for each in order.tolist()], ahead

    @cached_property
    def promised(self) -> Mapping[str, tuple[Holding, ...]]:
        """Return for whom room is being made, or just was, by their marks, and what is coming."""
        found: dict[str, tuple[Holding, ...]] = {}
        for attempt in self.muster.making:
            mark = attempt.status.room_for
            found[mark] = (*found.get(mark, ()), *attempt.status.places)
        ended = (job for job in self.muster.idle.values() if job.ref not in self.muster.living)
        for job in (*self.muster.moved, *ended):  # these are to be told yet that they wait again
            last = self._snapshot.attempts.get(Ref(job.project, f"{job.name}-{job.status.attempt}"))
            ended_at = last.status.ended_at if last else None
            if last and last.status.room_for and self._snapshot.now - (ended_at or 0.0) < MARKED_S:
                found.setdefault(last.status.room_for, ())
        return found

    def coming_for(self, waiter: Job) -> tuple[Holding, ...]:
        """Return what others are about to let go of for this one."""
        return self.promised.get(mark_of(waiter), ()) if self.promised else ()

    @cached_property
    def _promised(self) -> Mapping[str, Mapping[str, float]]:
        """Return what projects are guaranteed of each kind, where there is most of it first."""
        found: dict[str, Counter[str]] = {}
        capacity = self._yard.capacity
        for project, starts in sorted(guaranteed(self._snapshot).items()):
            for start, count in sorted(starts.items()):
                kinds = [kind for kind in capacity if of_kind(kind, start)]
                left = count
                for kind in sorted(kinds, key=lambda kind: (-capacity[kind], kind)):
                    part = min(left, capacity[kind])
                    found.setdefault(kind, Counter())[project] += part
                    left -= part
        return found

    @cached_property
    def _weights(self) -> Mapping[str, float]:
        return weights(self._snapshot)

    def _terms(self, kind: str, projects: Iterable[str]) -> Terms:
        most: dict[str, float] = {}
        for project in sorted(projects) if self._books.limits else ():
            limits = [
                limit.most / MILLI for place in places_of(project)
                for limit in self._books.limits.get(place, ())
                if limit.what == "accelerators" and of_kind(kind, limit.kind)
            ]  # fmt: skip
            if limits:
                most[project] = min(limits)
        return Terms(self._weights, self._promised.get(kind, {}), most)


def _ranks(lane: Lane) -> Ints:
    """Return who of a lane is tried first: the eldest, who is to start, and the rest by worth."""
    made = lane.turn
    rank, is_start = np.empty(len(made.order), np.int64), np.zeros(len(made.order), np.bool_)
    is_start[made.starts] = True
    rank[made.starts] = np.arange(len(made.starts))
    rank[made.order[~is_start[made.order]]] = np.arange(len(made.starts), len(made.order))
    if lane.eldest is not None:
        rank[lane.eldest] = ELDEST
    return rank
