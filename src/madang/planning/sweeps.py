"""What a sweep needs next: more of its jobs, its wishes passed on to them, or its end."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from madang.planning.action import Action, Verb
from madang.planning.attempts.attempts import processes
from madang.planning.attempts.barrier import AFTER_FAILED, comes_after
from madang.planning.jobs import SUSPENDED, Task, finish, hold, take_down
from madang.planning.queue.waiting import retry_s
from madang.planning.snapshot import Snapshot
from madang.resources.job import OVER, Job, JobPhase, JobStatus
from madang.resources.resource import Frozen, Reason, Ref
from madang.resources.sweep import Swept, combination, combinations, filled

GROW_MAX = 100
"""So many jobs are made at once, and taken down at once;"""
GROW_S = 1.0
"""and the next so much later."""

J = JobPhase


def plan_sweep(task: Task, snapshot: Snapshot) -> Iterator[Action]:
    """Return the next steps of a sweep; its jobs are planned as all others are."""
    job, own = task.job, snapshot.sweeps.get(task.job.ref, ())
    if job.deleted_at is not None:
        yield from _take_along(own, snapshot) if own else take_down(task, snapshot)
    elif job.status.phase not in OVER:
        yield from _pass_on(job, own)
        yield from _go_on(job, own, snapshot)


def _take_along(own: Sequence[Job], snapshot: Snapshot) -> Iterator[Action]:
    """Have the jobs of a sweep that is taken down taken down, a number at a time."""
    left = GROW_MAX - sum(child.deleted_at is not None for child in own)
    staying = [child for child in own if child.deleted_at is None]
    reason = Reason(code="job.being-deleted")
    for child in sorted(staying, key=lambda child: child.ref)[: max(0, left)]:
        going = child.model_copy(update={"deleted_at": snapshot.now})
        yield Action(Verb.FORGET_JOB, child, reason, (going,))


def _pass_on(job: Job, own: Sequence[Job]) -> Iterator[Action]:
    """Let its jobs be cancelled, suspended and preferred as it is; cancelled also alone."""
    for child in own:
        wishes = {
            "cancel": job.spec.cancel or child.spec.cancel, "suspend": job.spec.suspend,
            "priority": job.spec.priority,
        }  # fmt: skip
        spec = child.spec.model_copy(update=wishes)
        if child.status.phase not in OVER and spec != child.spec:
            changed = {"spec": spec, "generation": child.generation + 1}
            reason = Reason(code="job.as-its-sweep", values={"job": job.name})
            yield Action(Verb.STEER_SWEPT, child, reason, (child.model_copy(update=changed),))


def _go_on(job: Job, own: Sequence[Job], snapshot: Snapshot) -> Iterator[Action]:
    """Make more of its jobs, or end it, or say how many of them are where."""
    counts, count = _counts(job, own), combinations(job.spec.sweep)
    is_idle = all(child.status.phase in OVER for child in own)
    if job.spec.cancel and is_idle:
        yield finish(job, J.CANCELLED, Reason(code="job.cancelled"), snapshot, counts=counts)
    elif job.status.made >= count and is_idle:
        yield _end(job, counts, snapshot)
    elif (job.spec.cancel or job.spec.suspend or job.status.made >= count) and own:
        yield from _count(job, counts, SUSPENDED if job.spec.suspend else None, snapshot)
    elif job.spec.suspend:
        resume = Reason(code="job.fix-resume", values={"job": job.name})
        yield from hold(job, snapshot, SUSPENDED, fix=resume)
    elif not job.status.made and (barrier := comes_after(job, snapshot)):
        if barrier[0].code == AFTER_FAILED:
            yield finish(job, J.FAILED, barrier[0], snapshot, cause=barrier[0])
        else:
            yield from hold(job, snapshot, *barrier)
    else:
        yield from _grow(job, own, snapshot)


def _counts(job: Job, own: Sequence[Job]) -> dict[JobPhase, int]:
    """Return how many of its jobs are in each phase."""
    counts = Counter(child.status.phase for child in own)
    counts[J.CANCELLED] += max(0, job.status.made - len(own))
    return {phase: counts[phase] for phase in JobPhase if counts[phase]}


def _end(job: Job, counts: dict[JobPhase, int], snapshot: Snapshot) -> Action:
    """End it: it has succeeded where all of its jobs have."""
    of, good = job.status.made, counts.get(J.SUCCEEDED, 0)
    if good == of:
        done = Reason(code="sweep.done", values={"count": of})
        return finish(job, J.SUCCEEDED, done, snapshot, counts=counts)
    why = Reason(code="sweep.not-all", values={"bad": of - good, "count": of})
    return finish(job, J.FAILED, why, snapshot, counts=counts, cause=why)


def _count(
    job: Job, counts: dict[JobPhase, int], reason: Reason | None, snapshot: Snapshot
) -> Iterator[Action]:
    """Write down how many of its jobs are where, once."""
    status = job.status
    now = {
        "phase": J.RUNNING, "counts": counts, "reason": reason, "blocked_by": "",
        "began_at": snapshot.now if status.began_at is None else status.began_at,
    }  # fmt: skip
    counted: Job = job.with_status(**now)
    if counted.status != status:
        told = Reason(code="sweep.going", values={"made": status.made})
        yield Action(Verb.COUNT_SWEEP, job, told, (counted,))


def _grow(job: Job, own: Sequence[Job], snapshot: Snapshot) -> Iterator[Action]:
    """Make as many more of its jobs as may be there, a number at a time."""
    made, count = job.status.made, combinations(job.spec.sweep)
    living = sum(child.status.phase not in OVER for child in own)
    room = min((job.spec.parallel or count) - living, count - made, GROW_MAX)
    if room <= 0 or (retry_s(job, snapshot) or 0.0) > 0:
        yield from _count(job, _counts(job, own), None, snapshot)
        return
    fresh = [_child(job, number, snapshot) for number in range(made + 1, made + room + 1)]
    taken = next((child for child in fresh if child.ref in snapshot.jobs), None)
    if taken:
        reason = Reason(code="sweep.name-taken", values={"job": taken.name})
        yield from hold(job, snapshot, reason, f"job/{taken.name}")
        return
    counts = _counts(job, own)
    grown: Job = job.with_status(
        phase=J.RUNNING, made=made + room, reason=None, blocked_by="", since=snapshot.now,
        counts={**counts, J.WAITING: counts.get(J.WAITING, 0) + room},
        next_try=snapshot.now + GROW_S,
        began_at=snapshot.now if job.status.began_at is None else job.status.began_at,
    )  # fmt: skip
    told = Reason(code="sweep.going", values={"made": made + room})
    yield Action(Verb.GROW_SWEEP, job, told, (*fresh, grown))


def _child(job: Job, number: int, snapshot: Snapshot) -> Job:
    """Return the job of one combination."""
    values = combination(job.spec.sweep, number)
    own: dict[str, Any] = {
        "sweep": {}, "parallel": None, "after": (),
        "command": tuple(filled(part, values) for part in job.spec.command),
    }  # fmt: skip
    digest = hashlib.sha256(f"{job.uid}/{number}".encode()).hexdigest()
    return Job(
        project=job.project, name=f"{job.name}-{number}", uid=f"job-{digest[:16]}",
        # So far apart that they are in line in the order of their numbers.
        created_at=snapshot.now + number / 1e6, spec=job.spec.model_copy(update=own),
        status=JobStatus(owner=job.name, swept=values, since=snapshot.now),
    )  # fmt: skip


class SweptCourse(Frozen):
    """One job of a sweep."""

    name: str
    phase: JobPhase
    values: dict[str, Swept]
    step: int
    total: int
    metrics: dict[str, float]
    """The last that rank 0 has told."""
    reason: Reason | None


class SweepCourse(Frozen):
    """A sweep on its way."""

    name: str
    phase: JobPhase
    count: int
    """So many jobs it is to have."""
    made: int
    counts: dict[JobPhase, int]
    reason: Reason | None
    jobs: tuple[SweptCourse, ...]
    """Those that are kept, by number."""


def sweep_course(job: Job, snapshot: Snapshot) -> SweepCourse:
    """Return where a sweep is, and each of its jobs."""
    numbers = range(1, job.status.made + 1)
    named = (snapshot.jobs.get(Ref(job.project, f"{job.name}-{number}")) for number in numbers)
    own = [child for child in named if child and child.status.owner == job.name]
    return SweepCourse(
        name=job.name, phase=job.status.phase, count=combinations(job.spec.sweep),
        made=job.status.made, counts=job.status.counts, reason=job.status.reason,
        jobs=tuple(_course(child, snapshot) for child in own),
    )  # fmt: skip


def _course(child: Job, snapshot: Snapshot) -> SweptCourse:
    status = child.status
    attempt = snapshot.attempts.get(Ref(child.project, f"{child.name}-{status.attempt}"))
    found = processes(attempt, snapshot) if attempt else ()
    ranks = [rank for _, process in found for rank in (process.ranks if process else ())]
    metrics = next((dict(rank.metrics) for rank in ranks if rank.rank == 0 and rank.metrics), {})
    return SweptCourse(
        name=child.name, phase=status.phase, values=status.swept, reason=status.reason,
        step=max((rank.step for rank in ranks), default=status.step),
        total=max((rank.total for rank in ranks), default=0) or status.total,
        metrics=metrics or status.metrics,
    )  # fmt: skip
