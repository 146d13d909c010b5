"""What applying some manifests would change, and what would follow from it, before it is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from madang.planning.action import Action, Plan
from madang.planning.plan import plan
from madang.planning.snapshot import Snapshot
from madang.resources.kinds import KINDS
from madang.resources.manifest import Manifest
from madang.resources.quantity import written_size
from madang.resources.replica import Replica
from madang.resources.resource import AnyResource

_IN_THE_OPEN = ("replica.started", "replica.waiting", "replica.draining", "replica.stopping")
"""Actions that say where something goes, why it waits, or what makes way."""


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
    if value is None or value == "":
        return "-"
    return written_size(value) if key == "memory" and isinstance(value, int) else value


def follow(snapshot: Snapshot, changes: Iterable[Change]) -> tuple[Snapshot, Plan]:
    """Return the snapshot with these changes made, and the plan that control would make of it."""
    changed = snapshot.after(c.resource for c in changes if c.what != "unchanged")
    return changed, plan(changed)


def telling(planned: Plan, changes: Sequence[Change]) -> tuple[Action, ...]:
    """Return the actions of a plan that people want to see about these changes."""
    services = {(c.resource.project, c.resource.name) for c in changes}
    return tuple(
        action
        for action in planned.telling()
        if action.verb in _IN_THE_OPEN
        and isinstance(action.subject, Replica)
        and (action.subject.project, action.subject.spec.service) in services
    )
