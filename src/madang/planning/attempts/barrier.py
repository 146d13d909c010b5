"""What a job has to wait for that is no room: other jobs, what it mounts, what it is to be told."""

from __future__ import annotations

from madang.errors import Value
from madang.planning.place.ground import Ground
from madang.planning.quotas import storage_limit
from madang.planning.snapshot import Snapshot
from madang.resources.job import OVER, Job, JobPhase
from madang.resources.model import split_model
from madang.resources.resource import Reason, Ref
from madang.resources.secret import Secret
from madang.resources.tenancy import Project

J = JobPhase
AFTER_FAILED = "job.after-failed"


def barrier(job: Job, snapshot: Snapshot, ground: Ground) -> tuple[Reason, str] | None:
    """Say what it has to wait for that is no room, and as what that is known."""
    missing = lacking(job, snapshot)
    if missing:
        return missing
    return comes_after(job, snapshot) or shared(job, snapshot, ground)


def comes_after(job: Job, snapshot: Snapshot) -> tuple[Reason, str] | None:
    """Say which job it comes after that has not succeeded, and as what that is known."""
    other = blocker(job, snapshot)
    if other is None:
        return None
    name = other.name if isinstance(other, Job) else other
    code = "job.after" if isinstance(other, Job) else "job.after-missing"
    if isinstance(other, Job) and other.status.phase in OVER:
        code = AFTER_FAILED
    return Reason(code=code, values={"job": name}), f"job/{name}"


def shared(job: Job, snapshot: Snapshot, ground: Ground) -> tuple[Reason, str] | None:
    """Say which job saves where it would: one would take the other's checkpoints for its own."""
    place = saves_at(job)
    if place is None:
        return None
    if not ground.savers:
        running = (other for other in snapshot.open_jobs if other.status.phase is J.RUNNING)
        ground.savers |= {at: other.name for other in running if (at := saves_at(other))}
    other = ground.savers.setdefault(place, job.name)
    if other == job.name:
        return None
    values: dict[str, Value] = {"job": other, "volume": place[1]}
    return Reason(code="job.saves-there-too", values=values), f"job/{other}"


def saves_at(job: Job) -> tuple[str, str, str] | None:
    """Return project, volume and folder in which it saves; None: a folder of its own."""
    return (job.project, *job.spec.saves_in) if job.spec.saves_in else None


def lacking(job: Job, snapshot: Snapshot) -> tuple[Reason, str] | None:
    """Say what it mounts that is not there."""
    if bare := bared(job, snapshot):
        return bare
    if job.spec.mounts and not snapshot.encloses:
        return Reason(code="job.needs-sandbox"), ""
    for place, written in sorted(job.spec.mounts.items()):
        kind, _, name = written.partition("://")
        ref = Ref(job.project, split_model(name)[0] if kind == "model" else name)
        model = snapshot.models.get(ref)
        is_there = model and model.version(split_model(name)[1])
        if not (is_there if kind == "model" else ref in snapshot.volumes):
            values: dict[str, Value] = {"kind": kind, "name": ref.name, "place": place}
            return Reason(code="job.nothing-to-mount", values=values), f"{kind}/{ref.name}"
    named, _ = job.spec.saves_in or ("", "")
    saved = snapshot.volumes.get(Ref(job.project, named))
    if saved and saved.spec.read_only:
        values = {"volume": saved.name, "folder": job.spec.resume.source}
        return Reason(code="job.saves-read-only", values=values), f"volume/{saved.name}"
    for variable, name in sorted(job.spec.secrets.items()):
        if snapshot.get(Secret, Ref(job.project, name)) is None:
            values = {"secret": name, "variable": variable}
            return Reason(code="job.no-secret", values=values), f"secret/{name}"
    return too_full(job, snapshot)


def bared(job: Job, snapshot: Snapshot) -> tuple[Reason, str] | None:
    """Say what its project demands that it would not have here."""
    project = snapshot.get(Project, Ref(job.project, job.project.partition("/")[2]))
    code = project and project.spec.bars(job.spec.nodes, encloses=snapshot.encloses)
    return (Reason(code=code, values={"project": job.project}), "") if code else None


def too_full(job: Job, snapshot: Snapshot) -> tuple[Reason, str] | None:
    """Say which volume that it mounts holds more than it may."""
    for written in sorted(set(job.spec.mounts.values())):
        kind, _, name = written.partition("://")
        volume = snapshot.volumes.get(Ref(job.project, name)) if kind == "volume" else None
        if volume and volume.is_full:
            values: dict[str, Value] = {
                "volume": name, "used_bytes": volume.status.used_bytes,
                "size_bytes": volume.spec.size,
            }  # fmt: skip
            return Reason(code="job.volume-full", values=values), f"volume/{name}"
    limit = storage_limit(job.project, snapshot) if job.spec.mounts and snapshot.quotas else None
    return (limit.reason, f"quota/{limit.place}") if limit else None


def blocker(job: Job, snapshot: Snapshot) -> Job | str | None:
    """Return which job it comes after that has not succeeded; its name where there is none."""
    for name in job.spec.after:
        other = snapshot.jobs.get(Ref(job.project, name))
        if other is None or other.status.phase is not J.SUCCEEDED:
            return other or name
    return None
