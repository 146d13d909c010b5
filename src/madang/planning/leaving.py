"""Who leaves first when a service has more replicas than it wants."""

from __future__ import annotations

from collections.abc import Sequence

from madang.resources.replica import Replica, ReplicaPhase

LEAVING = frozenset({ReplicaPhase.DRAINING, ReplicaPhase.STOPPING})


def leaving_first(replicas: Sequence[Replica]) -> list[Replica]:
    """Return replicas of one revision, in the order in which they are let go.

    First those that don't serve, then the youngest: the one with the highest serial number.
    """
    return sorted(replicas, key=lambda r: (r.status.phase is ReplicaPhase.READY, -serial(r)))


def serial(replica: Replica) -> int:
    """Return the number at the end of its name."""
    return int(replica.name.rpartition("-")[2])
