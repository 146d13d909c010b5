"""What applying some manifests would change, and what would follow from it, before it is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from madang.planning.action import Action, Plan, Verb
from madang.planning.memo import Memo
from madang.planning.plan import plan
from madang.planning.snapshot import Snapshot
from madang.resources.attempt import Attempt
from madang.resources.job import Job
from madang.resources.kinds import KINDS
from madang.resources.manifest import Manifest
from madang.resources.place import Pool, Site
from madang.resources.quantity import written_size
from madang.resources.replica import Replica
from madang.resources.resource import AnyResource, Ref
from madang.resources.service import Service

_IN_THE_OPEN = ("replica.started", "replica.waiting", "replica.draining", "replica.stopping")
"""Actions that say where something goes, why it waits, or what makes way."""
_OF_JOBS = frozenset({Verb.START_ATTEMPT, Verb.HOLD_JOB, Verb.FAIL_JOB, Verb.STOP_ATTEMPT})
"""The same of jobs and their attempts."""

NAMED_MAX = 5
"""So many replicas are named that are in the way."""


@dataclass(frozen=True, slots=True)
class Change:
    """One object that a manifest makes or changes."""

    what: Literal["create", "update", "unchanged"]
    resource: AnyResource
    """As it would be."""
    fields: tuple[str, ...] = ()
    """`key: before -> after`, for an update."""


def wish(manifest: Manifest, snapshot: Snapshot, uid: str) -> Change:
    """Return what this manifest makes of what is there; `uid` is used if it is new."""
    kind = KINDS[manifest.kind]
    before = snapshot.get(kind, manifest.ref)
    if before is None:
        status = kind.model_fields["status"].annotation
        assert status is not None
        made = kind(
            project=manifest.ref.project,
            name=manifest.ref.name,
            uid=uid,
            created_at=snapshot.now,
            spec=manifest.spec,
            status=status(),
        )
        return Change("create", made)
    if before.spec == manifest.spec:
        return Change("unchanged", before)
    after = before.model_copy(update={"spec": manifest.spec, "generation": before.generation + 1})
    old, new = before.spec.model_dump(mode="json"), manifest.spec.model_dump(mode="json")
    return Change("update", after, tuple(_differences(old, new)))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Write what changed as people would, key by key: `needs.memory: 80GB -> 40GB`."""
    for key, after in new.items():
        before = old.get(key)
        if isinstance(after, dict) and isinstance(before, dict):
            yield from _differences(before, after, f"{path}{key}.")
        elif before != after:
            yield f"{path}{key}: {_written(key, before)} -> {_written(key, after)}"


def _written(key: str, value: object) -> object:
    if isinstance(value, int) and key.endswith("memory"):
        return written_size(value)
    written = f"{value:.15g}" if isinstance(value, float) else value
    return "-" if written in (None, "") else written


def follow(
    snapshot: Snapshot, changes: Iterable[Change], memo: Memo | None = None
) -> tuple[Snapshot, Plan]:
    """Return the snapshot with these changes made, and the plan that control would make of it."""
    changed = snapshot.after(c.resource for c in changes if c.what != "unchanged")
    return changed, plan(changed, memo)


@dataclass(frozen=True, slots=True)
class Misplaced:
    """A place that may not be changed so, for what runs there now."""

    subject: str
    by: str
    """The first of them."""
    count: int


def misplaced(changes: Iterable[Change], changed: Snapshot) -> Misplaced | None:
    """Return the first changed place whose site may not hold data that is worked on there."""
    for change in changes:
        place = change.resource
        is_place = change.what == "update" and isinstance(place, Site | Pool)
        there = _too_high(place, changed) if is_place else []
        if there:
            named = ", ".join(f"replica/{r.name} ({r.project})" for r in there[:NAMED_MAX])
            return Misplaced(f"{place.kind}/{place.name}", named, len(there))
    return None


def _too_high(place: AnyResource, snapshot: Snapshot) -> list[Replica]:
    """Return the replicas in that place whose data its site may not hold."""
    is_pool = isinstance(place, Pool)
    pools = [
        pool
        for pool in snapshot.all(Pool).values()
        if place.name == (pool.name if is_pool else pool.spec.site)
    ]
    site = snapshot.get(Site, Ref("", pools[0].spec.site)) if pools else None
    if site is None:
        return []
    inside = {pool.name for pool in pools}
    nodes = {ref.name for ref, node in snapshot.nodes.items() if node.spec.pool in inside}
    higher = {
        ref for ref, revision in snapshot.revisions.items()
        if revision.spec.grade.height > site.spec.grade.height
    }  # fmt: skip
    return [
        replica
        for _, replica in sorted(snapshot.replicas.items())
        if replica.status.accelerators and replica.status.node in nodes
        and replica.revision in higher
    ]  # fmt: skip


def telling(planned: Plan, changes: Sequence[Change]) -> tuple[Action, ...]:
    """Return the actions of a plan that people want to see about these changes.

    A changed place is about everything that starts. A service that can't even be pinned says why.
    """
    services = {c.resource.ref for c in changes if isinstance(c.resource, Service)}
    jobs = {c.resource.ref for c in changes if isinstance(c.resource, Job)}
    is_place = any(isinstance(c.resource, Site | Pool) for c in changes)

    def is_told(action: Action) -> bool:
        subject = action.subject
        if isinstance(subject, Replica):
            own = subject.service in services
            starts = is_place and action.verb is Verb.START_REPLICA
            return starts or (own and action.verb in _IN_THE_OPEN)
        if isinstance(subject, Job | Attempt):
            job = subject.ref if isinstance(subject, Job) else subject.job
            return job in jobs and action.verb in _OF_JOBS
        unpinned = action.verb is Verb.STATUS_SERVICE and action.fix is not None
        return (
            unpinned
            and isinstance(subject, Service)
            and subject.ref in services
            and all(each.status.observed_generation != each.generation for each in action.writes)
        )

    return tuple(filter(is_told, planned.telling()))
