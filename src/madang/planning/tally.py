"""What pools and projects have seen, added up: work, faults, what was lost; each thing once.

The mark on what is counted and the sum are written together, so that no crash counts it twice, and
what is forgotten later stays in the sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from madang.planning.action import Action, Unkept, Verb
from madang.planning.cadence import lost_s
from madang.planning.quotas import plan_charges
from madang.planning.snapshot import Snapshot
from madang.resources.attempt import Attempt, AttemptPhase, Outcome
from madang.resources.job import Job, JobPhase
from madang.resources.place import Pool
from madang.resources.resource import AnyResource, Reason, Ref
from madang.resources.tenancy import Project, ProjectStatus


class Spent(NamedTuple):
    """What work took, and what of that brought nothing that lasts."""

    run_s: float
    """Seconds times accelerators;"""
    lost_s: float
    """and how many of these were lost."""


def plan_tallies(snapshot: Snapshot) -> Iterator[Action]:
    """Count all that has ended and is not counted yet, in one action; quiet where nothing has."""
    writes = (*_pools(snapshot), *_projects(snapshot), *plan_charges(snapshot))
    if writes:
        reason = Reason(code="tally.of-what-ended")
        yield Action(Verb.TALLY, Unkept("tally", "tally"), reason, writes)


def spent(job: Job, snapshot: Snapshot) -> Spent:
    """Return what a job has spent so far, the attempt included that is not judged yet.

    What that has done is at stake, and lost only if the job goes on no more.
    """
    status = job.status
    attempt = snapshot.attempts.get(Ref(job.project, f"{job.name}-{status.attempt}"))
    if attempt is None or status.phase is not JobPhase.RUNNING:
        return Spent(status.accelerator_s, status.lost_accelerator_s)
    own, count = attempt.status, attempt.spec.accelerators
    until = snapshot.now if own.ended_at is None else own.ended_at
    lost = lost_s(job, attempt, until) if job.deleted_at is not None else 0.0
    run_s = count * max(0.0, until - own.started_at)
    return Spent(status.accelerator_s + run_s, status.lost_accelerator_s + count * lost)


def spent_in(project: Project, snapshot: Snapshot) -> Spent:
    """Return what the jobs of a project have spent, those included that are kept no more."""
    there = (job for job in snapshot.jobs.values() if job.project == project.project)
    found = [spent(job, snapshot) for job in there if not job.status.counted]
    return Spent(
        project.status.run_s + sum(each.run_s for each in found),
        project.status.lost_s + sum(each.lost_s for each in found),
    )


def _pools(snapshot: Snapshot) -> Iterator[AnyResource]:
    """Return pools with what attempts have told of them that have just come to their end."""
    pools = dict(snapshot.all(Pool))
    for attempt in sorted(snapshot.living, key=lambda each: each.ref):
        status = attempt.status
        if status.phase is not AttemptPhase.STOPPING or status.counted:
            continue
        for place in status.places:
            pool = pool_of(place.node, snapshot)
            if pool:
                run_s = len(place.accelerators) * max(0.0, status.since - status.started_at)
                now = pools[pool.ref].status
                pools[pool.ref] = pools[pool.ref].with_status(run_s=now.run_s + run_s)
        failed = pool_of(_culprit(attempt), snapshot)
        if failed and _is_fault(attempt):
            faults = pools[failed.ref].status.faults + 1
            pools[failed.ref] = pools[failed.ref].with_status(faults=faults)
        if any(pool_of(place.node, snapshot) for place in status.places):
            yield attempt.with_status(counted=True)
    yield from (pool for ref, pool in sorted(pools.items()) if pool is not snapshot.all(Pool)[ref])


def pool_of(node: str, snapshot: Snapshot) -> Pool | None:
    """Return the pool of a node; None where either is not known."""
    found = snapshot.nodes.get(Ref("", node))
    return snapshot.get(Pool, Ref("", found.spec.pool)) if found else None


def _is_fault(attempt: Attempt) -> bool:
    """Tell whether what it ran on has failed it; what never ran has shown nothing of that."""
    return attempt.status.outcome is Outcome.FAULT and attempt.status.running_at is not None


def _culprit(attempt: Attempt) -> str:
    """Return the node that its cause names, else the one of rank 0."""
    cause, places = attempt.status.cause, attempt.status.places
    named = str(cause.values.get("node", "")) if cause else ""
    return named or (places[0].node if places else "")


def _projects(snapshot: Snapshot) -> Iterator[AnyResource]:
    """Return projects with what those of their jobs have spent that are about to be forgotten."""
    going = [
        job for job in snapshot.open_jobs if job.deleted_at is not None and not job.status.counted
    ]
    if not going:
        return
    busy = {attempt.job for attempt in snapshot.living}
    sums: dict[Ref, Project] = {}
    for job in sorted(going, key=lambda each: each.ref):
        ref = Ref(job.project, job.project.rpartition("/")[2])
        project = sums.get(ref) or snapshot.get(Project, ref)
        if project is None or job.ref in busy:
            continue
        sums[ref] = project.with_status(**_added(project.status, spent(job, snapshot)))
        yield job.with_status(counted=True)
    yield from (project for _, project in sorted(sums.items()))


def _added(before: ProjectStatus, more: Spent) -> dict[str, float]:
    return {"run_s": before.run_s + more.run_s, "lost_s": before.lost_s + more.lost_s}
