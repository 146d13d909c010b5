"""Who waits for accelerators and who has some, followed from snapshot to snapshot.

Of ten thousand that wait a handful has changed since the last turn, and only those are looked at.
What hangs on more than a job and its attempt is loose, and looked at in every turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import inf

from madang.planning.ask import Ask
from madang.planning.cadence import between_s
from madang.planning.leaving import LEAVING
from madang.planning.place.gangs import Want, want_of
from madang.planning.queue.clock import passed_s
from madang.planning.queue.lanes import INTERVAL_S, NOBODY_IN, Member, Roster, queue_name
from madang.planning.queue.waiting import is_in_line, is_out, yields_at
from madang.planning.queue.yard import Waits, Yard
from madang.planning.quotas import NOTHING, Books, held_back
from madang.planning.since import Since, is_same
from madang.planning.snapshot import Snapshot
from madang.planning.template import ask_of
from madang.resources.attempt import Attempt, AttemptPhase
from madang.resources.holding import Holding
from madang.resources.job import OVER, Job, JobPhase, JobSpec
from madang.resources.replica import Replica, ReplicaPhase
from madang.resources.resource import Ref
from madang.resources.tenancy import Isolation, Project

ON = frozenset({AttemptPhase.STARTING, AttemptPhase.RUNNING})
KNOWN_MAX = 100_000


@lru_cache(KNOWN_MAX)
def _mark(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:16]


def mark_of(waiter: Job | Replica) -> str:
    """Return a mark of who gets room that says nothing to those who don't know its uid."""
    return _mark(waiter.uid)


class Wants:
    """What each job asks for, kept as long as nothing of that changes."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[JobSpec, Want]] = {}
        self._alike: dict[Want, Want] = {}

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


@dataclass(frozen=True, slots=True)
class Muster:
    """All that waits in one snapshot, or has something; nothing in it changes."""

    rosters: Mapping[str, Roster]
    """By kind of accelerators."""
    waits: Mapping[str, Member]
    """Jobs in line, by uid."""
    living: Mapping[Ref, tuple[Attempt, ...]]
    """Attempts that have not ended, by job."""
    idle: Mapping[str, Job]
    """Open jobs in no line, by uid;"""
    out: tuple[Job, ...]
    """jobs that a queue has to learn of, for they have left it;"""
    moved: tuple[Job, ...]
    """jobs that wait, and made room before;"""
    making: tuple[Attempt, ...]
    """and attempts that are making room for somebody."""
    names: tuple[str, ...]
    """Of projects, by the numbers that rosters have for them."""


class _Here:
    """Where members are told what they wait for: one snapshot, and what quotas leave of it."""

    def __init__(self, snapshot: Snapshot, yard: Yard, books: Books) -> None:
        self.snapshot, self.yard, self._books = snapshot, yard, books
        self.demanding = frozenset(
            each.project for each in snapshot.all(Project).values()
            if each.spec.isolation is not Isolation.NONE
        )  # fmt: skip
        """Projects that demand something of where their jobs run."""
        self._left: dict[tuple[str, Want], Waits | None] = {}

    def waits_for(self, replica: Replica) -> tuple[Want, Waits] | None:
        """Return what a replica asks for, and for what it waits; what it takes over is there."""
        ask = ask_of(replica.revision, self.snapshot)
        if ask is None:
            return None
        want = Want(ask)
        taken = self._books.taken_from(replica) if self._books.limits else NOTHING
        waits = self._allowed(replica.project, want, taken)
        return (want, waits) if waits else None

    def waits(self, project: str, want: Want) -> Waits | None:
        """Return for what a project's ask waits, as far as its quotas leave it anything."""
        if (project, want) not in self._left:
            self._left[project, want] = self._allowed(project, want)
        return self._left[project, want]

    def _allowed(self, project: str, want: Want, taken: Holding = NOTHING) -> Waits | None:
        """`taken`: what it takes over from somebody counts for nothing."""
        if not self._books.limits:
            return self.yard.waits(want)
        left = self.yard.allowed(self._books, project, want, taken)
        return self.yard.waits(left) if left else None


class Roll:
    """What of jobs and attempts counts for the queue, kept as long as nothing of that changes."""

    def __init__(self) -> None:
        self._wants = Wants()
        self._clear((None, frozenset()))

    def _clear(self, world: tuple[object, object]) -> None:
        self._world = world
        self._stores: tuple[object, ...] = ()
        self._jobs, self._attempts = Since[Job](), Since[Attempt]()
        self._replicas = Since[Replica]()
        self._living: dict[Ref, tuple[Attempt, ...]] = {}
        self._making: dict[str, Attempt] = {}
        self._rest: dict[str, Job] = {}
        self._out: dict[str, Job] = {}
        self._moved: dict[str, Job] = {}
        self._loose: dict[str, Job] = {}
        """Jobs that wait, and are looked at in every turn."""
        self._stored: dict[str, Job] = {}
        """Jobs in line that have need of something that is stored."""
        self._bare: dict[str, Replica] = {}
        """Replicas that have nothing that is known, by uid: some of them wait."""
        self._known: dict[str, Member] = {}
        """By uid of the job that waits, of the attempt, or of the replica that has something."""
        self._alike: dict[tuple[str, Want], dict[str, Member]] = {}
        """Those of them that wait, by project and what they ask for."""
        self._rosters: dict[str, Roster] = {}
        self._gone: dict[str, list[Member]] = {}
        self._come: dict[str, dict[int, Member]] = {}
        self._names: dict[str, int] = {}

    def muster(self, snapshot: Snapshot, yard: Yard, books: Books) -> Muster:
        """Return who waits in this snapshot, or has something."""
        here = _Here(snapshot, yard, books)
        if self._world[0] is not snapshot.accelerators or self._world[1] != here.demanding:
            self._clear((snapshot.accelerators, here.demanding))
        self._follow(here)
        self._follow_replicas(here)
        self._loosen(here)
        others = [*self._look(here), *self._waiters(here)]
        rosters = self._swapped()
        waits = {uid: m for own in self._alike.values() for uid, m in own.items()}
        waits |= {member.owner.uid: member for member in others if isinstance(member.owner, Job)}
        for kind in {member.kind for member in others}:
            own = [member for member in others if member.kind == kind]
            rosters[kind] = rosters.get(kind, NOBODY_IN).after((), own)
        idle = {uid: job for uid, job in self._loose.items() if uid not in waits}
        return Muster(
            rosters, waits, dict(self._living), {**self._rest, **idle}, tuple(self._out.values()),
            tuple(self._moved.values()), tuple(self._making.values()), tuple(self._names),
        )  # fmt: skip

    def asks(self, snapshot: Snapshot) -> Iterator[Ask]:
        """Return what is asked for by all that wait, once for each revision and kind of gang."""
        waiting = (r.revision for r in snapshot.unsettled if r.status.phase is ReplicaPhase.WAITING)
        yield from filter(None, (ask_of(ref, snapshot) for ref in dict.fromkeys(waiting)))
        loose = (self._wants.of(job) for job in self._loose.values() if not job.spec.sweep)
        wants = dict.fromkeys([*(want for _, want in self._alike), *loose])
        yield from dict.fromkeys(want.ask for want in wants)

    def _follow(self, here: _Here) -> None:
        """Look at the jobs and attempts that have changed, and at no other."""
        gone, come = self._attempts.look(here.snapshot.attempts.values())
        left, found = self._jobs.look(here.snapshot.jobs.values())
        for attempt in gone:
            self._making.pop(attempt.uid, None)
            self._drop(attempt.uid)
            own = self._living.get(attempt.job, ())
            self._living[attempt.job] = tuple(each for each in own if each is not attempt)
        for attempt in come:
            status = attempt.status
            if status.phase is not AttemptPhase.ENDED:
                self._living[attempt.job] = (*self._living.get(attempt.job, ()), attempt)
                if status.room_for and status.phase not in ON:
                    self._making[attempt.uid] = attempt
        for job in left:
            self._drop(job.uid)
            for kept in (self._rest, self._out, self._moved, self._loose, self._stored):
                kept.pop(job.uid, None)
        for job in found:
            self._sort(job)
        touched = {each.job for each in (*gone, *come)} | {each.ref for each in (*left, *found)}
        for ref in touched:
            self._run(ref, here)

    def _follow_replicas(self, here: _Here) -> None:
        """Look at the replicas that have changed, and at no other."""
        gone, come = self._replicas.look(here.snapshot.replicas.values())
        for replica in gone:
            self._drop(replica.uid)
            self._bare.pop(replica.uid, None)
        for replica in come:
            status = replica.status
            waits = here.yard.held((status,)) if status.accelerators else None
            if waits is None:
                self._bare[replica.uid] = replica
                continue
            member = Member(
                replica, self._number(replica.project), *waits, replica.created_at, began=inf,
                saved_at=inf, runs=True, fixed_until=inf, leaves=status.phase in LEAVING,
            )  # fmt: skip
            self._keep(replica.uid, member)

    def _sort(self, job: Job) -> None:
        """Put a job where jobs like it are."""
        phase, is_waiting = job.status.phase, job.status.phase is JobPhase.WAITING
        if job.status.line and is_out(job):
            self._out[job.uid] = job
        if is_waiting and job.status.preempted_at:
            self._moved[job.uid] = job
        if is_waiting:
            self._loose[job.uid] = job
        elif phase not in OVER or job.deleted_at:
            self._rest[job.uid] = job

    def _run(self, ref: Ref, here: _Here) -> None:
        """Count what attempts of a job have."""
        job = here.snapshot.jobs.get(ref)
        for attempt in self._living.get(ref, ()):
            self._drop(attempt.uid)
            member = self._runner(job, attempt, here) if job else None
            if member:
                self._keep(attempt.uid, member)
        if not self._living.get(ref, True):
            del self._living[ref]

    def _loosen(self, here: _Here) -> None:
        """Let go of those of whom something may have changed that is not their own."""
        kept = here.snapshot.kept
        stores = (*map(kept.get, ("model", "volume", "secret", "quota")), here.snapshot.encloses)
        if not is_same(stores, self._stores):
            self._stores = stores
            for uid, job in self._stored.items():
                self._drop(uid)
                self._loose[uid] = job
            self._stored.clear()
        for (project, want), own in self._alike.items():
            first = next(iter(own.values()), None)
            if first and here.waits(project, want) != (first.kind, first.milli):
                for uid, member in list(own.items()):
                    self._drop(uid)
                    self._stored.pop(uid, None)
                    self._loose[uid] = member.job

    def _look(self, here: _Here) -> Iterator[Member]:
        """Look at who is loose: keep who is in line for nothing but itself; return other such."""
        for uid, job in list(self._loose.items()):
            member = self._waiter(job, here)
            if member is None:
                continue
            spec = job.spec
            if spec.after or not job.status.line or job.status.next_try or (
                job.project in here.demanding
            ):  # fmt: skip
                yield member
                continue
            del self._loose[uid]
            self._keep(uid, member)
            if spec.mounts or spec.secrets:
                self._stored[uid] = job

    def _keep(self, uid: str, member: Member) -> None:
        self._known[uid] = member
        self._come.setdefault(member.kind, {})[id(member)] = member
        if member.want:
            self._alike.setdefault((member.project, member.want), {})[uid] = member

    def _drop(self, uid: str) -> None:
        member = self._known.pop(uid, None)
        if member is None:
            return
        if not self._come.get(member.kind, {}).pop(id(member), None):
            self._gone.setdefault(member.kind, []).append(member)
        if member.want:
            del self._alike[member.project, member.want][uid]

    def _swapped(self) -> dict[str, Roster]:
        """Return the rosters, with who has gone and who has come."""
        for kind in self._gone.keys() | self._come.keys():
            gone, come = self._gone.get(kind, ()), self._come.get(kind, {}).values()
            self._rosters[kind] = self._rosters.get(kind, NOBODY_IN).after(gone, [*come])
        self._gone.clear()
        self._come.clear()
        return dict(self._rosters)

    def _number(self, project: str) -> int:
        return self._names.setdefault(project, len(self._names))

    def _waiter(self, job: Job, here: _Here) -> Member | None:
        """Return as what a job waits; None: not for room, or for ever."""
        if not is_in_line(job, here.snapshot):
            return None
        if any(each.uid in self._known for each in self._living.get(job.ref, ())):
            return None
        want, status = self._wants.of(job), job.status
        waits = here.waits(job.project, want)
        if waits is None:
            return None
        came = status.line.since if status.line else here.snapshot.now
        return Member(
            job, self._number(job.project), *waits, came, want=want,
            waited_s=status.line.waited_s if status.line else 0.0, from_s=_from_s(job, waits.kind),
            ran_s=max(0.0, status.run_s - status.lost_s), height=job.spec.priority.height,
            told=status.reason.code if status.reason and not job.spec.resume.source else "",
        )  # fmt: skip

    def _runner(self, job: Job, attempt: Attempt, here: _Here) -> Member | None:
        """Return as what a job runs; None: it has nothing that is known."""
        waits = here.yard.held(attempt.status.places)
        if waits is None:
            return None
        status, own, number = job.status, attempt.status, attempt.spec.number
        saved = [c.at for c in status.checkpoints if c.attempt == number]
        is_fruitless = not saved and _was_fruitless(job, attempt, here.snapshot)
        every_s = between_s(job, attempt)
        return Member(
            job, self._number(job.project), *waits,
            status.line.since if status.line else own.started_at,
            attempt=attempt, runs=True, leaves=own.phase not in ON or status.attempt != number,
            fixed_until=inf if is_fruitless else yields_at(job),
            waited_s=status.line.waited_s if status.line else 0.0, began=own.started_at,
            saved_at=max([own.started_at, *saved]),
            ran_s=max(0.0, status.run_s - status.lost_s),
            save_every_s=every_s or attempt.spec.save_every_s or INTERVAL_S, between_s=every_s,
            height=job.spec.priority.height,
        )  # fmt: skip

    def _waiters(self, here: _Here) -> Iterator[Member]:
        """Return the replicas that wait: what quotas leave them may be another each time."""
        for replica in self._bare.values():
            if _may_wait(replica) and (found := here.waits_for(replica)):
                waited_s = passed_s(here.snapshot, replica.uid, replica.status.since)
                number, came = self._number(replica.project), replica.created_at
                yield Member(replica, number, *found[1], came, want=found[0], waited_s=waited_s)


def _from_s(job: Job, kind: str) -> float:
    """Return since when it waits, by the clock of the queue for a kind, if that is its own."""
    line = job.status.line
    is_on = line is not None and line.queue == queue_name(kind) and not line.attempt
    return line.from_s if line is not None and is_on else inf


def _was_fruitless(job: Job, attempt: Attempt, snapshot: Snapshot) -> bool:
    """Tell whether its attempt before made room before it had saved anything."""
    ref = Ref(job.project, f"{job.name}-{attempt.spec.number - 1}")
    before = snapshot.attempts.get(ref) if job.status.preempted_at else None
    return before is not None and bool(before.status.room_for) and (
        before.spec.resume_from == attempt.spec.resume_from
    )  # fmt: skip


def _may_wait(replica: Replica) -> bool:
    is_waiting = replica.status.phase is ReplicaPhase.WAITING and not replica.spec.replaces
    return is_waiting and not held_back(replica.status)
