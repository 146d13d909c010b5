"""What is stored of each lane: where its projects stand, who is in line, what was learnt of jobs.

Projects stand somewhere until a job comes, starts or ends; so what each went short of is known for
any moment from what was stored at the last such change, and in between nothing is written. A job
is marked once it is in line, and the mark is taken off in the same action as what it did is learnt:
so each is learnt of once, whatever ends control in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from madang.planning.action import Action, Unkept, Verb
from madang.planning.cadence import lost_s
from madang.planning.queue.clock import step_due_s
from madang.planning.queue.lanes import MILLI, Lane, queue_name
from madang.planning.queue.order import Order
from madang.planning.queue.waiting import is_out
from madang.planning.share.ledger import Ledger, Withdrawn
from madang.planning.share.lives import SIZES, ages
from madang.planning.snapshot import Snapshot
from madang.resources.attempt import Outcome
from madang.resources.job import InLine, Job, JobPhase
from madang.resources.queue import Queue, QueueSpec, QueueStatus, Standing
from madang.resources.resource import AnyResource, Reason, Ref

LEAST_S = 3600.0
"""Who has no use for a lane, and was entitled to no more there of late, is forgotten,"""
PROJECTS_MAX = 500
"""and so is who was entitled to least, where there are more."""
Ended = dict[str, dict[int, dict[int, int]]]
"""How many jobs have ended: by project, class of size and age."""


def plan_queues(snapshot: Snapshot, order: Order) -> Iterator[Action]:
    """Write down where projects stand now, in one action; quiet where nothing has changed."""
    marked = {job.ref: job for lane in order.lanes.values() for job in _marked(lane, order)}
    out = sorted(order.muster.out, key=lambda job: job.ref)
    writes: list[AnyResource] = [job.with_status(line=None) for job in out]
    for lane in order.lanes.values():
        name = queue_name(lane.kind)
        own = [job for job in out if job.status.line and job.status.line.queue == name]
        kept = _kept(lane, own, snapshot)
        if kept:
            writes.append(kept)
    writes.extend(job for ref, job in sorted(marked.items()))
    if writes:
        reason = Reason(code="queue.changed", values={"jobs": len(marked) + len(out)})
        yield Action(Verb.QUEUE, Unkept("queues", "queues"), reason, tuple(writes))


def wake_s(snapshot: Snapshot, order: Order) -> float | None:
    """Return the seconds until the clock of a queue in which somebody waits is written down."""
    lanes = order.lanes.values()
    due = (step_due_s(lane.queue, snapshot) for lane in lanes if lane.queue and lane.waiting)
    return min(due, default=None)


def _marked(lane: Lane, order: Order) -> Iterator[Job]:
    """Return jobs as marked that came to a lane, or to another than before, started or ended."""
    rows, name = lane.all.rows, queue_name(lane.kind)
    for at in np.flatnonzero(rows["is_job"] & ~rows["is_marked"]).tolist():
        member, job = lane.members[at], lane.members[at].job
        if is_out(job) or member.leaves:
            continue
        line = job.status.line
        each_s = float(lane.ledger.each[lane.index[member.project]])
        yield job.with_status(line=InLine(
            queue=name, each_s=each_s, since=line.since if line else member.came,
            waited_s=_waited_s(line, order) if line else 0.0, from_s=lane.clock_s,
            attempt=member.at_work, size=member.milli / MILLI,
        ))  # fmt: skip


def _waited_s(line: InLine, order: Order) -> float:
    """Return how long one has waited in all, by the clock of the queue in which it was."""
    if line.attempt:
        return line.waited_s
    clocks = (lane.clock_s for lane in order.lanes.values() if queue_name(lane.kind) == line.queue)
    return line.waited_s + max(0.0, next(clocks, 0.0) - line.from_s)


def _kept(lane: Lane, out: list[Job], snapshot: Snapshot) -> Queue | None:
    """Return what is to be stored of a lane; None: that is stored."""
    now, ledger = lane.shares, lane.ledger
    ended: Ended = {name: row.ended for name, row in lane.stored.items() if row.ended}
    for job in out:
        ended = _learnt(job, ended, lane, snapshot)
        ledger = _without(job, ledger, lane)
    rows = {
        name: Standing(
            demand=float(now.demand[at]), entitled=float(now.entitled[at]),
            held=float(now.held[at]), entitled_s=float(ledger.entitled[at]),
            short_s=float(ledger.short[at]), each_s=float(ledger.each[at]),
            ended=ended.get(name, {}), weight=float(lane.claims.weight[at]),
            guaranteed=float(lane.claims.guaranteed[at]),
        )
        for at, name in enumerate(lane.projects)
    }  # fmt: skip
    is_same = all(_same(row, lane.stored.get(name)) for name, row in rows.items())
    if is_same and not out and not _is_time(lane, snapshot):
        return None
    turn_at = lane.queue.status.turn_at if lane.queue else 0.0
    status = QueueStatus(
        at=snapshot.now, clock_s=lane.clock_s, capacity=lane.capacity, turn_at=turn_at,
        projects=_bounded(rows),
    )  # fmt: skip
    if lane.queue:
        return lane.queue.model_copy(update={"status": status})
    name = queue_name(lane.kind)
    digest = hashlib.sha256(lane.kind.encode()).hexdigest()[:16]
    return Queue(name=name, uid=f"queue-{digest}", created_at=snapshot.now,
                 spec=QueueSpec(accelerator=lane.kind), status=status)  # fmt: skip


def _is_time(lane: Lane, snapshot: Snapshot) -> bool:
    """Tell whether the clock is to be written down: while somebody waits, once a step."""
    return bool(lane.queue and lane.waiting and step_due_s(lane.queue, snapshot) <= 0)


def _same(row: Standing, before: Standing | None) -> bool:
    if before is None:
        return not (row.demand or row.held)
    return _stands(row) == _stands(before)


def _stands(row: Standing) -> tuple[float, ...]:
    return row.demand, row.entitled, row.held, row.weight, row.guaranteed


def _bounded(rows: Mapping[str, Standing]) -> dict[str, Standing]:
    """Leave out who has no use for it, and was entitled to next to nothing of late."""
    busy = {name: row for name, row in rows.items() if row.demand or row.held}
    idle = [
        (name, row) for name, row in rows.items()
        if name not in busy and (row.ended or row.entitled_s >= LEAST_S)
    ]  # fmt: skip
    idle.sort(key=lambda each: (-each[1].entitled_s, each[0]))
    return dict(sorted([*busy.items(), *idle[: max(0, PROJECTS_MAX - len(busy))]]))


def _learnt(job: Job, ended: Ended, lane: Lane, snapshot: Snapshot) -> Ended:
    """Count how long a job ran that came to its end by itself; by work done, not by what was lost.

    Of what failed also that counts which it had not saved: that it ended is all there is to learn.
    """
    status, line = job.status, job.status.line
    attempt = snapshot.attempts.get(Ref(job.project, f"{job.name}-{status.attempt}"))
    is_own = status.phase is JobPhase.FAILED and attempt and attempt.status.outcome is Outcome.ERROR
    if line is None or not (status.phase is JobPhase.SUCCEEDED or is_own):
        return ended
    ran_s = max(0.0, status.run_s - status.lost_s)
    if is_own and attempt and attempt.status.ended_at:
        ran_s += lost_s(job, attempt, attempt.status.ended_at)
    size = int(np.searchsorted(SIZES, round(line.size * lane.units)))
    age = int(ages(np.array([ran_s]))[0])
    own = ended.get(job.project, {})
    by_age = own.get(size, {})
    counted = {**by_age, age: by_age.get(age, 0) + 1}
    return {**ended, job.project: {**own, size: dict(sorted(counted.items()))}}


def _without(job: Job, ledger: Ledger, lane: Lane) -> Ledger:
    """Take out what a job is said to have gone short of that was withdrawn, and never ran."""
    line, at = job.status.line, lane.index.get(job.project)
    if line is None or at is None or job.status.attempt:
        return ledger
    waited_s = line.waited_s + max(0.0, lane.clock_s - line.from_s)
    return ledger.without(Withdrawn(at, line.size, waited_s, line.each_s))
