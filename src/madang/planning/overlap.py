"""Who takes over from whom: a quota has room for the successor while the other one still serves.

One serves elsewhere before the other lets go: where something moves, where a node is emptied, and
from revision to revision. In a quota that is full the successor may have what its predecessor has,
beyond it and for so long; nobody else may, and no second one at the same time. One that has failed
counts like everything else, so that no limit is passed for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from madang.planning.leaving import LEAVING, leaving_first
from madang.planning.snapshot import Snapshot
from madang.resources.replica import Replica, ReplicaPhase
from madang.resources.resource import Ref

P = ReplicaPhase
TO_COME = frozenset({P.WAITING, P.BACKING_OFF})
ON_ITS_WAY = frozenset({P.STARTING, P.VERIFYING})


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Of all that takes over from something that is still there."""

    before: Mapping[str, Replica] = field(default_factory=dict)
    """By uid of what has nothing yet: from whom it is to take over."""
    relieved: Mapping[str, bool] = field(default_factory=dict)
    """By uid of those from whom somebody takes over who has a place: whether they are replaced by a
    revision that serves. Who has moved is let go of for that anyway."""


def overlaps(snapshot: Snapshot) -> Overlaps:
    """Find them; those of one service leave in the order in which it lets them go."""
    before: dict[str, Replica] = {}
    relieved: dict[str, bool] = {}
    for old, new in _pairs(snapshot):
        coming = sum(r.status.phase in ON_ITS_WAY for r in new)
        serves = any(r.status.phase is P.READY for r in new)
        has_moved = new[0].spec.replaces == old[0].name
        for place, replica in enumerate(old):
            if place < coming or serves:
                relieved[replica.uid] = place >= coming and not has_moved
        for replica in new:
            if replica.status.phase in TO_COME and not replica.status.accelerators:
                before[replica.uid] = old[0]
    return Overlaps(before, relieved)


def _pairs(snapshot: Snapshot) -> Iterator[tuple[list[Replica], list[Replica]]]:
    """Return those that have something and are to leave, and those that take over from them."""
    staying = [r for r in snapshot.replicas.values() if r.status.phase not in LEAVING]
    older: dict[Ref, list[Replica]] = {}
    newest: dict[Ref, list[Replica]] = {}
    for replica in sorted(staying, key=lambda r: r.ref):
        service = snapshot.services.get(replica.service)
        left = snapshot.replicas.get(Ref(replica.project, replica.spec.replaces))
        if service is None or service.deleted_at is not None:
            continue
        if replica.spec.revision != service.status.revision:
            if replica.status.phase is P.READY:
                older.setdefault(service.ref, []).append(replica)
        elif left is None or left.spec.revision != replica.spec.revision:
            newest.setdefault(service.ref, []).append(replica)
        elif left.status.accelerators and left.status.phase not in LEAVING:
            yield [left], [replica]
    for ref, replicas in older.items():
        if ref in newest:
            yield leaving_first(replicas), newest[ref]
