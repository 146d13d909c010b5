"""What stands on what: nothing is taken away while something else needs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from madang.control.granting import check_request
from madang.control.world import World
from madang.errors import Conflict, Rejected
from madang.planning.memo import Memo
from madang.planning.place.gangs import want_of
from madang.planning.preview import Change, misplaced
from madang.planning.quotas import Books, Limit, storage_limit
from madang.planning.snapshot import Snapshot
from madang.resources.grant import Grant
from madang.resources.job import OVER, Job
from madang.resources.kinds import KINDS
from madang.resources.model import split_model
from madang.resources.resource import NAME_BYTES_MAX, AnyResource, Ref
from madang.resources.rights import CONTROL, within
from madang.resources.sweep import combinations
from madang.resources.tenancy import Project, User
from madang.resources.volume import Volume
from madang.settings import JOBS_MAX


def users_of(found: AnyResource, world: World) -> set[tuple[str, Ref]]:
    """Return what would break without it, or would come alive again with the next of its name."""

    def those(kind: str, stands: Callable[[AnyResource], bool]) -> set[tuple[str, Ref]]:
        return {(kind, ref) for ref, each in world.list(CONTROL, kind).items() if stands(each)}

    if found.kind == "volume":
        return those("job", lambda job: _mounts(job, found))
    if found.kind == "secret":
        return those("job", lambda job: _is_told(job, found))
    if found.kind == "model":
        return those("service", lambda s: _served(s) == found.ref)
    if found.kind in {"project", "organization"}:
        scoped = (kind for kind, each in KINDS.items() if each.scoped and kind != found.kind)
        inside = (those(kind, lambda each: within(each.project, found.project)) for kind in scoped)
        rights = (those(kind, lambda r: _reaches(r, found.project)) for kind in ("key", "user"))
        return set().union(*inside, *rights)
    if found.kind == "user":
        owned = f"{found.project}/{found.name}"
        return those("key", lambda key: key.spec.user == owned)
    if found.kind in {"site", "pool"}:
        parts = "pool" if found.kind == "site" else "node"
        return those(parts, lambda each: getattr(each.spec, found.kind) == found.name)
    if found.kind == "round":
        return those("grant", lambda grant: grant.spec.round == found.name)
    if found.kind == "build":
        judged = found.status.replica if found.status.judged_at is None else ""
        return those("replica", lambda replica: replica.uid == judged)
    return set()


def _mounts(job: AnyResource, volume: AnyResource) -> bool:
    """Tell whether a job that is not over mounts a volume."""
    is_over = job.status.phase in OVER
    written = f"volume://{volume.name}"
    return job.project == volume.project and not is_over and written in job.spec.mounts.values()


def _is_told(job: AnyResource, secret: AnyResource) -> bool:
    """Tell whether a job that is not over gets a secret."""
    is_over = job.status.phase in OVER
    return (
        job.project == secret.project and not is_over and secret.name in job.spec.secrets.values()
    )


def _served(service: AnyResource) -> Ref:
    return Ref(service.project, split_model(service.spec.model)[0])


def _reaches(holder: AnyResource, place: str) -> bool:
    """Tell whether a key or a user holds rights there that it does not hold on the whole site."""
    grants = holder.spec.grants() if isinstance(holder, User) else (holder.spec.grant,)
    return any(grant.where and within(grant.where, place) for grant in grants)


def check_new(job: Job, world: World, subject: str) -> None:
    """Refuse a job of which its project has too many, or which could never have what that demands.

    A sandbox may come yet.
    """
    jobs, more = world.list(CONTROL, "job"), combinations(job.spec.sweep)
    is_near = len(jobs) + more >= JOBS_MAX
    count = sum(ref.project == job.project for ref in jobs) if is_near else 0
    if count + more >= JOBS_MAX:
        raise Rejected("job.too-many", subject, project=job.project, count=count)
    home = world.get(CONTROL, Project, Ref(job.project, job.project.partition("/")[2]))
    if home and (code := home.spec.bars(job.spec.nodes, encloses=True)):
        raise Rejected(code, subject, project=job.project)


def check_changed(
    before: AnyResource | None, after: AnyResource, subject: str, now: float
) -> None:  # fmt: skip
    """Refuse to turn one into the other where it may not change so."""
    if isinstance(after, Grant):
        check_request(before, after, subject, now)
    if isinstance(after, Job):
        check_swept(before if isinstance(before, Job) else None, after, subject)
        if isinstance(before, Job):
            check_same(before, after, subject)


def check_swept(before: Job | None, after: Job, subject: str) -> None:
    """Refuse to change a job of a sweep, but for ending it; and a sweep whose names don't fit."""
    most = combinations(after.spec.sweep)
    if len(f"{after.name}-{most}".encode()) > NAME_BYTES_MAX and most:
        raise Rejected("sweep.name-long", subject, count=most, limit=NAME_BYTES_MAX)
    if before and before.status.owner:
        ended = before.spec.model_copy(update={"cancel": after.spec.cancel})
        if ended != after.spec:
            raise Conflict("job.of-a-sweep", subject, job=before.status.owner)


def check_same(before: Job, after: Job, subject: str) -> None:
    """Refuse another spec for a job that is there: what has run can't be another."""
    may_change = ("cancel", "suspend", "priority")
    changes = {key: getattr(after.spec, key) for key in may_change}
    if before.spec.model_copy(update=changes) != after.spec:
        raise Conflict("job.fixed", subject)
    if before.spec.cancel and not after.spec.cancel:
        raise Conflict("job.stays-cancelled", subject)


def check_folder(path: str, home: Path | None, subject: str) -> None:
    """Refuse a folder of the machine that lies in Madang's own, or has that in it."""
    folder, own = os.path.realpath(path), os.path.realpath(home or "/nowhere")
    if os.path.commonpath((folder, own)) in {folder, own}:
        raise Rejected("volume.shows-home", subject, path=path)


def check_followed(changes: Sequence[Change], changed: Snapshot, memo: Memo) -> None:
    """Refuse what may not come of changes: data where it may not lie, more than a quota allows.

    Of jobs only new ones that would never start; of volumes all that make it too much.
    """
    if wrong := misplaced(changes, changed):
        raise Conflict("place.holds-higher", wrong.subject, by=wrong.by, count=wrong.count)
    for change in changes if changed.quotas else ():
        resource, subject = change.resource, f"{change.resource.kind}/{change.resource.name}"
        if isinstance(resource, Volume) and change.what != "unchanged":
            limit = storage_limit(resource.project, changed)
            if limit:
                raise Rejected("quota.volume", subject, **limit.values)
        if isinstance(resource, Job) and change.what == "create" and not resource.spec.sweep:
            want, books = want_of(resource), Books(changed, are_empty=True)
            stocks = memo.ground(changed).layout.stocks
            never = books.narrow(resource.project, want.ask, want.nodes, stocks)
            if isinstance(never, Limit) and never.what != "krw":
                raise Rejected("quota.never", subject, **never.values)
