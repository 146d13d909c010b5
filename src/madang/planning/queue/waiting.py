"""Which jobs wait for nothing but room, and which may be asked to make some."""

from __future__ import annotations

from madang.planning.attempts.barrier import blocker, lacking
from madang.planning.quotas import held_back
from madang.planning.snapshot import Snapshot
from madang.resources.job import OVER, Job, JobPhase
from madang.resources.resource import Ref

J = JobPhase
PER_HOUR_MAX = 3
HOUR_S = 3600.0


def line_mark(job: Job) -> tuple[int, float, Ref]:
    """Return what is ordered by where nothing else is known: priority, then who came first."""
    return -job.spec.priority.height, job.created_at, job.ref


def retry_s(job: Job, snapshot: Snapshot) -> float | None:
    """Return the seconds until it is tried again, by whichever clock says so first."""
    status = job.status
    if status.next_try is None:
        return None
    watched_s = status.next_try - status.since - snapshot.age_s(job.uid, status.since)
    return min(status.next_try - snapshot.now, watched_s)


def is_in_line(job: Job, snapshot: Snapshot) -> bool:
    """Tell whether it would start now if there were room."""
    return (
        job.status.phase is J.WAITING
        and not held_back(job.status)
        and not is_out(job)
        and not job.spec.sweep
        and (retry_s(job, snapshot) or 0.0) <= 0
        and blocker(job, snapshot) is None
        and lacking(job, snapshot) is None
    )


def is_out(job: Job) -> bool:
    """Tell whether it is in no line any more: over, or given up, or told to hold nothing."""
    phase = job.status.phase
    is_idle = phase is J.WAITING and (job.spec.cancel or job.is_suspended)
    return is_idle or phase in OVER or job.deleted_at is not None


def may_yield(job: Job, now: float) -> bool:
    """Tell whether it has not made room too often of late."""
    return now >= yields_at(job)


def yields_at(job: Job) -> float:
    """Return from when on it may make room again, in Unix seconds."""
    last = sorted(job.status.preempted_at)[-PER_HOUR_MAX:]
    return last[0] + HOUR_S if len(last) == PER_HOUR_MAX else 0.0
