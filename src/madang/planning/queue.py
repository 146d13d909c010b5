"""Which jobs wait for room, and in what order: by priority, then who came first."""

from __future__ import annotations

from madang.planning.snapshot import Snapshot
from madang.resources.job import Job, JobPhase
from madang.resources.resource import Ref

J = JobPhase
AFTER_FAILED = "job.after-failed"


def line_mark(job: Job) -> tuple[int, float, Ref]:
    """Return what the line is ordered by."""
    return -job.spec.priority.height, job.created_at, job.ref


def blocker(job: Job, snapshot: Snapshot) -> Job | str | None:
    """Return which job it comes after that has not succeeded; its name where there is none."""
    for name in job.spec.after:
        other = snapshot.jobs.get(Ref(job.project, name))
        if other is None or other.status.phase is not J.SUCCEEDED:
            return other or name
    return None


def retry_s(job: Job, snapshot: Snapshot) -> float | None:
    """Return the seconds until it is tried again, by whichever clock says so first."""
    status = job.status
    if status.phase is not J.WAITING or status.next_try is None:
        return None
    watched_s = status.next_try - status.since - snapshot.age_s(job.uid, status.since)
    return min(status.next_try - snapshot.now, watched_s)


def is_in_line(job: Job, snapshot: Snapshot) -> bool:
    """Tell whether it would start now if there were room."""
    return (
        job.status.phase is J.WAITING
        and job.deleted_at is None
        and not job.spec.cancel
        and not job.spec.suspend
        and blocker(job, snapshot) is None
        and (retry_s(job, snapshot) or 0.0) <= 0
    )
