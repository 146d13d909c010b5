"""Who of all that wait is tried first: each lane by its turn, and what counts for more before.

Made from one snapshot, once; nobody asks for it where nothing waits.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter, itemgetter

from madang.planning.ask import Ask, of_kind
from madang.planning.grants import guaranteed, weights
from madang.planning.leaving import LEAVING
from madang.planning.place.gangs import Want, want_of
from madang.planning.queue.lanes import MILLI, Lane, Member, Terms
from madang.planning.queue.waiting import is_in_line, may_yield
from madang.planning.queue.yard import Waits, Yard
from madang.planning.quotas import NOTHING, Books, held_back, places_of
from madang.planning.share.turn import Why
from madang.planning.snapshot import Snapshot
from madang.planning.template import ask_of
from madang.resources.attempt import Attempt, AttemptPhase
from madang.resources.holding import Holding
from madang.resources.job import Job, JobPhase, JobSpec
from madang.resources.queue import Queue
from madang.resources.quota import QUEUED_MAX
from madang.resources.replica import Replica, ReplicaPhase
from madang.resources.resource import Ref
from madang.resources.tenancy import Isolation, Project

INTERVAL_S = 1800.0
"""In place of how often a job is asked to save, where it saves as it likes."""
UNSEEN_S_MAX = 86_400.0
"""Of time that nobody watched, since control was down or the clock was set, so much counts."""
MARKED_S = 60.0
"""So long after room was made it is first for those for whom it was."""
ON = frozenset({AttemptPhase.STARTING, AttemptPhase.RUNNING})


ELDEST = -1
"""In place of the rank of who has waited longest of those that have waited too long."""
KNOWN_MAX = 100_000


def mark_of(waiter: Job | Replica) -> str:
    """Return a mark of who gets room that says nothing to those who don't know its uid."""
    return hashlib.sha256(waiter.uid.encode()).hexdigest()[:16]


def passed_s(snapshot: Snapshot, uid: str, stamp: float) -> float:
    """Return how long ago a stamp was written: as watched, else as the clock has it, to a bound."""
    watched = snapshot.age_s(uid, stamp)
    return min(max(snapshot.now - stamp, watched), watched + UNSEEN_S_MAX)


def queue_name(kind: str) -> str:
    """Return what the queue for a kind of accelerators is called.

    >>> queue_name("nvidia/h100")
    'nvidia-h100'
    """
    return kind.replace("/", "-")


class Wants:
    """What each job asks for, and as what it waits, kept as long as nothing of that changes."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[JobSpec, Want]] = {}
        self._alike: dict[Want, Want] = {}
        self._waiters: dict[str, tuple[Job, Yard, str, Member]] = {}

    def of(self, job: Job) -> Want:
        """Return what its gang asks for; the same object for all that ask for the same."""
        known = self._known.get(job.uid)
        if known is None or known[0] is not job.spec:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
                self._alike.clear()
            want = want_of(job)
            known = self._known[job.uid] = job.spec, self._alike.setdefault(want, want)
        return known[1]

    def ask(self, job: Job) -> Ask:
        """Return what it asks for of each of its nodes."""
        return self.of(job).ask

    def waiter(self, job: Job, yard: Yard) -> tuple[str, Member] | None:
        """Return as what a job waits, and for which kind, if that is known still."""
        known = self._waiters.get(job.uid)
        return known[2:] if known and known[0] is job and known[1] is yard else None

    def keep(self, job: Job, yard: Yard, kind: str, member: Member) -> None:
        """Note as what a job waits that depends on nothing but itself and the hardware."""
        if len(self._waiters) >= KNOWN_MAX:
            self._waiters.clear()
        self._waiters[job.uid] = job, yard, kind, member


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

    def __init__(self, snapshot: Snapshot, yard: Yard, books: Books, wants: Wants) -> None:
        self._snapshot, self._yard, self._books, self._wants = snapshot, yard, books, wants
        self._door: dict[str, tuple[str, int]] = {}
        self._left: dict[tuple[str, Want], Waits | None] = {}

    @cached_property
    def lanes(self) -> Mapping[str, Lane]:
        """Return the lanes in which anything waits or has something, or did, by their kinds."""
        known = {queue.spec.accelerator: queue for queue in self._snapshot.queues.values()}
        members: dict[str, list[Member]] = {kind: [] for kind in known}
        for kind, member in self._members():
            members.setdefault(kind, []).append(member)
        lanes = sorted(members.items())
        return {kind: self._lane(kind, own, known.get(kind)) for kind, own in lanes}

    @property
    def are_kept(self) -> bool:
        """Tell whether something is stored already of each lane in which there is anything."""
        return all(lane.queue or not lane.members for lane in self.lanes.values())

    def _lane(self, kind: str, members: list[Member], queue: Queue | None) -> Lane:
        members.sort(key=attrgetter("mark"))
        inside = self._inside(members)
        passed = passed_s(self._snapshot, queue.uid, queue.status.at) if queue else 0.0
        return Lane(
            kind, self._yard.capacity[kind], self._yard.units.get(kind, 1), self._snapshot.now,
            tuple(inside), self._terms(kind, {m.project for m in inside}), queue, passed,
        )  # fmt: skip

    def _inside(self, members: Sequence[Member]) -> Iterator[Member]:
        """Leave those at the door of whose project, or organization, there are enough inside."""
        asking = Counter(member.project for member in members)
        if not self._snapshot.quotas and max(asking.values(), default=0) <= QUEUED_MAX:
            yield from members
            return
        limits: dict[str, list[tuple[str, int]]] = {}
        count: Counter[str] = Counter()
        for member in members:
            project = member.project
            if member.runs or not isinstance(member.owner, Job):
                yield member
                continue
            if project not in limits:
                limits[project] = list(self._doors(project))
            full = next((each for each in limits[project] if count[each[0]] >= each[1]), None)
            if full:
                self._door[member.owner.uid] = full
                continue
            for place, _ in limits[project]:
                count[place] += 1
            yield member

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

    def _members(self) -> Iterator[tuple[str, Member]]:
        running: dict[Ref, Attempt] = {}
        for attempt in self._snapshot.living:
            job = self._snapshot.jobs.get(attempt.job)
            has = self._yard.held(attempt.status.places)
            if job and has:
                running[job.ref] = attempt
                yield has.kind, self._runner(job, attempt, has.milli)
        for job in self._snapshot.open_jobs:
            if job.status.phase is JobPhase.WAITING:
                found = self._wants.waiter(job, self._yard) if self._is_plain else None
                found = found or self._waiting_one(job, running)
                if found:
                    yield found
        yield from self._replicas()

    @cached_property
    def _is_plain(self) -> bool:
        """Tell whether no quota and no demand of a project may be in the way of a job."""
        projects = self._snapshot.all(Project).values()
        return not self._books.limits and all(p.spec.isolation is Isolation.NONE for p in projects)

    def _waiting_one(self, job: Job, running: Container[Ref]) -> tuple[str, Member] | None:
        """Return as what a job waits, and for which kind; None: not for room, or for ever."""
        if job.ref in running or not is_in_line(job, self._snapshot):
            return None
        waits = self._waits(job.project, self._wants.of(job))
        if waits is None:
            return None
        member, spec = self._waiter(job, waits.milli), job.spec
        is_alone = not (spec.after or spec.mounts or spec.secrets or job.status.next_try)
        if is_alone and job.status.line and self._is_plain:
            self._wants.keep(job, self._yard, waits.kind, member)
        return waits.kind, member

    @cached_property
    def waiting(self) -> tuple[Job, ...]:
        """Return the jobs in line, the first in front.

        What counts for more comes first; then for whom others have just made room; then the eldest
        of a lane, where it waited too long; then who is to have room now by the turn of their lane;
        and then the rest, by what a second is worth.
        """
        return tuple(job for _, job, _, _ in self._ranked)

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {job.uid: at for at, job in enumerate(self.waiting)}

    def is_in(self, job: Job) -> bool:
        """Tell whether a job is in line."""
        return job.uid in self._places

    def place(self, job: Job) -> Place | None:
        """Return where a job stands; None: in no line."""
        ahead = self._places.get(job.uid)
        if ahead is None:
            return None
        (*_, rank, _), job, lane, why = self._ranked[ahead]
        return Place(lane, Why(why), ahead, job.spec.priority.height, rank == ELDEST)

    def is_kept_from(self, job: Job, kinds: Container[str]) -> bool:
        """Tell whether what is free of these kinds is not for this job."""
        place = self.place(job)
        return place is not None and place.why is Why.NONE and place.lane.kind in kinds

    def yields_to_age(self, job: Job) -> bool:
        """Tell whether one that waited too long is before it in its lane, and it is given none."""
        place = self.place(job)
        if place is None or place.why is not Why.NONE:
            return False
        before = self._ranked[: place.ahead]
        return any(mark[2] == ELDEST and lane is place.lane for mark, _, lane, _ in before)

    def want(self, job: Job) -> Want:
        """Return what its gang asks for."""
        return self._wants.of(job)

    def ahead_of(self, waiter: Job) -> Sequence[Job]:
        """Return the jobs that are tried before this one; of one that is in no line all."""
        return self.waiting[: self._places.get(waiter.uid, len(self.waiting))]

    @cached_property
    def _ranked(self) -> list[tuple[tuple[int, bool, int, str], Job, Lane, int]]:
        rows = []
        for kind, lane in self.lanes.items():
            waits = [
                (at, member.owner) for at, member in enumerate(lane.present)
                if not member.runs and isinstance(member.owner, Job)
            ]  # fmt: skip
            if not waits:
                continue
            made = lane.turn
            order = dict.fromkeys([*made.starts, *made.order.tolist()])
            rank = {job: at for at, job in enumerate(order)}
            if lane.eldest is not None:
                rank[lane.eldest] = ELDEST
            why = made.why.tolist()
            for at, job in waits:
                is_made = lane.present[at].room_mark in self.promised
                key = -lane.present[at].height, not is_made, rank[at], kind
                rows.append((key, job, lane, why[at]))
        rows.sort(key=itemgetter(0))
        return rows

    @cached_property
    def promised(self) -> Mapping[str, tuple[Holding, ...]]:
        """Return for whom room is being made, or just was, by their marks, and what is coming."""
        found: dict[str, tuple[Holding, ...]] = {}
        for attempt in self._snapshot.living:
            if (mark := attempt.status.room_for) and attempt.status.phase not in ON:
                found[mark] = (*found.get(mark, ()), *attempt.status.places)
        for job in self._snapshot.open_jobs:
            status = job.status
            if status.preempted_at and status.phase is JobPhase.WAITING:
                last = self._snapshot.attempts.get(Ref(job.project, f"{job.name}-{status.attempt}"))
                is_fresh = self._snapshot.now - status.preempted_at[-1] < MARKED_S
                if last and last.status.room_for and is_fresh:
                    found.setdefault(last.status.room_for, ())
        return found

    def coming_for(self, waiter: Job) -> tuple[Holding, ...]:
        """Return what others are about to let go of for this one."""
        return self.promised.get(mark_of(waiter), ()) if self.promised else ()

    def _waits(self, project: str, want: Want, but: Holding = NOTHING) -> Waits | None:
        """Return for what a project's ask waits, as far as its quotas leave it anything.

        `but`: what it takes over from somebody counts for nothing.
        """
        if not self._books.limits:
            return self._yard.waits(want)
        if but is not NOTHING:
            left = self._yard.allowed(self._books, project, want, but)
            return self._yard.waits(left) if left else None
        if (project, want) not in self._left:
            left = self._yard.allowed(self._books, project, want)
            self._left[project, want] = self._yard.waits(left) if left else None
        return self._left[project, want]

    def _waiter(self, job: Job, milli: int) -> Member:
        now, status = self._snapshot.now, job.status
        came = status.line.since if status.line else now
        return Member.of(
            job, milli, came, had_s=self._had_s(job), room_mark=mark_of(job),
            ran_s=max(0.0, status.run_s - status.lost_s), height=job.spec.priority.height,
        )  # fmt: skip

    def _runner(self, job: Job, attempt: Attempt, milli: int) -> Member:
        now, status, own = self._snapshot.now, job.status, attempt.status
        came = status.line.since if status.line else own.started_at
        ran = max(0.0, now - own.started_at)
        saved = [c.at for c in status.checkpoints if c.attempt == attempt.spec.number]
        interval_s = attempt.spec.save_every_s or INTERVAL_S
        unsaved = (now - max([own.started_at, *saved])) / interval_s
        return Member.of(
            job, milli, came, attempt=attempt, runs=True,
            leaves=own.phase not in ON or status.attempt != attempt.spec.number,
            fixed=not may_yield(job, now) or (not saved and self._was_fruitless(job, attempt)),
            had_s=self._had_s(job) + ran,
            ran_s=max(0.0, status.run_s - status.lost_s) + ran,
            unsaved=max(0.0, unsaved), height=job.spec.priority.height,
        )  # fmt: skip

    def _had_s(self, job: Job) -> float:
        """Return how long it has held something since it came, in attempts that ended."""
        return job.status.run_s - (job.status.line.had_s if job.status.line else 0.0)

    def _was_fruitless(self, job: Job, attempt: Attempt) -> bool:
        """Tell whether its attempt before made room before it had saved anything."""
        ref = Ref(job.project, f"{job.name}-{attempt.spec.number - 1}")
        before = self._snapshot.attempts.get(ref) if job.status.preempted_at else None
        return before is not None and bool(before.status.room_for) and (
            before.spec.resume_from == attempt.spec.resume_from
        )  # fmt: skip

    def _replicas(self) -> Iterator[tuple[str, Member]]:
        for replica in self._snapshot.replicas.values():
            status, came = replica.status, replica.created_at
            waits = self._yard.held((status,)) if status.accelerators else None
            if waits:
                leaves = status.phase in LEAVING
                had_s = self._snapshot.now - came
                yield waits.kind, Member.of(
                    replica, waits.milli, came, had_s=had_s, runs=True, fixed=True, leaves=leaves
                )  # fmt: skip
            elif self._may_wait(replica):
                ask = ask_of(replica.revision, self._snapshot)
                waits = self._waits(
                    replica.project, Want(ask), self._books.taken_from(replica)
                ) if ask else None  # fmt: skip
                if waits:
                    yield waits.kind, Member.of(replica, waits.milli, came)

    def _may_wait(self, replica: Replica) -> bool:
        is_waiting = replica.status.phase is ReplicaPhase.WAITING and not replica.spec.replaces
        return is_waiting and not held_back(replica.status)

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

    def _terms(self, kind: str, projects: set[str]) -> Terms:
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
