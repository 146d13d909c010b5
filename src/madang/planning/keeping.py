"""Which jobs that are over are kept: the newest of each project, and all that have saved something.

What is forgotten goes with its folder; what a job has saved goes only when somebody says so, and
stays without it where it lies in a volume.
"""

from __future__ import annotations

from collections.abc import Iterator

from madang.planning.action import Action, Verb
from madang.planning.snapshot import Snapshot
from madang.resources.job import Job
from madang.resources.resource import Reason, Ref

GOING_MAX = 100
"""So many are taken down at once."""


def _may_go(job: Job) -> bool:
    """Tell whether nothing that it has saved would go with it."""
    return not job.status.checkpoints or job.spec.saves_in is not None


def _is_needed(job: Job, snapshot: Snapshot) -> bool:
    """Tell whether its sweep is not over, or is a sweep itself that would take along what stays."""
    owner = Ref(job.project, job.status.owner)
    if job.spec.sweep:
        own = (j for j in snapshot.jobs.values() if Ref(j.project, j.status.owner) == job.ref)
        return not all(map(_may_go, own))
    return bool(job.status.owner) and owner in snapshot.sweeps


def plan_forgetting(snapshot: Snapshot) -> Iterator[Action]:
    """Have the oldest taken down of those that are over and too many; quiet while few enough."""
    kept = snapshot.jobs_kept
    if not kept or len(snapshot.jobs) - len(snapshot.open_jobs) <= kept:
        return
    is_open = {job.uid for job in snapshot.open_jobs}
    over: dict[str, list[Job]] = {}
    for job in snapshot.jobs.values():
        if job.uid not in is_open:
            over.setdefault(job.project, []).append(job)
    left = GOING_MAX - sum(job.deleted_at is not None for job in snapshot.open_jobs)
    reason = Reason(code="job.too-old", values={"kept": kept})
    for _, jobs in sorted(over.items()):
        jobs.sort(key=lambda job: (job.status.ended_at or 0.0, bool(job.spec.sweep), job.name))
        for job in [j for j in jobs[: max(0, len(jobs) - kept)] if _may_go(j)]:
            if _is_needed(job, snapshot):
                continue
            if left <= 0:
                return
            left -= 1
            going = job.model_copy(update={"deleted_at": snapshot.now})
            yield Action(Verb.FORGET_JOB, job, reason, (going,))
