"""Room for what waits and counts for more: running jobs that count for less save and go on later.

Only where it then really starts, with those ahead of it in line served first; of all ways the one
that puts the least work at stake, so best just after a checkpoint. A job makes room a few times an
hour at most, and never for what counts no more than it does: nobody is chased to and fro.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from madang.errors import Value
from madang.planning.action import Action, Verb
from madang.planning.ask import Ask
from madang.planning.attempts.attempts import ask_to_save, is_adrift
from madang.planning.attempts.blame import Blame
from madang.planning.leaving import LEAVING
from madang.planning.place.fix import Line, line_of
from madang.planning.place.gangs import Want, want_of
from madang.planning.place.ground import Ground
from madang.planning.place.place import NO_ROOM
from madang.planning.queue.members import mark_of
from madang.planning.queue.order import Order
from madang.planning.queue.waiting import may_yield
from madang.planning.quotas import NOTHING
from madang.planning.services.moving import waiting as replicas_waiting
from madang.planning.snapshot import Snapshot
from madang.resources.attempt import Attempt, AttemptPhase, Outcome
from madang.resources.holding import Holding
from madang.resources.job import Job, Priority
from madang.resources.replica import Replica
from madang.resources.resource import Reason

TRIED_MAX = 3
"""So many that wait are looked at in one turn,"""
VICTIMS_MAX = 64
"""and so many that might make room for each."""
CODES = "attempt.makes-room", "attempt.makes-room-elsewhere"
SERVICE = Priority.NORMAL
"""What every service counts as."""


@dataclass(frozen=True, slots=True)
class Victim:
    """A running job that may be asked to make room."""

    job: Job
    attempt: Attempt
    cost_s: float
    """Seconds of single accelerators that are lost if it can't save in time."""

    @property
    def mark(self) -> tuple[int, float, str]:
        """Who goes first: what counts for least, then what has least at stake."""
        return self.job.spec.priority.height, self.cost_s, self.attempt.uid


Waiter = Job | Replica


def plan_room(snapshot: Snapshot, ground: Ground, order: Order) -> Iterator[Action]:
    """Have those asked to save that make room for the first that waits and can be helped."""
    waiting = list(islice(_waiting(snapshot, order), TRIED_MAX))
    top = max((priority.height for *_, priority in waiting), default=0)
    victims = tuple(_victims(snapshot, top)) if top else ()
    for waiter, want, priority in waiting if victims else ():
        allowed = ground.allowed_to(waiter, want.ask, want.nodes)
        if not isinstance(allowed, Ask):
            continue
        want = replace(want, ask=allowed)  # noqa: PLW2901
        below = [v for v in victims if v.job.spec.priority.height < priority.height]
        line = line_of(want, ground, snapshot, waiter) if below else None
        coming = tuple(coming_free(snapshot))
        taken = tuple((held.node, held.accelerators, held.cores) for held in coming)
        mark = ("room", line, taken, *(v.attempt.uid for v in below))
        if line is None or mark in ground.stuck or _starts(line, ground, coming):
            continue
        chosen = _chosen(line, ground, below[:VICTIMS_MAX], coming)
        if not chosen:
            ground.stuck.add(mark)
            continue
        yield from make_room(waiter, chosen, snapshot, CODES, priority=priority)
        return


def _victims(snapshot: Snapshot, top: int) -> Iterator[Victim]:
    """Return who may make room for what counts for so much, who goes first in front."""
    found = []
    for attempt in snapshot.living:
        job = snapshot.jobs.get(attempt.job)
        if job is None or job.spec.priority.height >= top:
            continue
        is_on = attempt.status.phase in {AttemptPhase.STARTING, AttemptPhase.RUNNING}
        is_seen = all(place.node in snapshot.seen.nodes for place in attempt.status.places)
        if is_on and is_seen and may_yield(job, snapshot.now):
            found.append(Victim(job, attempt, _cost_s(job, attempt, snapshot.now)))
    yield from sorted(found, key=lambda victim: victim.mark)


def _cost_s(job: Job, attempt: Attempt, now: float) -> float:
    """Return how much work it has done since its last checkpoint, over all its accelerators."""
    own = [c.at for c in job.status.checkpoints if c.attempt == attempt.spec.number]
    count = sum(len(place.accelerators) for place in attempt.status.places)
    return count * max(0.0, now - max([attempt.status.started_at, *own]))


def _waiting(snapshot: Snapshot, order: Order) -> Iterator[tuple[Waiter, Want, Priority]]:
    """Return what waits for nothing but room and counts for more than something else could."""
    for replica, ask in replicas_waiting(snapshot):
        if is_refused(replica):
            yield replica, Want(ask), SERVICE
    for job in order.waiting:
        if job.spec.priority.height and is_refused(job):
            yield job, want_of(job), job.spec.priority


def is_refused(waiter: Waiter) -> bool:
    """Tell whether it was told that there is no room for it."""
    reason = waiter.status.reason
    return reason is not None and reason.code in NO_ROOM


def coming_free(snapshot: Snapshot) -> Iterator[Holding]:
    """Return what will be free soon in any case."""
    for attempt in snapshot.living:
        leaves = attempt.status.phase in {AttemptPhase.SAVING, AttemptPhase.STOPPING}
        if leaves and not is_adrift(attempt, snapshot):
            yield from attempt.status.places
    for replica in snapshot.replicas.values():
        if replica.status.phase in LEAVING:
            yield replica.status


def _starts(
    line: Line, ground: Ground, coming: Sequence[Holding], victims: Sequence[Victim] = ()
) -> bool:
    """Tell whether it starts once these are gone, and those ahead of it have their places."""
    with ground.trial():
        for held in (*coming, *(place for v in victims for place in v.attempt.status.places)):
            ground.change(held, NOTHING)
        return line.want.fits(ground) and line.starts(ground)


def _chosen(
    line: Line, ground: Ground, victims: Sequence[Victim], coming: Sequence[Holding]
) -> Sequence[Victim]:
    """Return the fewest at stake that make room; nobody where all together do not."""
    if not _starts(line, ground, coming, victims):
        return ()
    alone = next((v for v in victims if _starts(line, ground, coming, [v])), None)
    some: list[Victim] = []
    for victim in victims:
        some.append(victim)
        if _starts(line, ground, coming, some):
            break
    for victim in reversed(some[:-1]):
        fewer = [other for other in some if other is not victim]
        if _starts(line, ground, coming, fewer):
            some = fewer
    ways = [some, [alone]] if alone else [some]
    return min(ways, key=_stake)


def _stake(victims: Sequence[Victim]) -> tuple[int, float, int]:
    highest = max(victim.job.spec.priority.height for victim in victims)
    return highest, sum(victim.cost_s for victim in victims), len(victims)


def make_room(
    waiter: Waiter,
    victims: Sequence[Victim],
    snapshot: Snapshot,
    codes: tuple[str, str],
    **values: Value,
) -> Iterator[Action]:
    """Ask these to save, and tell both sides; of another project is told that it exists."""
    name = f"{waiter.kind}/{waiter.name}"
    for victim in victims:
        is_ours = victim.job.project == waiter.project
        told = {"for": name, **values} if is_ours else values
        why = Reason(code=codes[not is_ours], values=told)
        marked: Attempt = victim.attempt.with_status(room_for=mark_of(waiter))
        yield ask_to_save(victim.job, marked, snapshot, Blame(Outcome.PREEMPTED, why))
    own = [f"job/{v.job.name}" for v in victims if v.job.project == waiter.project]
    found: dict[str, Value] = {
        "jobs": ", ".join(own) or "-", "count": len(victims),
        "accelerators": sum(len(p.accelerators) for v in victims for p in v.attempt.status.places),
    }  # fmt: skip
    yield Action(Verb.MAKE_ROOM, waiter, Reason(code="room.from", values=found))
