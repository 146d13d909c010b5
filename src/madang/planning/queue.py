"""Which jobs wait for room, and in what order: by priority, then who came first."""

from __future__ import annotations

from madang.planning.barrier import blocker, lacking
from madang.planning.quotas import held_back
from madang.planning.snapshot import Snapshot
from madang.resources.job import Job, JobPhase
from madang.resources.resource import Ref

J = JobPhase


def line_mark(job: Job) -> tuple[int, float, Ref]:
    """Return what the line is ordered by."""
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
        and job.deleted_at is None
        and not job.spec.cancel
        and not job.spec.sweep
        and not job.is_suspended
        and blocker(job, snapshot) is None
        and lacking(job, snapshot) is None
        and not held_back(job.status)
        and (retry_s(job, snapshot) or 0.0) <= 0
    )


def ahead_of(job: Job, snapshot: Snapshot) -> list[Job]:
    """Return the jobs in line that are planned before this one, the first in front."""
    mark = line_mark(job)
    ahead = (each for each in snapshot.open_jobs if line_mark(each) < mark)
    return sorted((each for each in ahead if is_in_line(each, snapshot)), key=line_mark)
